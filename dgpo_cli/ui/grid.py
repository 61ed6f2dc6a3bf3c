"""Tables of named rows with numbers: for a terminal, as Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich.cells import cell_len

from dgpo_cli.core.text import escaped, markdown_code, markdown_line, pad, visible
from dgpo_cli.ui.page import Page

_GAP = 2  # cells between two columns; one where they would not fit otherwise
_LEAST_NAME = 12  # cells of the column of names
_MOST_NAME = 32
_HARMLESS = re.compile(r"[A-Za-z0-9][A-Za-z0-9 .,:@=-]*")
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "`": r"\textasciigrave{}",
    "'": r"\textquotesingle{}",
    "±": r"$\pm$",
    **{char: f"\\{char}" for char in "{}$&#_%"},
}


@dataclass(frozen=True, slots=True)
class Entry:
    """A number of a grid as text, and its error. mark: of stars, for what stands out."""

    text: str
    error: str = ""
    mark: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """A name and its numbers, or why there are none. Name and failure are untrusted text."""

    name: str
    entries: tuple[Entry, ...] = ()
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class Grid:
    """One block of a table. names: the head of the names. The other texts may be untrusted."""

    title: str
    note: str
    heads: tuple[str, ...]
    rows: tuple[Row, ...]
    names: str = "model"


def draw_grid(page: Page, grid: Grid) -> None:
    """Write the title and the columns, in as many bands as the width asks for."""
    page.title(page.shown(grid.title), page.shown(grid.note))
    _GridView(page, grid).draw()
    page.blank()


@dataclass(frozen=True, slots=True)
class _GridView:
    page: Page
    grid: Grid

    def draw(self) -> None:
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
        return "bold" if row.entries[at].mark else ""

    def _name_room(self, names: Sequence[str], widths: Sequence[int]) -> int:
        longest = max(map(cell_len, names)) + 1
        left = self.page.width - sum(widths)
        return min(longest, _MOST_NAME, max(left, _LEAST_NAME))

    def _column(self, at: int) -> list[str]:
        """The head and the entries of a column, their parts below each other."""
        page = self.page
        entries = [row.entries[at] for row in self.grid.rows if row.failure is None]
        error = max((cell_len(each.error) for each in entries), default=0)
        mark = max((len(each.mark) for each in entries), default=0)
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
            texts.append(each.text + tail + pad(each.mark, mark))
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


def markdown_grid(grid: Grid) -> list[str]:
    """Return a grid as a table of GitHub's Markdown with its title, a line each."""
    note = f" ({markdown_line(grid.note)})" if grid.note else ""
    lines = [f"{markdown_text(grid.title)}{note}", ""]
    lines.append(_piped(grid.names, *map(markdown_text, grid.heads)))
    lines.append(_piped("---", *("---:" for _ in grid.heads)))
    for row in grid.rows:
        cells = [_markdown_entry(each) for each in row.entries]
        if row.failure is not None:
            cells = [markdown_text(row.failure), *[""] * (len(grid.heads) - 1)]
        lines.append(_piped(markdown_text(row.name), *cells))
    return lines


def _piped(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _markdown_entry(entry: Entry) -> str:
    text = f"{entry.text} ±{entry.error}" if entry.error else entry.text
    if not entry.mark:
        return escaped(text)
    return f"**{text}** " + entry.mark.replace("*", r"\*")


def markdown_text(text: str) -> str:
    """Return untrusted text as it is where it cannot be markup, else as code."""
    harmless = _HARMLESS.fullmatch(text) and "www." not in text
    return text if harmless else markdown_code(visible(text))


def latex_grid(grid: Grid) -> Iterator[str]:
    """Yield the lines of a grid as a tabular with booktabs' rules."""
    yield f"% {visible(grid.title)}{f', {visible(grid.note)}' if grid.note else ''}"
    yield rf"\begin{{tabular}}{{l{'r' * len(grid.heads)}}}"
    yield r"\toprule"
    yield _ended(grid.names, *map(latex, grid.heads))
    yield r"\midrule"
    for row in grid.rows:
        if row.failure is None:
            yield _ended(latex(row.name), *map(_latex_entry, row.entries))
        else:
            span = rf"\multicolumn{{{len(grid.heads)}}}{{l}}{{\emph{{{latex(row.failure)}}}}}"
            yield _ended(latex(row.name), span)
    yield r"\bottomrule"
    yield r"\end{tabular}"


def _ended(*cells: str) -> str:
    return " & ".join(cells) + r" \\"


def _latex_entry(entry: Entry) -> str:
    text = rf"\textbf{{{latex(entry.text)}}}" if entry.mark else latex(entry.text)
    error = rf" $\pm$ {entry.error}" if entry.error else ""
    return text + error + (f"$^{{{entry.mark}}}$" if entry.mark else "")


def latex(text: str) -> str:
    """Return untrusted text as LaTeX that prints it and nothing else."""
    written = "".join(_LATEX.get(char, char) for char in visible(text))
    return written.replace("--", "-{}-").replace("--", "-{}-")  # not a dash


def csv_text(rows: Sequence[Mapping[str, object]]) -> str:
    """Return rows that have the same names as CSV; what is unknown is empty."""
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _plain(value) for name, value in row.items()} for row in rows)
    return out.getvalue()


def _plain(value: object) -> str:
    match value:
        case None:
            return ""
        case bool():
            return str(value).lower()
        case float() if math.isnan(value):
            return ""
        case float():
            return repr(value)
    return visible(str(value))
