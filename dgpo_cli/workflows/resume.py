"""Whether a run folder can be gone on with, and from where."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from dgpo_cli.config.dump import dump_toml
from dgpo_cli.config.explain import shown
from dgpo_cli.config.load import Resolved, resolve
from dgpo_cli.errors import CheckpointError, ConfigError
from dgpo_cli.models.checkpoint import load_state
from dgpo_cli.workflows.run_folder import RunFolder

Resume = Literal["auto", "never", "must"]
OnEvent = Callable[[str], None]

# Settings that a run cannot change between its parts: the weights, the reference or the
# optimiser's state would differ.
_FIXED = ("seed", "model", "adapter", "optim.kind")
# Settings that move no number of the run.
_FREE = ("train", "eval", "track")


def refuse_nothing_there(folder: RunFolder, *, resume: Resume) -> None:
    """Raise CheckpointError for `resume` "must" before a folder is made that is not there."""
    if resume == "must" and not folder.path.exists():
        raise _no_checkpoint(folder)


def _no_checkpoint(folder: RunFolder) -> CheckpointError:
    return CheckpointError(
        f"--resume must: no checkpoint in {folder.path}; leave it out to start there"
    )


def starting_point(
    folder: RunFolder, *, resolved: Resolved, resume: Resume, on_event: OnEvent
) -> Path | None:
    """Return the checkpoint to go on from, None to start at step 0."""
    found = folder.checkpoints()
    if resume == "never":
        if folder.metrics_file.exists():
            raise ConfigError(
                f"--resume never: {folder.path} already holds a run; "
                "give another --out, or --resume auto to go on with it"
            )
        return None
    if not found:
        if resume == "must":
            raise _no_checkpoint(folder)
        return None
    _compare_settings(folder, resolved=resolved, on_event=on_event)
    state = load_state(found[-1])
    if state.step > resolved.settings.train.steps:
        raise ConfigError(
            f"{folder.path} is at step {state.step}, train.steps={resolved.settings.train.steps} "
            "is fewer; raise it or give another --out"
        )
    return found[-1]


def _compare_settings(folder: RunFolder, *, resolved: Resolved, on_event: OnEvent) -> None:
    """Refuse to resume another run; name every setting that has changed."""
    try:
        # Resolved again: settings that came in a later version have their defaults, which is what
        # the run did.
        before = _flat(tomllib.loads(dump_toml(resolve(config=folder.settings_file))))
    except ConfigError as error:
        raise CheckpointError(f"{folder.settings_file}: cannot be read: {error}") from error
    now = _flat(tomllib.loads(dump_toml(resolved)))
    for key in sorted(before.keys() | now.keys()):
        old, new = before.get(key), now.get(key)
        section = key.split(".")[0]
        if old == new or section in _FREE:
            continue
        if section in _FIXED or key in _FIXED:
            raise ConfigError(
                f"{key}={_said(new)}: the run in {folder.path} has {_said(old)}; "
                "give another --out to start a new run"
            )
        on_event(f"{key} was {_said(old)} until here, now {_said(new)}")


def _said(value: object) -> str:
    """Return a value as it would be set."""
    return "unset" if value is None else shown(value)


def _flat(tree: dict[str, Any], *, prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= _flat(value, prefix=f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
