"""The value along a completion as bars over its strip, with the interval of each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rich.style import Style
from rich.text import Text

from dgpo_cli.core.numbers import short, worth
from dgpo_cli.core.text import Glyphs, plain, split_words
from dgpo_cli.core.types import InspectedCompletion, Inspection, ValueCurve
from dgpo_cli.inspect.values.moves import Along, clear_moves, range_of, value_words, values_text
from dgpo_cli.inspect.views.strip import spans
from dgpo_cli.ui.page import Page
from dgpo_cli.ui.ramp import Depth

ROWS = 5
_PARTS = 8  # of a cell
_NAMES = "abc"  # of the moves that are named
# Up to the interval's lower end, to the value, to the upper end: of middle lightness, to stand out
# from light and dark terminals; what is less certain is less saturated.
_INKS: dict[Depth, tuple[str, str, str]] = {
    "truecolor": ("#159c8c", "#5f9a92", "#878f8e"),
    "256": ("color(36)", "color(66)", "color(245)"),
    "16": ("color(6)", "color(6)", "color(8)"),
}
_NO_INKS = ("", "", "")


def values_field(page: Page, inspection: Inspection) -> None:
    """Write what the values are estimated from, if there are any."""
    if inspection.values is not None:
        page.field("values", values_text(inspection.values))


def words(page: Page, shown: InspectedCompletion) -> None:
    """Write which tokens decided the outcome, with the letters that mark them in the curve."""
    if shown.values is None:
        return
    found = clear_moves(shown.values)
    for at, sentence in enumerate(value_words(shown, glyphs=page.glyphs)):
        name = f"{_NAMES[at]}  " if found else ""
        rest = f"{name}{sentence}"
        while rest:  # the quoted text may be one long word
            line, rest = split_words(rest, page.width)
            page.add((line.rstrip(), "bold" if at == 0 else ""))


@dataclass(frozen=True, slots=True)
class ValueBars:
    """The curve of one completion; drawn nothing where it has no tokens."""

    curve: ValueCurve
    page: Page

    def draw(self) -> None:
        """Write the bars, the letters of the largest moves below them, and a caption."""
        along = Along.of(self.curve)
        cells = spans(len(along.value) - 1, cells=self.page.width)
        if not cells:
            return
        low, high = range_of(self.curve)

        def heights(values: Sequence[float]) -> list[int]:
            shares = [(values[stop] - low) / (high - low) for _, stop in cells]
            return [0 if math.isnan(s) else round(ROWS * _PARTS * min(1.0, s)) for s in shares]

        columns = [*zip(*map(heights, (along.low, along.value, along.high)), strict=True)]
        inks = _INKS.get(self.page.depth, _NO_INKS)
        for row in reversed(range(ROWS)):
            line = self.page.add()
            for column in columns:
                _cell(line, column, row * _PARTS, inks=inks, glyphs=self.page.glyphs)
            line.rstrip()
        self._names(cells)
        self.page.paragraph(self._caption(cells, low, high), "dim")

    def _names(self, cells: Sequence[tuple[int, int]]) -> None:
        line = [" "] * len(cells)
        for name, move in reversed([*zip(_NAMES, clear_moves(self.curve), strict=False)]):
            cell = next(at for at, span in enumerate(cells) if span[1] >= move.stop)
            line[cell] = name
        if "".join(line).strip():
            self.page.add(("".join(line).rstrip(), "bold"))

    def _caption(self, cells: Sequence[tuple[int, int]], low: float, high: float) -> str:
        first, last = self.curve.points[0], self.curve.points[-1]
        one = all(stop - start == 1 for start, stop in cells)
        each = "after a token" if one else f"after up to {max(b - a for a, b in cells):,} tokens"
        said = (
            f"each bar is the value {each}, {short(low)} to {short(high)}: "
            f"{worth(first.value)} before the first, {worth(last.value)} at the end"
        )
        if self.page.depth in ("truecolor", "256"):
            said += "; paler: the 95% interval, around the value"
        return said


def _cell(
    line: Text, column: tuple[int, int, int], base: int, *, inks: Sequence[str], glyphs: Glyphs
) -> None:
    """Write a cell of a column whose lower end is `base`, as exactly as two colours allow.

    The value itself is never moved; an end of the interval that shares its cell is.
    """
    low, value, high = (min(_PARTS, max(0, each - base)) for each in column)
    solid, medium, faint = inks
    if not solid:
        line.append(_glyph(value, glyphs))
    elif 0 < value < _PARTS:
        below = solid if low == value or low > 0 else medium
        line.append(_glyph(value, glyphs), style=_ink(below, faint if high > value else ""))
    elif value == 0:
        line.append(_glyph(high, glyphs), style=_ink(faint))
    elif low == 0:
        line.append(_glyph(_PARTS, glyphs), style=_ink(medium))
    else:
        line.append(_glyph(low, glyphs), style=_ink(solid, medium if low < _PARTS else ""))


def _ink(color: str, back: str = "") -> Style:
    return Style(color=color, bgcolor=back or None)


def _glyph(parts: int, glyphs: Glyphs) -> str:
    """Return the block that fills `parts` of a cell."""
    if not parts:
        return " "
    if glyphs.ascii_only:
        return "_.:-=+*#"[parts - 1]
    return glyphs.fractions[parts]


def beside(pages: Sequence[Page], *, on: Page) -> None:
    """Write the lines of narrow pages side by side."""
    rows = max(len(page.lines) for page in pages)
    for row in range(rows):
        line = on.add()
        for page in pages:
            own = page.lines[row] if row < len(page.lines) else plain("")
            assert isinstance(own, Text)
            line.append_text(own)
            if page is not pages[-1]:
                line.append(" " * (page.width - own.cell_len + 3))
