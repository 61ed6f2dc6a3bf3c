"""Puts the parts of the panel together: all of them where there is room, the most telling first.

Which parts there are depends on the size of the terminal and on what is known, not on how much
of it there is at the moment, so that little jumps while a run goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rich.text import Text

from dgpo_cli.report.page import Page
from dgpo_cli.report.panel import curves, parts, told
from dgpo_cli.report.panel.state import PanelState
from dgpo_cli.report.ramp import Depth
from dgpo_cli.report.text import glyphs_for

_Draw = Callable[[PanelState, Page, Depth], list[Text]]


@dataclass(frozen=True, slots=True)
class _Part:
    """rank: parts of a high rank are the first to go on a low terminal.

    shrinks: some of its lines are better than none.
    """

    rank: int
    draw: _Draw
    shrinks: bool = False


def _reward(state: PanelState, page: Page, depth: Depth) -> list[Text]:
    return curves.reward_row(state, page)


def _score(state: PanelState, page: Page, depth: Depth) -> list[Text]:
    return curves.score_row(state, page)


def _nothing(state: PanelState, page: Page, depth: Depth) -> list[Text]:
    return []


def _rule(state: PanelState, page: Page, depth: Depth) -> list[Text]:
    return [page.rule()] if state.glimpse else []


# As they stand on the page. The plots take the place of the rows that they make superfluous.
_REWARD, _SCORE = _Part(2, _reward), _Part(7, _score)
_PLOTS = _Part(9, _nothing)  # drawn last, with the lines that are left
_PARTS = (
    _Part(0, parts.header),
    _Part(1, parts.progress),
    _REWARD,
    _SCORE,
    _Part(4, parts.outcome_rows),
    _Part(13, parts.groups),
    _Part(8, parts.lengths),
    _Part(6, parts.credit),
    _Part(12, parts.policy),
    _Part(10, parts.times),
    _Part(14, parts.memory),
    _Part(15, _rule),
    _Part(11, told.completions, shrinks=True),
    _Part(3, told.diagnoses),
    _Part(5, parts.now),
)


def panel(
    state: PanelState, *, width: int, height: int, depth: Depth, ascii_only: bool = False
) -> list[Text]:
    """Return the panel as at most `height` lines of at most `width` cells.

    width, height: what may be filled, at least 1 each. ascii_only: the encoding has nothing else.
    """
    page = Page(width=width, glyphs=glyphs_for(ascii_only=ascii_only), styled=depth != "none")
    every = {part: part.draw(state, page, depth) for part in _PARTS}
    room, tall = height, 0
    kept: dict[_Part, list[Text]] = {}
    for part in sorted((*_PARTS, _PLOTS), key=lambda part: part.rank):
        if part is _PLOTS:
            superfluous = [row for row in _superfluous(state, page) if row in kept]
            freed = sum(len(kept[row]) for row in superfluous)
            if superfluous and room + freed >= curves.LEAST_HEIGHT:
                room, tall = room + freed - curves.LEAST_HEIGHT, curves.LEAST_HEIGHT
                kept |= {row: [] for row in superfluous}
            continue
        lines = every[part][:room] if part.shrinks else every[part]
        if len(lines) <= room:
            kept[part] = lines
            room -= len(lines)
    if tall:
        kept[_REWARD] = curves.curves(state, page, height=min(tall + room, curves.MOST_HEIGHT))
    return [_cut(line, width) for part in _PARTS for line in kept.get(part, ())]


def _superfluous(state: PanelState, page: Page) -> list[_Part]:
    """The rows whose numbers the plots show as well; none where there is nothing to plot."""
    if not state.reward and not state.scores:
        return []
    return [_REWARD, _SCORE] if curves.both(state, page) else [_REWARD]


def _cut(line: Text, width: int) -> Text:
    """A last guard: no line is longer than the terminal is wide."""
    if line.cell_len > width:
        line.truncate(width, overflow="crop")
    line.rstrip()
    return line
