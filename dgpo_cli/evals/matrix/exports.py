"""The table of `dgpo eval` as Markdown, LaTeX, CSV and JSON."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from dgpo_cli.core.codec import encoded
from dgpo_cli.core.text import visible
from dgpo_cli.core.types import Interval
from dgpo_cli.evals.matrix.table import TABLE, Table, TableCell
from dgpo_cli.evals.matrix.view import grids, legend
from dgpo_cli.ui.grid import Grid, csv_text, latex_grid, markdown_grid, markdown_text


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
    return csv_text([_flat(each, pass_j=table.pass_j) for each in (*table.cells, *table.means)])


def _flat(cell: TableCell, *, pass_j: int) -> dict[str, object]:
    row: dict[str, object] = {}
    for each in fields(cell):
        value = getattr(cell, each.name)
        if each.name == "pass_at_j":
            row["pass_j"] = pass_j
        if isinstance(value, Interval):
            name = each.name.removesuffix("_95")
            row |= {f"{name}_low": value.low, f"{name}_high": value.high}
        else:
            row[each.name] = value
    return row


def to_markdown(table: Table) -> str:
    """Return the grids as tables of GitHub's Markdown, the scores of all benchmarks first."""
    lines: list[str] = []
    for grid in _for_a_page(table):
        lines += [*markdown_grid(grid), ""]
    lines += [f"{markdown_text(note)}  " for note in table.notes]
    lines += [line.replace("*", r"\*") + "  " for line in legend(table)]
    return "\n".join(lines).rstrip() + "\n"


def to_latex(table: Table) -> str:
    """Return the grids as tabulars with booktabs' rules, the scores of all benchmarks first."""
    lines = ["% needs \\usepackage{booktabs,textcomp}"]
    for grid in _for_a_page(table):
        lines += ["", *latex_grid(grid)]
    said = [*map(visible, table.notes), *legend(table)]
    return "\n".join([*lines, "", *(f"% {line}" for line in said)]).rstrip() + "\n"


def _for_a_page(table: Table) -> list[Grid]:
    """The grids in the order of a page, which is read from the top."""
    found = grids(table)
    return [found[-1], *found[:-1]] if len(found) > 1 else found
