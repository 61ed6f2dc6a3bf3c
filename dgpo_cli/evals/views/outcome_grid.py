"""Problems x samples: a row a problem with its id, answer and count, a glyph a sample."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from rich.cells import cell_len
from rich.text import Text

from dgpo_cli.core.text import elide, pad, plain, visible
from dgpo_cli.core.types import OUTCOMES, Outcome, ProblemResult
from dgpo_cli.ui.outcomes import NAMES, glyph, style
from dgpo_cli.ui.page import Page
from dgpo_cli.ui.ramp import Depth

_BLOCK = 8  # samples between gaps
_NAME, _NARROW_NAME = 14, 12  # cells of an id at most
_ANSWER, _NARROW_ANSWER = 8, 4
_NARROW = 60  # columns


def outcome_grid(
    problems: Sequence[ProblemResult], *, k: int, page: Page, depth: Depth
) -> Iterator[Text]:
    """Rows of problems in their order; samples beyond the width go on below, none is left out."""
    narrow = page.width < _NARROW
    name = _column([p.id for p in problems], most=_NARROW_NAME if narrow else _NAME, page=page)
    answers = [p.answer for p in problems]
    answer = _column(answers, most=_NARROW_ANSWER if narrow else _ANSWER, page=page)
    count = len(str(k))
    gap = " " if narrow else "  "
    indent = name + answer + count + 3 * len(gap)
    blocks = max(1, (page.width - indent + 1) // (_BLOCK + 1))
    for problem in problems:
        head = plain("").append(_cell(problem.id, name, page=page), page.style("dim"))
        head.append(gap + _cell(problem.answer, answer, page=page, right=True) + gap)
        head.append(str(problem.correct).rjust(count), page.style("bold")).append(gap)
        for start in range(0, k, blocks * _BLOCK):
            shown = problem.outcomes[start : start + blocks * _BLOCK]
            yield _samples(head, shown, page=page, depth=depth)
            head = plain(" " * indent)


def _column(texts: Sequence[str], *, most: int, page: Page) -> int:
    return min(most, max((cell_len(visible(t, glyphs=page.glyphs)) for t in texts), default=0))


def _cell(text: str, width: int, *, page: Page, right: bool = False) -> str:
    return pad(
        elide(visible(text, glyphs=page.glyphs), width, glyphs=page.glyphs, end=True),
        width,
        right=right,
    )


def _samples(head: Text, outcomes: Sequence[Outcome], *, page: Page, depth: Depth) -> Text:
    for at, outcome in enumerate(outcomes):
        if at and at % _BLOCK == 0:
            head.append(" ")
        head.append(glyph(outcome, glyphs=page.glyphs), style(outcome, depth=depth))
    return head


def outcome_legend(
    problems: Sequence[ProblemResult], *, page: Page, depth: Depth
) -> Iterator[Text]:
    """The glyph, name and number of every outcome that occurs, on as many lines as it takes."""
    found = Counter(outcome for problem in problems for outcome in problem.outcomes)
    line = plain("")
    for outcome in OUTCOMES:
        if not found[outcome]:
            continue
        words = f" {NAMES[outcome]} {found[outcome]:,}"
        if line.cell_len and line.cell_len + 4 + len(words) > page.width:
            yield line
            line = plain("")
        line.append("   " if line.cell_len else "")
        line.append(glyph(outcome, glyphs=page.glyphs), style(outcome, depth=depth))
        line.append(words, page.style("dim"))
    yield line
