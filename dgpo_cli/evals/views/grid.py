"""A compact grid of problems: the share of correct samples of each, as a bar glyph."""

from __future__ import annotations

from collections.abc import Sequence

from dgpo_cli.core.text import Glyphs
from dgpo_cli.core.types import ProblemResult
from dgpo_cli.ui.page import Page
from dgpo_cli.ui.ramp import RAMPS, levels

_GROUP = 10  # problems between gaps


def bar(correct: int, *, k: int, glyphs: Glyphs) -> str:
    """Return the glyph for `correct` of k: the first only for none, the last only for all."""
    steps = glyphs.fractions
    if correct <= 0:
        return steps[0]
    if correct >= k:
        return steps[-1]
    return steps[1 + correct * (len(steps) - 2) // k]


def grid(page: Page, problems: Sequence[ProblemResult], *, k: int) -> None:
    """Rows of problems in their order, each row labelled with the number of its first."""
    ramp = RAMPS.get(page.depth)
    ink = ramp.ink(-levels(page.depth)) if ramp else ""
    label = len(str(len(problems))) + 2
    groups = max(1, min(5, (page.width - label) // (_GROUP + 1)))
    row = groups * _GROUP
    for start in range(0, len(problems), row):
        line = page.row((str(start + 1), 2 - label, "dim"), ("", 2))
        for at, problem in enumerate(problems[start : start + row]):
            if at and at % _GROUP == 0:
                line.append(" ")
            line.append(bar(problem.correct, k=k, glyphs=page.glyphs), ink)
    steps = page.glyphs.fractions
    page.add((f"{steps[0]} none   {steps[1:-1]} some   {steps[-1]} all {k}", "dim"))
