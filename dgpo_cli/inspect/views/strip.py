"""The whole completion on one line: a bar a cell, and below it the places of the table's tokens.

A cell is one token, or the mean of several: a high cell is a stretch with much of the credit.
Single tokens that stand out are marked by their rank.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from dgpo_cli.core.text import Glyphs
from dgpo_cli.inspect.views.legend import name_of
from dgpo_cli.inspect.views.linear import Linear
from dgpo_cli.inspect.views.measure import Measure, mean
from dgpo_cli.ui.page import Page
from dgpo_cli.ui.ramp import Ramp
from dgpo_cli.ui.scale import Scale

_ASCII = "_.:-=+*#"  # no digits: the ranks stand below
_RANKS = 9  # marked below the strip: one digit each


def spans(count: int, *, cells: int) -> tuple[tuple[int, int], ...]:
    """Return the tokens (start, stop) of each cell: at most `cells`, as even as possible."""
    cells = min(count, cells)
    return tuple(pairwise(count * cell // cells for cell in range(cells + 1))) if cells else ()


def bar(scale: Scale | Linear, value: float, *, glyphs: Glyphs) -> str:
    """Return the glyph of a number, from the lowest bar at the scale's lower end to the highest.

    A number that is not there has none. On a fitted scale the smallest weight has the lowest bar,
    the largest the highest. Bars of other numbers stand on 0; the furthest from 0 is the highest.
    """
    if math.isnan(value):
        return " "
    steps = _ASCII if glyphs.ascii_only else glyphs.fractions[1:9]
    share, low, high = (scale.share(each) for each in (value, scale.low, scale.high))
    if isinstance(scale, Linear):
        share, low, high = abs(share), 0.0, max(abs(low), abs(high))
    elif scale.is_uniform:
        return steps[3]
    elif not scale.fit:
        low, high = -1.0, 1.0
    height = (share - low) / (high - low) if high else 0.0
    return steps[round(7 * min(1.0, max(0.0, height)))]


def _mean(values: Sequence[float]) -> float:
    """Return the mean of the numbers that tokens have: those of an environment have none."""
    return mean([value for value in values if not math.isnan(value)])


@dataclass(frozen=True, slots=True)
class Strip:
    """The strip of one measure; ramp: None without colour."""

    measure: Measure
    page: Page
    ramp: Ramp | None

    def draw(self, positions: Sequence[int]) -> None:
        """Write the bars, the ranks of these tokens below them, and a caption."""
        if not self.measure.values:
            return
        cells = spans(len(self.measure.values), cells=self.page.width)
        values = [_mean(self.measure.values[start:stop]) for start, stop in cells]
        scale = self.measure.shared(values)
        glyphs = self.page.glyphs
        line = self.page.add()
        for value in values:
            style = self.ramp.ink(scale.level(value)) if self.ramp else ""
            line.append(bar(scale, value, glyphs=glyphs), style=style)
        if not self.measure.scale.is_uniform:
            self._ranks(positions[:_RANKS], cells=cells)
        self.page.paragraph(self._caption(cells, values, scale), "dim")

    def _ranks(self, positions: Sequence[int], *, cells: Sequence[tuple[int, int]]) -> None:
        line = [" "] * len(cells)
        for rank, position in reversed([*enumerate(positions, start=1)]):
            cell = next(at for at, span in enumerate(cells) if span[0] <= position < span[1])
            line[cell] = str(rank)
        self.page.add(("".join(line).rstrip(), "bold"))

    def _caption(
        self,
        cells: Sequence[tuple[int, int]],
        values: Sequence[float],
        scale: Scale | Linear,
    ) -> str:
        sizes = sorted({stop - start for start, stop in cells})
        name = name_of(self.measure.what)
        if sizes == [1]:
            said = f"each bar is the {name} of a token"
        else:
            count = " or ".join(f"{size:,}" for size in sizes)
            low, high = scale.number(scale.low), scale.number(scale.high)
            said = f"each bar is the mean {name} of {count} tokens: {low} to {high}"
        if self.measure.what == "weight":
            said += f"; {bar(scale, 1.0, glyphs=self.page.glyphs)} is about 1, GRPO's"
        if not self.measure.scale.is_uniform:
            said += "; digits: ranks in the table"
        return said
