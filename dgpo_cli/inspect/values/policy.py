"""Which policy estimates values, and by which settings it samples and is judged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dgpo_cli.config.layers import Layer, set_layers
from dgpo_cli.config.load import Resolved, layered, resolve
from dgpo_cli.config.settings import Settings
from dgpo_cli.core.errors import CheckpointError, ConfigError, UnreadableError
from dgpo_cli.core.events import Observer, tell
from dgpo_cli.core.types import ValueSource
from dgpo_cli.inspect.request import Models, Values
from dgpo_cli.inspect.values.moves import updates_text
from dgpo_cli.policy.settings import LoraAdapter
from dgpo_cli.runs.history import code_differences, read_changes, resolved_until
from dgpo_cli.runs.rollouts import RolloutLine
from dgpo_cli.runs.run_folder import RunFolder, check_run_checkpoint, check_state, step_of

SETTINGS = "settings.toml"


@dataclass(frozen=True, slots=True)
class ValuePolicy:
    """What samples continuations: settings with its model, and its adapter if it has one."""

    settings: Settings
    adapter: Path | None
    source: ValueSource

    @property
    def sampled_them(self) -> bool:
        """Whether it is the policy that sampled the completions."""
        return self.source.later == 0


def value_policy(
    path: Path,
    lines: Sequence[RolloutLine],
    *,
    asked: Values,
    models: Models,
    observer: Observer,
) -> ValuePolicy:
    """Return the policy that sampled the completions of a file, or the nearest that is kept.

    path: the file of `lines`. models: a given one is taken in its place.

    Raises:
        ConfigError: nothing says which policy, or how answers are judged.
        CheckpointError: the checkpoint is damaged.
    """
    run = run_of(path)
    if run is None and models.model is None:
        raise ConfigError(
            f"--value: {path} is not in a run folder, whose checkpoints could sample; give --model "
            "M, and --reference R or --adapter A"
        )
    resolved = _settings(path, run, lines, overrides=asked.overrides)
    if models.model is not None or run is None:
        return _given(resolved, models, asked=asked)
    for change in code_differences(run.code(), resolved.settings):
        if change.setting.startswith("reward"):
            tell(
                observer,
                f"{change.setting.partition(' ')[2]} has changed since the run began: continuations"
                " are judged by it as it is now",
            )
    return _of_run(run, lines, resolved=resolved, asked=asked, observer=observer)


def run_of(path: Path) -> RunFolder | None:
    """Return the run that a file of rollouts belongs to, if it does."""
    for each in (path, path.resolve()):  # from inside the folder, only the second names it
        run = RunFolder(each.parent.parent)
        if run.settings_file.is_file() and each in run.rollouts():
            return run
    return None


def _settings(
    path: Path, run: RunFolder | None, lines: Sequence[RolloutLine], *, overrides: Sequence[str]
) -> Resolved:
    """Return the settings that sampled the completions, changed by `overrides`."""
    beside = path.parent / SETTINGS if run is None else run.settings_file
    known = beside.is_file()
    if not known and not any(each.startswith("reward.") for each in overrides):
        raise ConfigError(
            f"--value: no {SETTINGS} beside {path} says how its answers are judged; give --set "
            "reward.kind=math, integer or choice"
        )
    resolved = resolve(config=beside if known else None, run_code=False)
    if run is not None:  # its settings may have changed since
        changes = read_changes(run.path)
        resolved = resolved_until(step_of(path), resolved, changes=changes)
    resolved = layered(resolved, Layer(str(path), {"rollout": _sampling(lines)}))
    return layered(resolved, *set_layers(overrides))


def _sampling(lines: Sequence[RolloutLine]) -> dict[str, Any]:
    """Return the temperature that the lines record: settings may have changed since."""
    found = {line.temperature for line in lines}
    if len(found) > 1:
        raise ConfigError(
            f"--value: completions sampled at temperatures {sorted(found)}; choose some of one "
            "with --group and --sample"
        )
    return {"temperature": found.pop()}


def _given(resolved: Resolved, models: Models, *, asked: Values) -> ValuePolicy:
    """Return the policy of --model and --adapter."""
    resolved = layered(resolved, Layer("--model", {"model": {"path": models.model}}))
    name = f"{models.model} with the adapter {models.adapter}" if models.adapter else models.model
    source = ValueSource(asked.continuations, str(name))
    return ValuePolicy(resolved.settings, models.adapter, source)


def _of_run(
    run: RunFolder,
    lines: Sequence[RolloutLine],
    *,
    resolved: Resolved,
    asked: Values,
    observer: Observer,
) -> ValuePolicy:
    """Return the policy of a run that sampled the lines, or the nearest."""
    versions = Counter(line.completion.policy_version for line in lines)
    version = versions.most_common(1)[0][0]
    checkpoint, found = _nearest(run, version=version)
    later: int | None = found - version
    name = "the initial model"
    if checkpoint is not None:
        check_run_checkpoint(checkpoint, observer=observer, optimizer=False)
        name = f"step {step_of(checkpoint)}"
    if later:
        tell(
            observer,
            "the policy that sampled these completions is not kept; values are of the nearest, "
            f"{name}, {updates_text(later)}",
        )
    if len(versions) > 1:  # dynamic sampling keeps groups for the next step
        tell(
            observer,
            f"{len(versions)} versions of the policy sampled these completions; values of all are "
            f"of {name}",
        )
        later = None
    if _samples_otherwise(asked.overrides):
        later = None
    source = ValueSource(asked.continuations, str(checkpoint or name), later)
    if checkpoint is None:
        return ValuePolicy(resolved.settings, None, source)
    if isinstance(resolved.settings.adapter, LoraAdapter):
        return ValuePolicy(resolved.settings, checkpoint, source)
    model = Layer(str(run.path), {"model": {"path": str(checkpoint)}})
    return ValuePolicy(layered(resolved, model).settings, None, source)


def _samples_otherwise(overrides: Sequence[str]) -> bool:
    """Whether settings make another policy of the weights that sampled the completions."""
    from dgpo_cli.engine.values.store import SAMPLED

    names = {each.partition("=")[0].strip() for each in overrides}
    return not names.isdisjoint(f"rollout.{name}" for name in SAMPLED)


def _nearest(run: RunFolder, *, version: int) -> tuple[Path | None, int]:
    """Return the checkpoint with the nearest number of updates and that number; None, 0: the
    initial model."""
    found: list[tuple[Path | None, int]] = [(None, 0)]
    for checkpoint in run.checkpoints():
        try:
            found.append((checkpoint, check_state(checkpoint).policy_version))
        except (CheckpointError, UnreadableError):
            continue  # try the others
    return min(found, key=lambda each: abs(each[1] - version))
