"""The table of `dgpo eval` of many models or benchmarks, as grids of text and for a terminal."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from dgpo_cli.core.numbers import ABSENT, cost, counted, margin, percent, tokens
from dgpo_cli.evals.matrix.table import MEAN, Best, Table, TableCell
from dgpo_cli.ui.grid import Entry, Grid, Row, draw_grid
from dgpo_cli.ui.page import Page, View
from dgpo_cli.ui.ramp import Depth

MARKS: dict[Best | None, str] = {None: "", "these": "*", "all": "**"}


def grids(table: Table) -> list[Grid]:
    """Return a grid of all numbers for each benchmark; with several, the scores of all last."""
    found = [_of_benchmark(table, bench) for bench in table.benchmarks]
    return [*found, _summary(table)] if len(found) > 1 else found


def legend(table: Table) -> list[str]:
    """Return the sentences below the table, without any text from data."""
    cells = [cell for cell in (*table.cells, *table.means) if cell.known]
    found = []
    if any(math.isfinite(cell.margin) for cell in cells):
        found.append("±: half the 95% interval of a rerun, in percentage points.")
    if any(cell.greedy for cell in cells):
        found.append("Greedy decoding has no error over reruns.")
    if len(table.models) > 1:
        found.append(
            "* better than every other model on these problems, ** on others of this kind too: "
            "the 95% interval of each paired difference excludes 0."
        )
    stops = sorted({cell.stop_when for cell in cells if math.isfinite(cell.stop_when)})
    if stops:
        said = " and ".join(f"±{margin(stop)}" for stop in stops)
        found.append(f"k: sampling stopped at {said} points (--stop-when), or at --k.")
    return found


def _of_benchmark(table: Table, bench: str) -> Grid:
    cells = table.column(bench)
    known = [cell for cell in cells if cell.known]
    sizes = {cell.k for cell in known}
    stopped = any(math.isfinite(cell.stop_when) for cell in known)
    k = "k" if len(sizes) != 1 else str(*sizes)
    columns: list[tuple[str, Callable[[TableCell], Entry]]] = [
        (f"Avg@{k}", _score),
        (f"pass@{table.pass_j}", lambda cell: Entry(_share(cell.pass_at_j))),
        (f"maj@{k}", lambda cell: Entry(_share(cell.maj_at_k))),
        ("tokens", lambda cell: Entry(tokens(cell.mean_tokens))),
        ("trunc.", lambda cell: Entry(_share(cell.truncated))),
    ]
    if len(sizes) > 1 or stopped:
        columns.insert(1, ("k", lambda cell: Entry(str(cell.k))))
    if any(math.isfinite(cell.cost) for cell in known):
        columns.append(("cost", lambda cell: Entry(cost(cell.cost))))
    problems = {cell.n_problems or 0 for cell in known}
    note = counted(problems.pop(), "problem") if len(problems) == 1 else ""
    rows = (
        Row(cell.model, tuple(write(cell) for _, write in columns))
        if cell.known
        else Row(cell.model, failure=cell.failure or "not evaluated")
        for cell in cells
    )
    return Grid(bench, note, tuple(head for head, _ in columns), tuple(rows))


def _summary(table: Table) -> Grid:
    sizes = {cell.k for cell in table.cells if cell.known}
    k = "k" if len(sizes) != 1 else str(*sizes)
    rows = []
    for model in table.models:
        own = [cell for cell in (*table.cells, *table.means) if cell.model == model]
        rows.append(Row(model, tuple(map(_score, own))))
    return Grid(f"Avg@{k}", "percent", (*table.benchmarks, MEAN), tuple(rows))


def _score(cell: TableCell) -> Entry:
    if not cell.known:
        return Entry(ABSENT)
    error = margin(cell.margin) if math.isfinite(cell.margin) else ""
    return Entry(_share(cell.avg_at_k), error, MARKS[cell.best])


def _share(value: float) -> str:
    return percent(value).removesuffix("%")


def render(table: Table, *, color: Depth = "truecolor") -> View:
    """Every grid below the other, the scores of all benchmarks last."""
    return View(partial(_draw, table=table), color)


def _draw(page: Page, *, table: Table) -> None:
    for grid in grids(table):
        draw_grid(page, grid)
    for note in table.notes:
        page.wrapped(note)
    for line in legend(table):
        page.paragraph(line.replace("±", page.glyphs.plus_minus), "dim")
