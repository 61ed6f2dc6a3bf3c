"""The table of a study as Markdown, LaTeX, CSV and JSON."""

from __future__ import annotations

import math
from typing import Literal

from dgpo_cli.core.codec import encoded
from dgpo_cli.core.text import markdown_line, visible
from dgpo_cli.core.types import Interval
from dgpo_cli.study.summary import STUDY, Measure, Score, StudyRow, StudyTable
from dgpo_cli.study.view import grids, legend, sentences
from dgpo_cli.ui.grid import csv_text, latex_grid, markdown_grid

Form = Literal["markdown", "csv", "latex", "json"]


def written(table: StudyTable, *, form: Form) -> str:
    """Return the table in a form for other programs."""
    match form:
        case "markdown":
            return to_markdown(table)
        case "csv":
            return to_csv(table)
        case "latex":
            return to_latex(table)
    return encoded(STUDY.to_json(table), indent=2) + "\n"


def to_markdown(table: StudyTable) -> str:
    """Return the grids as tables of GitHub's Markdown, then what they say."""
    lines: list[str] = []
    for grid in grids(table):
        lines += [*markdown_grid(grid), ""]
    said = [*sentences(table), *table.notes]
    lines += [f"{markdown_line(line)}  " for line in said]
    lines += [line.replace("*", r"\*") + "  " for line in legend(table)]
    return "\n".join(lines).rstrip() + "\n"


def to_latex(table: StudyTable) -> str:
    """Return the grids as tabulars with booktabs' rules; what they say are comments."""
    lines = ["% needs \\usepackage{booktabs,textcomp}"]
    for grid in grids(table):
        lines += ["", *latex_grid(grid)]
    said = [*map(visible, (*sentences(table), *table.notes)), *legend(table)]
    return "\n".join([*lines, "", *(f"% {line}" for line in said)]).rstrip() + "\n"


def to_csv(table: StudyTable) -> str:
    """Return a row for every variant, with all digits; an interval is two columns."""
    return csv_text([_flat(row) for row in table.rows])


def _flat(row: StudyRow) -> dict[str, object]:
    found: dict[str, object] = {"variant": row.variant}
    for name in ("settings", "tuned"):
        found[name] = encoded(getattr(row, name))
    for name in ("planned", "finished", "steps"):
        found[name] = getattr(row, name)
    for name in ("reward", "last", "to_level"):
        found |= _flat_measure(name, getattr(row, name))
    found["reached"] = row.reached
    found |= _flat_score(row.score)
    for name in ("grad_norm", "effective_fraction", "seconds", "cpu_seconds"):
        own: Measure = getattr(row, name)
        found |= {name: own.mean, f"{name}_stderr": own.stderr}
    return found | {"noise_scale": row.noise_scale}


def _flat_measure(name: str, found: Measure | None) -> dict[str, object]:
    each = None if found is None else found.difference
    ends = Interval(math.nan, math.nan) if each is None else each.interval_95
    return {
        f"{name}_seeds": None if found is None else found.seeds,
        name: None if found is None else found.mean,
        f"{name}_stderr": None if found is None else found.stderr,
        f"{name}_pairs": None if each is None else each.seeds,
        f"{name}_difference": None if each is None else each.mean,
        f"{name}_difference_stderr": None if each is None else each.stderr,
        f"{name}_difference_low": ends.low,
        f"{name}_difference_high": ends.high,
        f"{name}_p": None if each is None else each.p,
        f"{name}_p_holm": None if each is None else each.p_holm,
        f"{name}_seeds_for_point": None if each is None else each.seeds_for_point,
    }


def _flat_score(score: Score | None) -> dict[str, object]:
    plain = ("bench", "k", "n_problems", "before", "before_rerun", "before_problems")
    after = ("after_rerun", "after_problems")
    found: dict[str, object] = {name: getattr(score, name, None) for name in plain}
    found |= _flat_measure("after", None if score is None else score.after)
    found |= {name: getattr(score, name, None) for name in after}
    ends = None if score is None else score.difference_problems_95
    return found | {
        "difference_problems_low": None if ends is None else ends.low,
        "difference_problems_high": None if ends is None else ends.high,
    }
