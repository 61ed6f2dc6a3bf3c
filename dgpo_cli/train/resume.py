"""Decides if the run in a folder can resume, from which checkpoint and with which settings."""

from __future__ import annotations

import shutil
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dgpo_cli.config.changes import SettingDifference, differences, parts_of, value_text
from dgpo_cli.config.layers import Layer
from dgpo_cli.config.load import Resolved, layered, resolve
from dgpo_cli.config.settings import Settings
from dgpo_cli.core.errors import CheckpointError, ConfigError, NoCheckpointError
from dgpo_cli.core.events import NOBODY, Observer, tell
from dgpo_cli.core.schema import Change
from dgpo_cli.runs.history import CODE, code_differences
from dgpo_cli.runs.run_folder import (
    RunFolder,
    check_run_checkpoint,
    check_state,
    other_checkpoints,
    step_of,
)
from dgpo_cli.train.data import pin_data

Resume = Literal["auto", "never", "must"] | int  # a number: the step of a checkpoint
DAMAGED = ".damaged"  # added to the name of a checkpoint that is set aside
_STORED = Layer("the run, which began with it", {"model": {"compute": "stored"}})
_NEWEST = 10  # lines of metrics that are read: the last one may be broken


@dataclass(frozen=True, slots=True)
class Standing:
    """A command and the run in its folder, if there is one.

    resolved: the command's settings with the commit of the hub's data. found: how they differ from
    those of the run. done: nothing is left to do.
    """

    resolved: Resolved
    found: tuple[SettingDifference, ...]
    done: bool


def standing_of(
    folder: RunFolder,
    *,
    resolved: Resolved,
    resume: Resume,
    allow_change: bool,
    observer: Observer,
) -> Standing:
    """Check if and how the run in `folder` can resume; write nothing.

    Raises:
        CheckpointError, ConfigError: as `check_folder`.
        BackendError: the hub does not give the commit of its data.
    """
    resolved = pin_data(resolved, folder=folder, observer=observer)
    resolved = _as_it_computed(resolved, folder=folder, resume=resume, observer=observer)
    found = check_folder(folder, resolved=resolved, resume=resume, allow_change=allow_change)
    done = is_done(folder, settings=resolved.settings, resume=resume)
    return Standing(resolved, found, done)


def check_folder(
    folder: RunFolder, *, resolved: Resolved, resume: Resume, allow_change: bool
) -> tuple[SettingDifference, ...]:
    """Return how the settings differ from those of the run in `folder`; write nothing.

    allow_change: settings that affect what is learnt may differ.

    Raises:
        CheckpointError: the checkpoint that `resume` asks for is not there or of another step, or
            the run's settings cannot be read.
        UnreadableError: the system does not let us read a checkpoint.
        ConfigError: `resume` is "never" and there is a run, or the settings are another run's.
    """
    checkpoints = folder.checkpoints()
    if resume not in ("auto", "never") and not checkpoints:
        raise NoCheckpointError(
            f"--resume {resume}: no checkpoint in {folder.path}; leave --resume out to start a run"
        )
    if resume == "never" and folder.metrics_file.exists():
        raise ConfigError(
            f"--resume never: {folder.path} already holds a run; "
            "give another --out, or --resume auto to resume it"
        )
    if resume == "never" or not (checkpoints or folder.has_lines()):
        return ()
    step = _step_reached(folder, resume=resume)
    total = resolved.settings.train.steps
    if step > total:
        raise ConfigError(
            f"{folder.path} is at step {step}, beyond train.steps={total}; raise it or give "
            "another --out"
        )
    found = differences(_stored(folder), resolved)
    found += tuple(code_differences(folder.code(), resolved.settings))
    lines = list(_refusal(folder, found, step=step, total=total, allow_change=allow_change))
    if lines:
        raise ConfigError("\n".join(lines))
    return found


def _step_reached(folder: RunFolder, *, resume: Resume) -> int:
    """Return the step to resume at, from the counters of the checkpoints and not their names.

    The other files are checked once the folder is locked.
    """
    if isinstance(resume, int):
        return check_state(_chosen(folder, step=resume)).step
    for checkpoint in reversed(folder.checkpoints()):
        with suppress(CheckpointError):  # it will be set aside
            return check_state(checkpoint).step
    return 0


def _stored(folder: RunFolder) -> Resolved:
    """Return the settings of the run in a folder.

    Settings of later versions have their defaults, which is what the run did, but for
    model.compute: before that setting, matrix products were as `stored`.
    """
    try:
        found = resolve(config=folder.settings_file, run_code=False)
    except ConfigError as error:
        raise CheckpointError(f"{folder.settings_file}: cannot be read: {error}") from error
    if "compute" in tomllib.loads(folder.settings_file.read_text()).get("model", {}):
        return found
    return layered(found, _STORED)


def _as_it_computed(
    resolved: Resolved, *, folder: RunFolder, resume: Resume, observer: Observer
) -> Resolved:
    """Return the settings with the run's model.compute, if the command leaves it to dgpo.

    A run of a version without that setting would compute in another dtype from here on.
    """
    begun = bool(folder.checkpoints() or folder.has_lines()) and resume != "never"
    if resolved.settings.model.compute != "auto" or not begun:
        return resolved
    if _stored(folder).settings.model.compute != "stored":
        return resolved
    tell(observer, "model.compute: stored, with which the run began")
    return layered(resolved, _STORED)


