"""The table of `dgpo eval` of many models or benchmarks, as grids of text and for a terminal."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from rich.cells import cell_len

from dgpo_cli.core.numbers import ABSENT, cost, counted, margin, percent, tokens
from dgpo_cli.core.text import pad
from dgpo_cli.evals.matrix.table import MEAN, Best, Table, TableCell
from dgpo_cli.ui.page import Page, View
from dgpo_cli.ui.ramp import Depth

MARKS: dict[Best | None, str] = {None: "", "these": "*", "all": "**"}
_GAP = 2  # cells between two columns; one where they would not fit otherwise
_LEAST_NAME = 12  # cells of the column of models
_MOST_NAME = 32


@dataclass(frozen=True, slots=True)
class Entry:
    """A number of a grid as text, its error, and the mark of the best."""

    text: str
    error: str = ""
    best: Best | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """A model and its numbers, or why there are none. Name and failure are untrusted text."""

    name: str
    entries: tuple[Entry, ...] = ()
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class Grid:
    """One block of the table: models by row. Title and heads may be untrusted text."""

    title: str
    note: str
    heads: tuple[str, ...]
    rows: tuple[Row, ...]


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
    return Entry(_share(cell.avg_at_k), error, cell.best)


def _share(value: float) -> str:
    return percent(value).removesuffix("%")


def render(table: Table, *, color: Depth = "truecolor") -> View:
    """Every grid below the other, the scores of all benchmarks last."""
    return View(partial(_draw, table=table), color)


def _draw(page: Page, *, table: Table) -> None:
    for grid in grids(table):
        page.title(page.shown(grid.title), grid.note)
        _GridView(page, grid).draw()
        page.blank()
    for note in table.notes:
        page.wrapped(note)
    for line in legend(table):
        page.paragraph(line.replace("±", page.glyphs.plus_minus), "dim")


@dataclass(frozen=True, slots=True)
class _GridView:
    page: Page
    grid: Grid

    def draw(self) -> None:
        """Write the columns, in as many bands as the width asks for."""
        page, grid = self.page, self.grid
        columns = [self._column(at) for at in range(len(grid.heads))]
        bare = [max(map(cell_len, column)) for column in columns]
        tight = _LEAST_NAME + sum(bare) + _GAP * len(bare) > page.width
        widths = [width + (1 if tight else _GAP) for width in bare]
        names = [page.shown(row.name) for row in grid.rows]
        room = self._name_room(names, widths)
        labels = [page.fit(name, room - 1, end=True) for name in names]
        apart = len(set(labels)) == len(set(names))
        if not apart:  # names that look alike when cut have a line of their own
            room = _GAP
        for first, band in _bands(widths, room=page.width - room):
            page.row(("", room), *((columns[at][0], -widths[at], "dim") for at in band))
            for number, row in enumerate(grid.rows):
                if not apart:
                    page.add(page.fit(names[number], end=True))
                label = labels[number] if apart else ""
                if row.failure is not None:
                    said = page.shown(row.failure) if first else ""
                    text = page.fit(said, page.width - room - _GAP)
                    page.add(pad(label, room + _GAP), (text, "italic"))
                    continue
                page.row((label, room), *(
                    (columns[at][number + 1], -widths[at], self._style(row, at)) for at in band
                ))  # fmt: skip

    def _style(self, row: Row, at: int) -> str:
        return "bold" if row.entries[at].best is not None else ""

    def _name_room(self, names: Sequence[str], widths: Sequence[int]) -> int:
        longest = max(map(cell_len, names)) + 1
        left = self.page.width - sum(widths)
        return min(longest, _MOST_NAME, max(left, _LEAST_NAME))

    def _column(self, at: int) -> list[str]:
        """The head and the entries of a column, their parts below each other."""
        page = self.page
        entries = [row.entries[at] for row in self.grid.rows if row.failure is None]
        error = max((cell_len(each.error) for each in entries), default=0)
        mark = max((len(MARKS[each.best]) for each in entries), default=0)
        sign = page.glyphs.plus_minus
        texts = [page.fit(page.shown(self.grid.heads[at]), 16, end=True)]
        for row in self.grid.rows:
            if row.failure is not None:
                texts.append("")
                continue
            each = row.entries[at]
            tail = pad(f" {sign}{each.error}", error + 1 + len(sign)) if each.error else ""
            if error:
                tail = pad(tail, error + 1 + len(sign))
            texts.append(each.text + tail + pad(MARKS[each.best], mark))
        return texts


def _bands(widths: Sequence[int], *, room: int) -> Iterator[tuple[bool, list[int]]]:
    """Yield the columns that fit beside each other, one at least; True for the first of them."""
    first = True
    band: list[int] = []
    for at, width in enumerate(widths):
        if band and sum(widths[i] for i in band) + width > room:
            yield first, band
            first, band = False, []
        band.append(at)
    yield first, band
