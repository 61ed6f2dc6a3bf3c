"""A run folder: its lock, settings, metrics, rollouts and checkpoints.

settings.toml     the resolved settings
metrics.jsonl     a line a step
rollouts/         step-000010.jsonl, with the statistics of every token
changes.jsonl     a line for each setting that what is learnt depends on and that was changed
                  on the way; see history.py
evals.jsonl       a line an evaluation during training
evals/            step-000010/, the folder of each: card, samples, report
checkpoints/      step-000050/, complete or absent
bad_batches/      batches whose loss or gradient was not finite
trackers.json     the id of the run with each tracker, and how far it was told
tensorboard/, wandb/   what those trackers write
run.lock          who holds the folder
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dgpo_cli.errors import CheckpointError, ConfigError, RunFolderBusy
from dgpo_cli.models.checkpoint import atomic_text
from dgpo_cli.types import StepMetrics

_STEP = re.compile(r"step-(\d{6,})(\.jsonl)?")
_BLOCK = 1 << 16  # bytes read at once from the end of a file


class RunFolder:
    """The files of one run. Only the holder of the lock writes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.settings_file = path / "settings.toml"
        self.metrics_file = path / "metrics.jsonl"
        self.tokenizer_dir = path / "tokenizer"
        self.rollouts_dir = path / "rollouts"
        self.evals_file = path / "evals.jsonl"
        self.evals_dir = path / "evals"
        self.checkpoints_dir = path / "checkpoints"
        self.bad_batches_dir = path / "bad_batches"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder for this process; the system lets go when the process ends.

        Raises:
            RunFolderBusy: another process holds it; the message says which.
            ConfigError: the folder cannot be made.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            file = (self.path / "run.lock").open("a+", encoding="utf-8")
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise ConfigError(
                f"--out {self.path}: {reason}; give a folder that can be made and written"
            ) from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                holder = file.read().strip() or "another process"
                raise RunFolderBusy(f"{self.path} is in use by {holder}") from None
            file.truncate(0)
            started = time.strftime("%Y-%m-%d %H:%M:%S")
            file.write(f"process {os.getpid()} on {socket.gethostname()}, since {started}\n")
            file.flush()
            yield

    def is_held(self) -> bool:
        """Whether a process holds the folder. The lock is asked for and let go at once."""
        try:
            with (self.path / "run.lock").open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return False
        except BlockingIOError:
            return True
        except OSError:
            return False

    def has_lines(self) -> bool:
        """Whether a step or an evaluation was finished, with or without a checkpoint after it."""
        files = (self.metrics_file, self.evals_file)
        return any(path.exists() and path.stat().st_size > 0 for path in files)

    def checkpoints(self) -> list[Path]:
        """Return the complete checkpoints, oldest first."""
        return _numbered(self.checkpoints_dir)

    def rollouts(self) -> list[Path]:
        """Return the files of rollouts, oldest first."""
        return _numbered(self.rollouts_dir)

    def checkpoint_dir(self, step: int) -> Path:
        return self.checkpoints_dir / f"step-{step:06d}"

    def rollout_file(self, step: int) -> Path:
        return self.rollouts_dir / f"step-{step:06d}.jsonl"

    def write_metrics(self, step: int, metrics: StepMetrics) -> None:
        """Append the line of one step; what is not finite is written as null."""
        _append(self.metrics_file, {"step": step, **metrics})

    def read_metrics(self) -> list[dict[str, float | None]]:
        """Return the lines of metrics.jsonl; a last line cut short by a kill is left out."""
        if not self.metrics_file.exists():
            return []
        return _read_lines(self.metrics_file)

    def metric_ends(self, *, first: int, last: int) -> list[dict[str, float | None]]:
        """Return the first and the last lines of metrics.jsonl, however many lie between them.

        A file with no more lines than that is returned whole, none of it twice. What is broken
        other than by a kill in the last line is left to `read_metrics` to complain about.
        """
        if not self.metrics_file.exists():
            return []
        found = []
        for line in _ends(self.metrics_file, first=first, last=last):
            with suppress(ValueError):
                found.append(json.loads(line))
        return found

    def eval_dir(self, step: int) -> Path:
        return self.evals_dir / f"step-{step:06d}"

    def write_eval(self, step: int, values: dict[str, Any]) -> None:
        """Append the line of the evaluation after `step` steps."""
        _append(self.evals_file, {"step": step, **values})

    def read_evals(self) -> list[dict[str, Any]]:
        """Return the lines of evals.jsonl, oldest first."""
        return _read_lines(self.evals_file) if self.evals_file.exists() else []

    def forget_after(self, step: int) -> None:
        """Drop what was written after `step` finished steps: those steps are done again."""
        kept = [line for line in self.read_metrics() if (line["step"] or 0) <= step]
        with atomic_text(self.metrics_file) as file:
            file.writelines(json.dumps(line) + "\n" for line in kept)
        if self.evals_file.exists():
            lines = [line for line in self.read_evals() if line["step"] <= step]
            with atomic_text(self.evals_file) as file:
                file.writelines(json.dumps(line) + "\n" for line in lines)
        for path in [*self.rollouts(), *self.checkpoints(), *_numbered(self.evals_dir)]:
            if step_of(path) > step:
                path.unlink() if path.is_file() else shutil.rmtree(path)

    def prune_checkpoints(self, *, keep: int) -> None:
        """Delete all but the newest `keep` checkpoints, and what an interrupted write left."""
        for path in self.checkpoints()[:-keep]:
            shutil.rmtree(path)
        for path in self.checkpoints_dir.glob(".step-*.partial"):
            shutil.rmtree(path, ignore_errors=True)


