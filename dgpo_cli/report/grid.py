"""A compact grid of problems: how often each was solved, as a bar glyph whose colour brightens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.style import Style
from rich.text import Text

from dgpo_cli.report.page import Page
from dgpo_cli.report.ramp import RAMPS, Depth, Ramp, contrast
from dgpo_cli.report.text import Glyphs, pad, plain
from dgpo_cli.types import ProblemResult

_GROUP = 10  # problems between gaps
_READABLE = 4.5  # least contrast of a bar on the card


def bar(correct: int, *, k: int, glyphs: Glyphs) -> str:
    """The glyph for `correct` of k: the first only for none, the last only for all."""
    steps = glyphs.fractions
    if correct <= 0:
        return steps[0]
    if correct >= k:
        return steps[-1]
    return steps[1 + correct * (len(steps) - 2) // k]


def colours(ramp: Ramp) -> tuple[str, ...]:
    """The ramp's blues that read on its card, from dark to bright."""
    card = ramp.card.background
    backgrounds = (paint.background for paint in ramp.below)
    return tuple(color for color in backgrounds if contrast(color, card) >= _READABLE)


def _style(correct: int, *, k: int, ramp: Ramp | None) -> Style:
    if ramp is None:
        return Style.null()
    if correct <= 0:
        return ramp.card.style()
    shades = colours(ramp)
    shade = shades[min(len(shades) - 1, correct * len(shades) // k)]
    return Style(color=shade, bgcolor=ramp.card.background)


def grid(problems: Sequence[ProblemResult], *, k: int, page: Page, depth: Depth) -> Iterator[Text]:
    """Rows of problems in their order, each row labelled with the number of its first."""
    ramp = RAMPS.get(depth)
    label = len(str(len(problems))) + 2
    groups = max(1, min(5, (page.width - label) // (_GROUP + 1)))
    row = groups * _GROUP
    ground = ramp.card.style() if ramp else Style.null()
    for start in range(0, len(problems), row):
        line = plain("").append(pad(str(start + 1), label - 2, right=True), page.style("dim"))
        line.append("  ")
        shown = problems[start : start + row]
        for at, problem in enumerate(shown):
            if at and at % _GROUP == 0:
                line.append(" ", ground)
            glyph = bar(problem.correct, k=k, glyphs=page.glyphs)
            line.append(glyph, _style(problem.correct, k=k, ramp=ramp))
        yield line


def grid_legend(*, k: int, page: Page) -> Text:
    """What the bars stand for."""
    steps = page.glyphs.fractions
    text = f"{steps[0]} none   {steps[1:-1]} some   {steps[-1]} all {k}"
    return plain(text, style=page.style("dim"))
