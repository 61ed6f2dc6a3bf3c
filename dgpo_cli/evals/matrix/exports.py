"""The table of `dgpo eval` as Markdown, LaTeX, CSV and JSON."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from dgpo_cli.core.codec import encoded
from dgpo_cli.core.text import escaped, markdown_code, visible
from dgpo_cli.core.types import Interval
from dgpo_cli.evals.matrix.table import TABLE, Table, TableCell
from dgpo_cli.evals.matrix.view import MARKS, Entry, Grid, grids, legend

_HARMLESS = re.compile(r"[A-Za-z0-9][A-Za-z0-9 .,:@-]*")
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
    **{char: f"\\{char}" for char in "{}$&#_%"},
}


def written(table: Table, *, form: str) -> str:
    """Return the table as markdown, csv, latex or json."""
    match form:
        case "markdown":
            return to_markdown(table)
        case "csv":
            return to_csv(table)
        case "latex":
            return to_latex(table)
    return encoded(to_json(table), indent=2) + "\n"


def to_json(table: Table) -> dict[str, Any]:
    """Return the documented data of the table."""
    return TABLE.to_json(table)


def to_csv(table: Table) -> str:
    """Return a row for every model and benchmark, and for means; what is unknown is empty.

    Numbers have all their digits; shares are from 0 to 1. An interval is two columns.
    """
    out = io.StringIO()
    rows = [_flat(cell, pass_j=table.pass_j) for cell in (*table.cells, *table.means)]
    writer = csv.DictWriter(out, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _flat(cell: TableCell, *, pass_j: int) -> dict[str, str]:
    row: dict[str, str] = {}
    for each in fields(cell):
        value = getattr(cell, each.name)
        if each.name == "pass_at_j":
            row["pass_j"] = str(pass_j)
        if isinstance(value, Interval):
            name = each.name.removesuffix("_95")
            row |= {f"{name}_low": _plain(value.low), f"{name}_high": _plain(value.high)}
        else:
            row[each.name] = _plain(value)
    return row


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


def to_markdown(table: Table) -> str:
    """Return the grids as tables of GitHub's Markdown, the scores of all benchmarks first."""
    lines: list[str] = []
    for grid in _for_a_page(table):
        note = f" ({grid.note})" if grid.note else ""
        lines += [f"{_markdown_text(grid.title)}{note}", "", *_markdown(grid), ""]
    lines += [f"{_markdown_text(note)}  " for note in table.notes]
    lines += [line.replace("*", r"\*") + "  " for line in legend(table)]
    return "\n".join(lines).rstrip() + "\n"


def _markdown(grid: Grid) -> Iterator[str]:
    yield _piped("model", *map(_markdown_text, grid.heads))
    yield _piped("---", *("---:" for _ in grid.heads))
    for row in grid.rows:
        if row.failure is None:
            yield _piped(_markdown_text(row.name), *map(_markdown_entry, row.entries))
        else:
            said = _markdown_text(row.failure)
            yield _piped(_markdown_text(row.name), said, *[""] * (len(grid.heads) - 1))


def _piped(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _markdown_entry(entry: Entry) -> str:
    text = _with_error(entry)
    if entry.best is None:
        return escaped(text)
    return f"**{text}** " + MARKS[entry.best].replace("*", r"\*")


def _markdown_text(text: str) -> str:
    """Untrusted text as it is where it cannot be markup, else as code."""
    harmless = _HARMLESS.fullmatch(text) and "www." not in text
    return text if harmless else markdown_code(visible(text))


def _with_error(entry: Entry) -> str:
    return f"{entry.text} ±{entry.error}" if entry.error else entry.text


def to_latex(table: Table) -> str:
    """Return the grids as tabulars with booktabs' rules, the scores of all benchmarks first."""
    lines = ["% needs \\usepackage{booktabs,textcomp}"]
    for grid in _for_a_page(table):
        lines += ["", *_latex(grid)]
    said = [*map(visible, table.notes), *legend(table)]
    return "\n".join([*lines, "", *(f"% {line}" for line in said)]).rstrip() + "\n"


def _latex(grid: Grid) -> Iterator[str]:
    yield f"% {visible(grid.title)}{f', {grid.note}' if grid.note else ''}"
    yield rf"\begin{{tabular}}{{l{'r' * len(grid.heads)}}}"
    yield r"\toprule"
    yield _ended("model", *map(latex, grid.heads))
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
    text = latex(entry.text) if entry.best is None else rf"\textbf{{{latex(entry.text)}}}"
    error = rf" $\pm$ {entry.error}" if entry.error else ""
    mark = MARKS[entry.best]
    return text + error + (f"$^{{{mark}}}$" if mark else "")


def latex(text: str) -> str:
    """Return untrusted text as LaTeX that prints it and nothing else."""
    written = "".join(_LATEX.get(char, char) for char in visible(text))
    return written.replace("--", "-{}-").replace("--", "-{}-")  # not a dash


def _for_a_page(table: Table) -> list[Grid]:
    """The grids in the order of a page, which is read from the top."""
    found = grids(table)
    return [found[-1], *found[:-1]] if len(found) > 1 else found