def _refusal(
    folder: RunFolder,
    found: Sequence[SettingDifference],
    *,
    step: int,
    total: int,
    allow_change: bool,
) -> Iterator[str]:
    """Yield the reasons why these settings cannot resume the run, a line each, then the fix."""
    fixed = [each for each in found if each.change == Change.FIXED and step > 0]
    learnt = [each for each in found if each.change != Change.FREE]
    done = step == total
    if not learnt or (allow_change and not fixed and not done):
        return
    begin = "give another --out to start a new run, or --allow-change"
    files = [each.setting.partition(CODE)[2] for each in learnt]
    if all(files) and not done:
        have = "has" if len(files) == 1 else "have"
        yield (
            f"{', '.join(files)}: {have} changed since {folder.path} began with it; {begin} to "
            f"continue this one with it from step {step + 1}"
        )
        return
    for each in learnt:
        for name, old, new in parts_of(each.setting, each.old, each.new):
            yield f"{name}: {value_text(old)} in {folder.path}, now {value_text(new)}"
    if fixed:
        names = ", ".join(each.setting for each in fixed)
        yield (
            f"{names} cannot change within a run, because its checkpoints depend on it; give "
            "another --out to start a new run"
        )
        return
    if done:
        yield (
            f"{folder.path} is finished (all {total} steps), and its settings differ: "
            f"{begin} --set train.steps={2 * total} to continue this one with the new settings"
        )
    elif step:
        yield (
            f"{folder.path} is at step {step}, and its settings differ: {begin} to continue "
            f"this one with the new settings from step {step + 1}"
        )
    else:
        yield (
            f"{folder.path} has no checkpoint yet: {begin} to start this one over with the new "
            "settings"
        )


def is_done(folder: RunFolder, *, settings: Settings, resume: Resume) -> bool:
    """Whether no step and no due evaluation is left.

    A damaged last checkpoint is work: its steps are done again.
    """
    found = [_chosen(folder, step=resume)] if isinstance(resume, int) else folder.checkpoints()
    if not found or step_of(found[-1]) != settings.train.steps or folder.is_held():
        return False
    try:
        check_run_checkpoint(found[-1], observer=NOBODY)
    except CheckpointError:
        return False
    step, stored = settings.train.steps, _stored(folder).settings
    every = stored.eval.every if settings.eval.every else 0
    if not every or (step % every and step < stored.train.steps):
        return True
    return any(line["step"] == step for line in folder.read_evals())


def starting_point(
    folder: RunFolder, *, resume: Resume, found: Sequence[SettingDifference], observer: Observer
) -> Path | None:
    """Return the checkpoint to resume from, None to start at step 0; note the settings that differ.

    It is the one that `resume` names, or the newest undamaged one; newer, damaged ones are set
    aside.

    Raises:
        CheckpointError: the named one is damaged, or all are.
        UnreadableError: the system does not let us read one; none is set aside then.
    """
    if resume == "never" or not folder.checkpoints():
        return None
    if isinstance(resume, int):
        checkpoint = _chosen(folder, step=resume)
        _check_chosen(folder, checkpoint, observer=observer)
    else:
        checkpoint = _newest_whole(folder, observer=observer)
    for each in found:
        free = "" if each.learnt else "; this does not affect what is learnt"
        for name, old, new in parts_of(each.setting, each.old, each.new):
            was = f"{name} was {value_text(old)} until here"
            tell(observer, f"{was}, now {value_text(new)}{free}")
    _note_repeated_steps(folder, step=step_of(checkpoint), observer=observer)
    return checkpoint


def _chosen(folder: RunFolder, *, step: int) -> Path:
    """Return the checkpoint of a step, which must exist."""
    checkpoint, found = folder.checkpoint_dir(step), folder.checkpoints()
    if checkpoint not in found:
        have = ", ".join(str(step_of(path)) for path in found)
        raise NoCheckpointError(
            f"--resume {step}: {folder.path} has no checkpoint of that step; there are: {have}"
        )
    return checkpoint


def _check_chosen(folder: RunFolder, checkpoint: Path, *, observer: Observer) -> None:
    """Check that the checkpoint of `--resume STEP` is undamaged; if not, name the others."""
    try:
        check_run_checkpoint(checkpoint, observer=observer)
    except CheckpointError as error:
        found = folder.checkpoints()
        fix = "give another --out to start over"
        if len(found) > 1:
            fix = "give one of them to --resume, or leave it out for the newest undamaged one"
        rest = other_checkpoints(found, without=checkpoint)
        raise CheckpointError(f"{error}; {rest}; {fix}") from error


def _newest_whole(folder: RunFolder, *, observer: Observer) -> Path:
    """Return the newest undamaged checkpoint; set newer, damaged ones aside."""
    damaged: list[tuple[Path, CheckpointError]] = []
    for checkpoint in reversed(folder.checkpoints()):
        try:
            check_run_checkpoint(checkpoint, observer=observer)
        except CheckpointError as error:
            damaged.append((checkpoint, error))
            continue
        for path, reason in damaged:
            aside = path.with_name(path.name + DAMAGED)
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)
            tell(observer, f"{reason}; this checkpoint is not used and is now {aside}")
        return checkpoint
    reasons = "; ".join(str(error) for _, error in damaged)
    raise CheckpointError(
        f"no checkpoint can be resumed from: {reasons}; give another --out to start over"
    )


def _note_repeated_steps(folder: RunFolder, *, step: int, observer: Observer) -> None:
    """Note the finished steps that are done again: those after the checkpoint."""
    lines = folder.metric_ends(first=0, last=_NEWEST)
    last = max((int(line["step"] or 0) for line in lines), default=0)
    if last > step:
        which = f"step {last} is" if last == step + 1 else f"steps {step + 1} to {last} are"
        tell(observer, f"{which} done again, from the checkpoint of step {step}")
