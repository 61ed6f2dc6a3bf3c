"""A run folder: its lock, settings, metrics, rollouts and checkpoints.

settings.toml     the resolved settings
metrics.jsonl     a line a step; metrics.jsonl.bad has the broken ones of an earlier part
rollouts/         step-000010.jsonl, with the statistics of every token
changes.jsonl     a line for each setting that changed within the run; see history.py
evals.jsonl       a line an evaluation during training
evals/            step-000010/, the folder of each: card, samples, report
checkpoints/      step-000050/, complete or absent; step-000050.damaged/ was set aside
bad_batches/      batches whose loss or gradient was not finite
trackers.json     the id of the run with each tracker, and the last step that it got
tensorboard/, wandb/   what those trackers write
ranks/            rank-00003.log, the output of each rank but the first
run.lock          who holds the folder
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

from dgpo_cli.config.layers import parse_toml
from dgpo_cli.core import io
from dgpo_cli.core.errors import CheckpointError, DgpoError, NoCheckpointError
from dgpo_cli.core.events import Observer, tell
from dgpo_cli.core.formats import EVAL, TrainerState
from dgpo_cli.core.types import StepMetrics
from dgpo_cli.engine.checkpoint import check_checkpoint, load_state
from dgpo_cli.runs.step_lines import Line, StepLines, missing_notes, number_of

_STEP = re.compile(r"step-(\d{6,})(\.jsonl)?")


class RunFolder:
    """The files of one run. Only the holder of the lock writes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.settings_file = path / "settings.toml"
        self.reward_log = path / "reward.log"  # what reward functions of the user's print
        self.metrics_file = path / "metrics.jsonl"
        self.metrics = StepLines(self.metrics_file, what="metrics", last=self._last_step)
        self.tokenizer_dir = path / "tokenizer"
        self.rollouts_dir = path / "rollouts"
        self.evals_file = path / "evals.jsonl"
        self.evals = StepLines(
            self.evals_file,
            what="evaluations",
            beside="bench",
            is_whole=EVAL.fits,
            last=self._last_step,
        )
        self.evals_dir = path / "evals"
        self.checkpoints_dir = path / "checkpoints"
        self.bad_batches_dir = path / "bad_batches"

    def lock(self) -> AbstractContextManager[None]:
        """Lock the folder for this process, as `io.locked` does."""
        return io.locked(self.path)

    def is_held(self) -> bool:
        """Whether a process holds the folder."""
        return io.is_locked(self.path)

    def has_lines(self) -> bool:
        """Whether a step or an evaluation was finished, with or without a checkpoint after it."""
        files = (self.metrics_file, self.evals_file)
        return any(path.exists() and path.stat().st_size > 0 for path in files)

    def begun_settings(self) -> Path | None:
        """Return the file of the settings of the run that has begun here, if there is one."""
        begun = self.checkpoints() or self.has_lines()
        return self.settings_file if begun and self.settings_file.is_file() else None

    def checkpoints(self) -> list[Path]:
        """Return the complete checkpoints, oldest first."""
        return _numbered(self.checkpoints_dir)

    def _last_step(self) -> int | None:
        """Return the last step that a line can have; None if the settings cannot be read."""
        total = self._stored("steps")
        if total is None:
            return None
        return max([total, *map(step_of, self.checkpoints()[-1:])])

    def _stored(self, name: str) -> int | None:
        """Return a number of the run's `train` settings; None if they cannot be read."""
        try:
            found = parse_toml(self.settings_file.read_text(encoding="utf-8"))["train"][name]
        except (OSError, ValueError, LookupError, TypeError, RecursionError):
            return None
        return found if type(found) is int else None

    def code(self) -> dict[str, str]:
        """Return the sha256 of the user's own code that the run last started with, by file."""
        try:
            found = parse_toml(self.settings_file.read_text(encoding="utf-8")).get("code", {})
        except (OSError, ValueError, RecursionError):
            return {}
        return {str(name): str(digest) for name, digest in found.items()}

    def rollouts(self) -> list[Path]:
        """Return the files of rollouts, oldest first."""
        return _numbered(self.rollouts_dir)

    def checkpoint_dir(self, step: int) -> Path:
        return self.checkpoints_dir / f"step-{step:06d}"

    def rollout_file(self, step: int) -> Path:
        return self.rollouts_dir / f"step-{step:06d}.jsonl"

    def write_metrics(self, step: int, metrics: StepMetrics) -> None:
        """Append the line of one step; what is not finite is written as null."""
        self.metrics.append(step, metrics)

    def read_metrics(self) -> list[dict[str, float | None]]:
        """Return the metrics of every step, in order; broken lines are skipped."""
        return [_numbers(line) for line in self.metrics.read().lines]

    def metric_ends(self, *, first: int, last: int) -> list[dict[str, float | None]]:
        """Return the first and the last lines of metrics.jsonl without reading the others."""
        return [_numbers(line) for line in self.metrics.ends(first=first, last=last)]

    def eval_dir(self, step: int) -> Path:
        return self.evals_dir / f"step-{step:06d}"

    def write_eval(self, step: int, values: dict[str, Any]) -> None:
        """Append the line of the evaluation after `step` steps."""
        self.evals.append(step, values)

    def read_evals(self) -> list[dict[str, Any]]:
        """Return the lines of evals.jsonl, oldest first; broken lines are skipped."""
        return list(self.evals.read().lines)

    def sync(self) -> None:
        """Flush metrics and evaluations to the disk, before a checkpoint relies on them."""
        self.metrics.sync()
        self.evals.sync()

    def forget_after(self, step: int) -> list[str]:
        """Drop what was written after `step` finished steps: those steps are done again.

        Returns:
            Notes on broken, repeated and missing lines of the rest.
        """
        notes = [*self.metrics.cut(step), *self.evals.cut(step)]
        there = [line["step"] for line in self.metrics.read().lines]
        notes += missing_notes(self.metrics.what, there, last=step)
        for path in [*self.rollouts(), *self.checkpoints(), *_numbered(self.evals_dir)]:
            if step_of(path) > step:
                path.unlink() if path.is_file() else shutil.rmtree(path)
        return notes

    def prune_checkpoints(self, *, keep: int) -> None:
        """Delete all but the newest `keep` checkpoints, and the remains of interrupted writes."""
        for path in self.checkpoints()[:-keep]:
            shutil.rmtree(path)
        io.remove_partial(self.checkpoints_dir, "step-*")

    def finish_pruning(self) -> None:
        """Delete the checkpoints that a run, killed right after its last one, has left too many.

        A folder that is in use, or cannot be written, stays as it is.
        """
        keep = self._stored("keep_checkpoints")
        if keep is None or len(self.checkpoints()) <= keep:
            return
        with suppress(DgpoError, OSError), self.lock():
            self.prune_checkpoints(keep=keep)


