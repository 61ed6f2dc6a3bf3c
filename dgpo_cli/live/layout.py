"""Puts the parts of the panel together: all of them where there is room, the most telling first.

Which parts there are depends on the size of the terminal and on what is known, not on how much
of it there is at the moment, so that little jumps while a run goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rich.text import Text

from dgpo_cli.core.text import glyphs_for
from dgpo_cli.live import curves, glimpse, parts
from dgpo_cli.live.state import PanelState
from dgpo_cli.ui.page import Page
from dgpo_cli.ui.ramp import Depth

_Draw = Callable[[PanelState, Page], list[Text]]


@dataclass(frozen=True, slots=True, eq=False)  # each is itself: keys that cost nothing
class _Part:
    """rank: parts of a high rank are the first to go on a low terminal.

    shrinks: some of its lines are better than none. moves: it changes between two steps.
    """

    rank: int
    draw: _Draw
    shrinks: bool = False
    moves: bool = False


def _nothing(state: PanelState, page: Page) -> list[Text]:
    return []


def _rule(state: PanelState, page: Page) -> list[Text]:
    return [page.text((page.glyphs.rule * page.width, "dim"))] if state.glimpse else []


_COMPLETIONS = 3  # that come before what fills the height that is left


def _first(state: PanelState, page: Page) -> list[Text]:
    return glimpse.completions(state, page)[:_COMPLETIONS]


def _others(state: PanelState, page: Page) -> list[Text]:
    return glimpse.completions(state, page)[_COMPLETIONS:]


# As they stand on the page. The plots take the place of the rows that they make superfluous.
_REWARD, _SCORE = _Part(2, curves.reward_row), _Part(7, curves.score_row)
_CREDIT = _Part(6, parts.credit)
_PLOTS = _Part(9, _nothing)  # drawn last, with the lines that are left
_OTHERS, _RECENT = _Part(16, _others, shrinks=True), _Part(17, parts.recent, shrinks=True)
_PARTS = (
    _Part(0, parts.header, moves=True),
    _Part(1, parts.progress, moves=True),
    _REWARD,
    _SCORE,
    _Part(4, parts.outcome_rows),
    _Part(8, parts.terms),
    _Part(13, parts.groups),
    _Part(8, parts.lengths),
    _CREDIT,
    _Part(12, parts.policy),
    _Part(10, parts.times),
    _Part(14, parts.memory),
    _RECENT,
    _Part(15, _rule),
    _Part(11, _first, shrinks=True),
    _OTHERS,
    _Part(3, parts.diagnoses),
    _Part(5, parts.now, moves=True),
    _Part(3, parts.keys, moves=True),
)


class DrawnParts:
    """Keeps what was drawn of one state, for the frames between two steps."""

    def __init__(self) -> None:
        self._of: tuple[object, ...] = ()
        self._drawn: dict[object, list[Text]] = {}

    def look_at(self, state: PanelState, page: Page) -> None:
        """Forget everything where a state has other contents than the last, or another place."""
        of = (
            *(state.metrics, state.completions, state.reward, state.entropy, state.scores),
            *(state.effective, state.distance, state.floor, state.recent),
            *(state.glimpse, state.diagnoses, state.memory, state.step, state.total),
        )
        place = (page.width, page.glyphs, page.depth)
        same = len(self._of) == len(of) + 1 and self._of[-1] == place
        if not same or any(a is not b for a, b in zip(of, self._of[:-1], strict=True)):
            self._of, self._drawn = (*of, place), {}

    def get(self, key: object, draw: Callable[[], list[Text]]) -> list[Text]:
        """Return what was drawn under this key, drawing it if need be."""
        if key not in self._drawn:
            self._drawn[key] = draw()
        return self._drawn[key]


def panel(
    state: PanelState,
    *,
    width: int,
    height: int,
    depth: Depth,
    ascii_only: bool = False,
    memory: DrawnParts | None = None,
) -> list[Text]:
    """Return the panel as at most `height` lines of at most `width` cells.

    width, height: what may be filled, at least 1 each. ascii_only: the encoding has nothing else.
    memory: of the frames before, to draw less; it changes nothing of what is returned.
    """
    page = Page(width, glyphs_for(ascii_only=ascii_only), depth)
    memory = memory or DrawnParts()
    memory.look_at(state, page)

    def draw(part: _Part) -> list[Text]:
        def drawn() -> list[Text]:
            return [_cut(line, width) for line in part.draw(state, page)]

        return drawn() if part.moves else memory.get(part, drawn)

    every = {part: draw(part) for part in _PARTS}
    room = height
    kept: dict[_Part, list[Text]] = {}
    heights: list[int] = []
    for part in sorted((*_PARTS, _PLOTS), key=lambda part: part.rank):
        if part is _PLOTS:
            superfluous = [row for row in _superfluous(state, page) if row in kept]
            freed = sum(len(kept[row]) for row in superfluous)
            if superfluous and room + freed >= curves.LEAST_HEIGHT:
                room, heights = room + freed - curves.LEAST_HEIGHT, [curves.LEAST_HEIGHT]
                kept |= {row: [] for row in superfluous}
            continue
        if part is _OTHERS and heights:
            room = _grow(
                heights, room, rows=-(-len(curves.plots(state, page)) // curves.across(page))
            )
        lines = every[part][:room] if part.shrinks else every[part]
        if len(lines) <= room:
            kept[part] = lines
            room -= len(lines)
    if heights:
        heights[-1] = min(heights[-1] + room, curves.MOST_HEIGHT)
        key = tuple(heights)
        kept[_REWARD] = memory.get(key, lambda: _curves(state, page, heights=key))
    return [line for part in _PARTS for line in kept.get(part, ())]


def _grow(heights: list[int], room: int, *, rows: int) -> int:
    """Give rows of plots what is left of the height, but for half of it; return what remains.

    heights: of the rows so far, which is changed.
    """
    spend = room - room // 2
    while len(heights) < rows and spend >= curves.LEAST_HEIGHT:
        heights.append(curves.LEAST_HEIGHT)
        spend, room = spend - curves.LEAST_HEIGHT, room - curves.LEAST_HEIGHT
    while spend >= len(heights) and heights[0] < curves.MOST_HEIGHT:
        heights[:] = [each + 1 for each in heights]
        spend, room = spend - len(heights), room - len(heights)
    return room


def _superfluous(state: PanelState, page: Page) -> list[_Part]:
    """The rows whose numbers the plots of the first row show as well."""
    shown = [plot.name for plot in curves.plots(state, page)[: curves.across(page)]]
    return [row for name, row in (("reward", _REWARD), ("score", _SCORE)) if name in shown]


def _curves(state: PanelState, page: Page, *, heights: tuple[int, ...]) -> list[Text]:
    return [_cut(line, page.width) for line in curves.curves(state, page, heights=heights)]


def _cut(line: Text, width: int) -> Text:
    """A last guard: no line is longer than the terminal is wide."""
    if line.cell_len > width:
        line.truncate(width, overflow="crop")
    line.rstrip()
    return line
