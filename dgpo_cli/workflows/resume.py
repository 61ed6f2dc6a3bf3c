"""Whether a run folder can be gone on with, from where, and under which settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

from dgpo_cli.config.changes import Difference, differences, value_text
from dgpo_cli.config.load import Resolved, resolve
from dgpo_cli.config.settings import Settings
from dgpo_cli.errors import CheckpointError, ConfigError
from dgpo_cli.schema import Change
from dgpo_cli.workflows.run_folder import RunFolder, step_of

Resume = Literal["auto", "never", "must"]
OnEvent = Callable[[str], None]


def check_folder(
    folder: RunFolder, *, resolved: Resolved, resume: Resume, allow_change: bool
) -> tuple[Difference, ...]:
    """Return how the settings differ from those of the run in `folder`; writes nothing.

    allow_change: whether settings may differ that what is learnt depends on.

    Raises:
        CheckpointError: `resume` is "must" and there is no checkpoint, or the run's settings
            cannot be read.
        ConfigError: `resume` is "never" and there is a run, or the settings are another run's.
    """
    checkpoints = folder.checkpoints()
    if resume == "must" and not checkpoints:
        raise CheckpointError(
            f"--resume must: no checkpoint in {folder.path}; leave it out to start there"
        )
    if resume == "never" and folder.metrics_file.exists():
        raise ConfigError(
            f"--resume never: {folder.path} already holds a run; "
            "give another --out, or --resume auto to go on with it"
        )
    if resume == "never" or not (checkpoints or folder.has_lines()):
        return ()
    step = step_of(checkpoints[-1]) if checkpoints else 0
    total = resolved.settings.train.steps
    if step > total:
        raise ConfigError(
            f"{folder.path} is at step {step}, train.steps={total} is fewer; raise it or give "
            "another --out"
        )
    found = differences(_stored(folder), resolved)
    lines = list(_refusal(folder, found, step=step, total=total, allow_change=allow_change))
    if lines:
        raise ConfigError("\n".join(lines))
    return found


def _stored(folder: RunFolder) -> Resolved:
    """Return the settings of the run in a folder.

    Settings that came in a later version have their defaults, which is what the run did.
    """
    try:
        return resolve(config=folder.settings_file)
    except ConfigError as error:
        raise CheckpointError(f"{folder.settings_file}: cannot be read: {error}") from error


def _refusal(
    folder: RunFolder, found: Sequence[Difference], *, step: int, total: int, allow_change: bool
) -> Iterator[str]:
    """Yield why these settings cannot go on with the run, a line each and the ways on at last."""
    fixed = [each for each in found if each.change == Change.FIXED and step > 0]
    learnt = [each for each in found if each.change != Change.FREE]
    done = step == total
    if not learnt or (allow_change and not fixed and not done):
        return
    for each in learnt:
        old, new = value_text(each.old), value_text(each.new)
        yield f"{each.setting}: {old} in {folder.path}, now {new}"
    if fixed:
        names = ", ".join(each.setting for each in fixed)
        yield (
            f"a run cannot change {names}: its checkpoints belong to the old value; give another "
            "--out to start a new run"
        )
        return
    begin = "give another --out to start a new run, or --allow-change"
    if done:
        yield (
            f"all {total} steps of {folder.path} are done: {begin} --set train.steps={2 * total} "
            "to go on with this one under the new settings"
        )
    elif step:
        yield (
            f"{folder.path} is at step {step} under the old settings: {begin} to go on with this "
            f"one under the new settings from step {step + 1}"
        )
    else:
        yield (
            f"{folder.path} has no checkpoint yet: {begin} to start this one anew under the new "
            "settings"
        )


def is_done(folder: RunFolder, *, settings: Settings) -> bool:
    """Whether there is nothing left to do: no step, and no evaluation that the run had to do."""
    found = folder.checkpoints()
    if not found or step_of(found[-1]) != settings.train.steps or folder.is_held():
        return False
    step, stored = settings.train.steps, _stored(folder).settings
    every = stored.eval.every if settings.eval.every else 0
    if not every or (step % every and step < stored.train.steps):
        return True
    return any(line["step"] == step for line in folder.read_evals())


def starting_point(
    folder: RunFolder, *, resume: Resume, found: Sequence[Difference], on_event: OnEvent
) -> Path | None:
    """Return the checkpoint to go on from, None to start at step 0; say which settings differ."""
    checkpoints = folder.checkpoints() if resume != "never" else []
    if not checkpoints:
        return None
    for each in found:
        free = "; nothing that is learnt depends on it" if each.change == Change.FREE else ""
        on_event(
            f"{each.setting} was {value_text(each.old)} until here, now "
            f"{value_text(each.new)}{free}"
        )
    return checkpoints[-1]