def step_of(path: Path) -> int:
    """Return the number in step-000050 or step-000050.jsonl; ValueError for other names."""
    match = _STEP.fullmatch(path.name)
    if match is None:
        raise ValueError(f"{path.name}: is not named after a step")
    return int(match[1])


def newest_checkpoint(run: Path) -> Path:
    """Return the newest complete checkpoint of a run folder.

    Raises:
        CheckpointError: there is none.
    """
    found = RunFolder(run).checkpoints()
    if not found:
        raise CheckpointError(f"{run}: no checkpoint in it")
    return found[-1]


def checkpoint_of(run: Path, *, step: int | None) -> Path:
    """Return the checkpoint after `step` steps, or the newest.

    Raises:
        CheckpointError: there is none.
    """
    if step is None:
        return newest_checkpoint(run)
    folder = RunFolder(run)
    path = folder.checkpoint_dir(step)
    if not path.is_dir():
        have = ", ".join(str(step_of(found)) for found in folder.checkpoints()) or "none"
        raise CheckpointError(f"{run}: no checkpoint of step {step}; there are: {have}")
    return path


def newest_run(root: Path) -> Path | None:
    """Return the run folder under `root` that was written to last."""
    runs = [path.parent for path in root.glob("*/metrics.jsonl")]
    return max(runs, key=lambda run: (run / "metrics.jsonl").stat().st_mtime, default=None)


def _append(path: Path, values: Mapping[str, Any]) -> None:
    line = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in values.items()
    }
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def _read_lines(path: Path) -> list[dict[str, Any]]:
    """Read JSON lines; a last one cut short by a kill is left out."""
    lines = path.read_text(encoding="utf-8").splitlines()
    found = []
    for number, line in enumerate(lines, start=1):
        try:
            found.append(json.loads(line))
        except ValueError:
            if number < len(lines):
                raise CheckpointError(f"{path}:{number}: not JSON") from None
    return found


def readable_lines(path: Path) -> tuple[list[dict[str, Any]], list[int]]:
    """Return the lines of a file that hold a step, and the numbers of those that should and do not.

    Without the file there is none of either; a last line cut short by a kill is left out.
    """
    if not path.exists():
        return [], []
    *lines, cut = path.read_bytes().split(b"\n")
    found, broken = [], []
    for number, line in enumerate([*lines, cut], start=1):
        try:
            values = json.loads(line)
        except ValueError:
            values = None
        if isinstance(values, dict) and _is_number(values.get("step")):
            found.append(values)
        elif line.strip() and number <= len(lines):
            broken.append(number)
    return found, broken


def _is_number(value: Any) -> bool:
    known = isinstance(value, int | float) and not isinstance(value, bool)
    return known and math.isfinite(value)


def _ends(path: Path, *, first: int, last: int) -> list[bytes]:
    """Return the first and the last lines of a file, read from both of its ends."""
    with path.open("rb") as file:
        head = [line for line in (file.readline() for _ in range(first)) if line]
        begin, at = file.tell(), file.seek(0, os.SEEK_END)
        tail = b""
        while at > begin and tail.count(b"\n") <= last:  # one more: the first may be half a line
            size = min(_BLOCK, at - begin)
            at = file.seek(at - size)
            tail = file.read(size) + tail
    return head + tail.splitlines()[-last:]


def _numbered(folder: Path) -> list[Path]:
    found = [p for p in folder.glob("step-*") if _STEP.fullmatch(p.name)]
    return sorted(found, key=step_of)