def step_of(path: Path) -> int:
    """Return the number in step-000050 or step-000050.jsonl; ValueError for other names."""
    match = _STEP.fullmatch(path.name)
    if match is None:
        raise ValueError(f"{path.name}: not named after a step")
    return int(match[1])


def check_state(checkpoint: Path) -> TrainerState:
    """Read the counters of a run's checkpoint.

    Raises:
        CheckpointError: they cannot be read, or are of another step than the folder's name.
    """
    state = load_state(checkpoint)
    if state.step != step_of(checkpoint):
        raise CheckpointError(f"{checkpoint}: its state.json is of step {state.step}")
    return state


def check_run_checkpoint(
    checkpoint: Path, *, observer: Observer, optimizer: bool = True
) -> TrainerState:
    """Check that a run's checkpoint is as it was written; return its counters.

    optimizer: read the optimiser's state too.

    Raises:
        CheckpointError: a file is missing, truncated or changed; the message names it.
        UnreadableError: the system does not let us read one.
    """
    state = check_state(checkpoint)
    if not check_checkpoint(checkpoint, optimizer=optimizer):
        tell(
            observer,
            f"{checkpoint}: written by an earlier version, without checksums; changed weights "
            "would not be noticed",
        )
    return state


def checkpoint_to_load(run: Path, *, step: int | None, observer: Observer) -> Path:
    """Return the checkpoint after `step` steps, or the newest, if its weights are as written.

    Raises:
        CheckpointError: there is none, or it is damaged.
        UnreadableError: the system does not let us read it.
    """
    folder = RunFolder(run)
    found = folder.checkpoints()
    if not found:
        raise NoCheckpointError(f"{run}: no checkpoint in it")
    path = found[-1] if step is None else folder.checkpoint_dir(step)
    if path not in found:
        raise NoCheckpointError(
            f"{run}: no checkpoint of step {step}; there are: {', '.join(_steps(found))}"
        )
    try:
        check_run_checkpoint(path, observer=observer, optimizer=False)
    except CheckpointError as error:
        rest = other_checkpoints(found, without=path)
        if len(found) > 1:
            rest += "; dgpo train resumes from the newest undamaged one"
        raise CheckpointError(f"{error}; {rest}") from error
    return path


def other_checkpoints(found: Sequence[Path], *, without: Path) -> str:
    """Return a text that names the other checkpoints of a run."""
    others = _steps([path for path in found if path != without])
    if not others:
        return "the run has no other checkpoint"
    return f"the run also has step{'s' if len(others) > 1 else ''} {', '.join(others)}"


def _steps(checkpoints: Sequence[Path]) -> list[str]:
    return [str(step_of(path)) for path in checkpoints]


def newest_run(root: Path) -> Path | None:
    """Return the run folder under `root` that was written to last."""
    runs = [path.parent for path in root.glob("*/metrics.jsonl")]
    return max(runs, key=lambda run: (run / "metrics.jsonl").stat().st_mtime, default=None)


def names_of(folders: Sequence[Path]) -> list[str]:
    """Return the folders' names, with as many parents as they need to differ."""
    parts = [folder.absolute().parts for folder in folders]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(each[-depth:]) for each in parts]
        if len(set(names)) == len(names):
            return names
    return [str(folder) for folder in folders]


def _numbers(line: Line) -> dict[str, float | None]:
    return {name: number_of(value) for name, value in line.items()} | {"step": line["step"]}


def _numbered(folder: Path) -> list[Path]:
    """Return the entries named after a step. Raises OSError if the folder cannot be listed."""
    try:
        names = os.listdir(folder)  # glob takes an unreadable folder for an empty one
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted((folder / name for name in names if _STEP.fullmatch(name)), key=step_of)
