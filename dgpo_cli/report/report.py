"""Reads a run folder for `dgpo report`. Needs no model and no torch.

A run may be in progress, killed, resumed, of one step or of an older version: missing parts are
left out, unreadable ones noted. Errors are only a folder that is not a run, and metrics that
cannot be opened: a page without them would show a run without steps.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from dgpo_cli.config.layers import parse_toml
from dgpo_cli.config.settings import Settings
from dgpo_cli.config.tree import flatten, is_list_of_tables, spread
from dgpo_cli.core.errors import ConfigError, DgpoError
from dgpo_cli.core.refusal import shown
from dgpo_cli.core.types import RunRecord, StoredCheckpoint, StoredSetting
from dgpo_cli.diagnosis.history import steps_needed
from dgpo_cli.diagnosis.stored_run import diagnose_run
from dgpo_cli.report.samples import newest_samples
from dgpo_cli.runs.history import change_lines, changes_from
from dgpo_cli.runs.run_folder import RunFolder, names_of, newest_run, step_of
from dgpo_cli.runs.step_lines import (
    LinesFound,
    StepLines,
    lines_named,
    missing_notes,
    number_of,
    repeated_notes,
)

RUNS = Path("runs")
UNSET = "(unset)"  # as --dry-run writes it
T = TypeVar("T")


def run(paths: Sequence[Path], *, with_samples: bool = True) -> tuple[RunRecord, ...]:
    """Read these runs, or the newest under ./runs, and give each a name of its own.

    Raises:
        ConfigError: a path is not a run folder or is given twice, or there is no run.
        DgpoError: the metrics of a run cannot be opened.
    """
    folders = list(paths) or [_newest()]
    seen = [folder.resolve() for folder in folders]
    for at, folder in enumerate(folders):
        if seen[at] in seen[:at]:
            raise ConfigError(f"{folder}: given twice; name different runs")
    names = names_of(folders)
    return tuple(
        _record(RunFolder(folder), name=name, with_samples=with_samples)
        for folder, name in zip(folders, names, strict=True)
    )


def _newest() -> Path:
    found = newest_run(RUNS)
    if found is None:
        raise ConfigError(
            "no run under ./runs; name a run folder, or train one with: dgpo train --preset tiny"
        )
    return found


def _record(folder: RunFolder, *, name: str, with_samples: bool) -> RunRecord:
    """Read one run. A part that cannot be read becomes a note."""
    if not folder.path.is_dir():
        fault = "is a file" if folder.path.exists() else "no such folder"
        raise ConfigError(f"{folder.path}: {fault}; name a run folder")
    if not folder.metrics_file.exists() and not folder.settings_file.exists():
        raise ConfigError(f"{folder.path}: not a run folder: it has no metrics.jsonl")
    notes = _Notes()
    part = notes.part
    metrics = _metrics(folder, notes)
    settings = part(lambda: _settings(folder), lost="settings.toml cannot be read") or ()
    evals = part(lambda: notes.of(folder.evals).lines, lost="evals.jsonl cannot be read") or ()
    changes = part(
        lambda: changes_from(notes.of(change_lines(folder.path)).lines),
        lost="changes.jsonl cannot be read",
    )
    samples = None
    if with_samples:
        samples = part(lambda: newest_samples(folder), lost="no samples shown")
    diagnoses = part(lambda: diagnose_run(folder, lines=metrics), lost="not diagnosed") or ()
    numbers = {each.key: _whole(each.value) for each in settings}
    total = numbers.get("train.steps")
    return RunRecord(
        name=name,
        path=str(folder.path),
        state=_state(folder, done=int(metrics[-1]["step"] or 0) if metrics else 0, total=total),
        total=total,
        metrics=metrics,
        evals=evals,
        settings=settings,
        changes=changes or (),
        checkpoints=part(lambda: tuple(_checkpoints(folder)), lost="no checkpoints shown") or (),
        samples=samples,
        diagnoses=diagnoses,
        diagnosed_from=steps_needed(numbers.get("rollout.prompts_per_step") or 1),
        bad_batches=tuple(_bad_batches(folder)),
        notes=tuple(notes.lines),
    )


class _Notes:
    """What could not be read, a line each."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def part(self, read: Callable[[], T], *, lost: str) -> T | None:
        """Read a part of a run; None, and a note, if it is broken."""
        try:
            return read()
        except (DgpoError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            first = next(iter(str(error).splitlines()), type(error).__name__)
            self.lines.append(f"{lost}: {first}")
            return None

    def of(self, file: StepLines) -> LinesFound:
        """Read a file with a line a step; broken lines are left out and noted."""
        found = file.read()
        if found.broken:
            which = f"{lines_named(found.broken)} of {file.path.name} cannot be read and"
            self.lines.append(f"{which} {'is' if len(found.broken) == 1 else 'are'} left out")
        self.lines += repeated_notes(file.what, found.repeated)
        return found


def _metrics(folder: RunFolder, notes: _Notes) -> tuple[Mapping[str, float | None], ...]:
    """Return the steps in order, each once."""
    try:
        found = notes.of(folder.metrics)
    except OSError as error:
        reason = error.strerror or error
        raise DgpoError(f"{folder.metrics_file}: cannot be read: {reason}") from error
    there = [line["step"] for line in found.lines]
    notes.lines += missing_notes(folder.metrics.what, there, last=max(there, default=0))
    notes.lines += _no_numbers(folder.metrics_file.name, found)
    return tuple({name: number_of(value) for name, value in line.items()} for line in found.lines)


def _no_numbers(file: str, found: LinesFound) -> Iterator[str]:
    """Yield a note on values that are not numbers; NaN and infinity are numbers."""
    places = [
        (number, name)
        for number, line in zip(found.numbers, found.lines, strict=True)
        for name, value in line.items()
        if isinstance(value, bool) or not isinstance(value, int | float | None)
    ]
    if places:
        number, name = places[0]
        more = f", and {len(places) - 1} more like it" if len(places) > 1 else ""
        yield f"line {number} of {file}: {name} is not a number and is left out{more}"


def _settings(folder: RunFolder) -> tuple[StoredSetting, ...]:
    """Return the settings of the file, also those that this version does not know."""
    import tomlkit

    text = folder.settings_file.read_text(encoding="utf-8")
    values = parse_toml(text)  # its error says more than the other parser's
    sources = dict(_sources(tomlkit.parse(text)))
    defaults = {
        key: UNSET if value is None else shown(value) for key, value in flatten(Settings()).items()
    }
    return tuple(
        StoredSetting(key, shown(value), sources.get(key, ""), defaults.get(key))
        for key, value in spread(dict(_leaves(values))).items()
    )


def _leaves(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in table.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _sources(table: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the layer of each value, from the comment after it: "# from preset tiny".

    A list of tables has it after its first header, for all of them.
    """
    for name, item in table.items():
        if hasattr(item, "items"):
            yield from _sources(item, f"{prefix}{name}.")
            continue
        tables = is_list_of_tables(item)
        comment = str(getattr(getattr(item[0] if tables else item, "trivia", None), "comment", ""))
        if comment.startswith("# from "):
            source = comment.removeprefix("# from ").strip()
            yield from ((key, source) for key in spread({f"{prefix}{name}": item}))


def _checkpoints(folder: RunFolder) -> Iterator[StoredCheckpoint]:
    for path in folder.checkpoints():
        try:
            files = [file.stat() for file in path.rglob("*") if file.is_file()]
            written = path.stat().st_mtime
        except OSError:
            continue  # pruned by the run in progress
        yield StoredCheckpoint(step_of(path), sum(file.st_size for file in files), written)


def _bad_batches(folder: RunFolder) -> Iterator[int]:
    for path in sorted(folder.bad_batches_dir.glob("step-*.jsonl")):
        digits = path.stem.removeprefix("step-")
        if digits.isdigit():
            yield int(digits)


def _state(
    folder: RunFolder, *, done: int, total: int | None
) -> Literal["finished", "running", "stopped"]:
    if folder.is_held():
        return "running"
    return "finished" if total is not None and done >= total else "stopped"


def _whole(text: str) -> int | None:
    try:
        return int(json.loads(text))
    except (ValueError, TypeError):
        return None
