"""Grids of problems: a row a problem with a glyph a sample, or only a bar glyph a problem."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.cells import cell_len
from rich.text import Text

from dgpo_cli.core.text import Glyphs
from dgpo_cli.core.types import OUTCOMES, Outcome, ProblemResult
from dgpo_cli.ui.outcomes import NAMES, glyph, style
from dgpo_cli.ui.page import Page
from dgpo_cli.ui.ramp import RAMPS, levels

_BLOCK = 8  # samples between gaps
_GROUP = 10  # problems between gaps
_NAME, _NARROW_NAME = 14, 12  # cells of an id at most
_ANSWER, _NARROW_ANSWER = 8, 4
_NARROW = 60  # columns


def outcome_grid(page: Page, problems: Sequence[ProblemResult], *, k: int) -> None:
    """Write rows of problems in their order; samples beyond the width continue below."""
    narrow = page.width < _NARROW
    name = _column(page, [p.id for p in problems], most=_NARROW_NAME if narrow else _NAME)
    told = any(p.answer is not None for p in problems)
    answers = [p.answer or "" for p in problems]
    answer = _column(page, answers, most=_NARROW_ANSWER if narrow else _ANSWER)
    count = len(str(k))
    gap = " " if narrow else "  "
    indent = name + answer + count + (3 if told else 2) * len(gap)
    blocks = max(1, (page.width - indent + 1) // (_BLOCK + 1))
    gaps = (gap, len(gap))
    for problem in problems:
        head = page.cells(
            (page.fit(page.shown(problem.id), name, end=True), name, "dim"),
            gaps,
            *(
                [(page.fit(page.shown(problem.answer or ""), answer, end=True), -answer), gaps]
                if told
                else []
            ),
            (str(problem.correct), -count, "bold"),
            gaps,
        )
        for start in range(0, k, blocks * _BLOCK):
            _samples(page, head, problem.outcomes[start : start + blocks * _BLOCK])
            head = page.text(" " * indent)


def _column(page: Page, texts: Sequence[str], *, most: int) -> int:
    return min(most, max((cell_len(page.shown(text)) for text in texts), default=0))


def _samples(page: Page, head: Text, outcomes: Sequence[Outcome]) -> None:
    line = page.add(head)
    for at, outcome in enumerate(outcomes):
        if at and at % _BLOCK == 0:
            line.append(" ")
        line.append(glyph(outcome, glyphs=page.glyphs), style(outcome, depth=page.depth))


def outcome_legend(page: Page, problems: Sequence[ProblemResult]) -> None:
    """Write glyph, name and number of every outcome that occurs."""
    found = Counter(outcome for problem in problems for outcome in problem.outcomes)
    page.items(
        page.text(
            (glyph(outcome, glyphs=page.glyphs), style(outcome, depth=page.depth)),
            (f" {NAMES[outcome]} {found[outcome]:,}", "dim"),
        )
        for outcome in OUTCOMES
        if found[outcome]
    )


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
