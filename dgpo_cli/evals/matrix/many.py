"""Evaluates many models on many benchmarks, one after the other; an engine starts once a model."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

from dgpo_cli.config.load import Resolved
from dgpo_cli.core.errors import ConfigError, DgpoError, in_one_line
from dgpo_cli.core.events import Observer, tell
from dgpo_cli.core.numbers import margin, percent
from dgpo_cli.core.text import markdown_plain
from dgpo_cli.evals.evaluate import Cell, evaluate, open_source, prepare
from dgpo_cli.evals.matrix.table import Attempt, finished
from dgpo_cli.evals.request import EvalRequest
from dgpo_cli.evals.source import Source


@dataclass(frozen=True, slots=True)
class Planned:
    """A model on a benchmark that is to be evaluated, or why it cannot be.

    resolved, request: None if the model's settings cannot be read.
    """

    model: str
    bench: str
    resolved: Resolved | None = None
    request: EvalRequest | None = None
    failure: str | None = None
    cell: Cell | None = None


def distinct(names: Sequence[str], *, sources: Sequence[str]) -> list[str]:
    """Return names that differ: of equal ones each gets the folder it is in, else a number."""
    often = Counter(names)
    longer = [
        name if often[name] == 1 else _plain("-".join(PurePath(source).parts[-2:]))
        for name, source in zip(names, sources, strict=True)
    ]
    taken: set[str] = set()
    found = []
    for name in longer:
        number, free = 1, name
        while free in taken:
            number += 1
            free = f"{name}-{number}"
        taken.add(free)
        found.append(free)
    return found


def _plain(name: str) -> str:
    return markdown_plain(name).replace("/", "-").strip("-. ") or "model"


def attempt(work: Callable[[], None]) -> str | None:
    """Run `work`; return why it failed, if it did.

    Raises:
        DgpoError: something was given that cannot work: nothing is evaluated then.
    """
    try:
        work()
    except DgpoError as error:
        if error.exit_code == ConfigError.exit_code:
            raise
        return in_one_line(error)
    except OSError as error:
        return in_one_line(error)
    return None


def prepared(
    rows: Sequence[Sequence[Planned]], *, out: Path | None, observer: Observer
) -> list[list[Planned]]:
    """Load every benchmark, before anything large is loaded; a row has the cells of a model.

    out: the folder in which each cell gets one.

    Raises:
        ConfigError, DataError: a benchmark does not exist, is broken or was given twice.
    """
    failures: dict[str, str] = {}  # of benchmarks, which are not asked for again
    found = [[_prepared(each, failures, observer=observer) for each in row] for row in rows]
    for each in (each for row in found for each in row if each.failure is not None):
        tell(observer, f"{each.model} on {each.bench} will be missing: {each.failure}")
    return [[_placed(each, out=out) for each in row] for row in _named(found)]


def _prepared(planned: Planned, failures: dict[str, str], *, observer: Observer) -> Planned:
    resolved, request, bench = planned.resolved, planned.request, planned.bench
    if planned.failure is not None or resolved is None or request is None:
        return planned
    if bench not in failures:
        cells: list[Cell] = []
        failure = attempt(
            lambda: cells.append(prepare(resolved, request=request, observer=observer))
        )
        if failure is None:
            return replace(planned, cell=cells[0])
        failures[bench] = failure
    return replace(planned, failure=failures[bench])


def _named(rows: Sequence[Sequence[Planned]]) -> list[list[Planned]]:
    """Give benchmarks their own names, not those by which they were asked for.

    A benchmark has one name for all models, for those that fail too.
    """
    for row in rows:
        digests: dict[str, str] = {}
        for each in row:
            if each.cell is not None:
                same = digests.setdefault(each.cell.benchmark.sha256, each.bench)
                if same != each.bench:
                    raise ConfigError(
                        f"--bench: {same} and {each.bench} are the same problems; give one of them"
                    )
    loaded = {each.bench: each.cell for row in rows for each in row if each.cell is not None}
    asked = [each.bench for each in rows[0]]
    own = [loaded[bench].benchmark.name if bench in loaded else bench for bench in asked]
    names = dict(zip(asked, distinct(own, sources=asked), strict=True))
    return [[replace(each, bench=names[each.bench]) for each in row] for row in rows]


def _placed(planned: Planned, *, out: Path | None) -> Planned:
    cell = planned.cell
    if cell is None or out is None:
        return planned
    request = replace(cell.request, out=out / f"{planned.bench}-{planned.model}")
    return replace(planned, cell=replace(cell, request=request))


def run(rows: Sequence[Sequence[Planned]], *, observer: Observer) -> Iterator[Attempt]:
    """Evaluate row by row; yield each cell when it is finished or has failed.

    A failure, of a model that cannot be loaded too, is reported, and the others continue.
    """
    for number, row in enumerate(rows, start=1):
        for each in row:
            if each.cell is None:
                yield Attempt(each.model, each.bench, failure=each.failure)
        left = [each for each in row if each.cell is not None]
        if not left:
            continue
        where = ", ".join(each.bench for each in left)
        tell(observer, f"{row[0].model} on {where}: model {number} of {len(rows)}")
        yield from _row(left, observer=observer)
        gc.collect()  # a model refers to itself; the next one needs its memory


def _row(row: Sequence[Planned], *, observer: Observer) -> Iterator[Attempt]:
    """Evaluate the cells of a model. What it was loaded into is gone when this returns."""
    left = list(row)
    try:
        cells = [each.cell for each in row if each.cell is not None]
        with open_source(cells, observer=observer) as source:
            while left:
                yield _evaluated(left.pop(0), source=source, observer=observer)
    except Exception as error:  # whatever a library raises that cannot load a model
        if not left:
            tell(observer, f"{row[0].model}: {in_one_line(error)}")
        for each in left:
            yield _failed(each, error, observer=observer)


def _evaluated(planned: Planned, *, source: Source, observer: Observer) -> Attempt:
    assert planned.cell is not None
    try:
        result = evaluate(planned.cell, source=source, observer=observer)
    except Exception as error:  # a broken kernel or a dead server costs one cell, not the table
        return _failed(planned, error, observer=observer)
    found = result.evaluation
    half = "" if found.greedy else f" ±{margin(found.rerun_95.half_width)}"
    tell(
        observer,
        f"{planned.model} on {planned.bench}: Avg@{found.k} {percent(found.avg_at_k)}{half}, "
        f"written to {result.out}",
    )
    done = finished(result, model=planned.model, bench=planned.bench)
    return done if result.stopped is None else replace(done, failure=result.stopped)


def _failed(planned: Planned, error: Exception, *, observer: Observer) -> Attempt:
    failure = in_one_line(error)
    tell(observer, f"{planned.model} on {planned.bench} failed: {failure}")
    return Attempt(planned.model, planned.bench, failure=failure)
