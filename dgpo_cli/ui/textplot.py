"""Small plots in text: curves of braille dots with numbers at their axes, and sparklines.

A cell of braille has 2 x 4 dots; in ASCII, a cell has one of three levels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

Point = tuple[float, float]  # x and y

_BRAILLE = 0x2800
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # [row][column] of a cell
_ASCII_CELLS = " .-:'::|"  # by bits for low, middle and high
_BLOCKS = "▁▂▃▄▅▆▇█"
_ASCII_BLOCKS = "_.-=+*%#"
_TICKS = 5  # parts of an axis at most


@dataclass(frozen=True, slots=True)
class TextAxis:
    """From `low` to `high` in parts of `step`, all of them short numbers."""

    low: float
    high: float
    step: float

    def label(self, value: float) -> str:
        digits = max(0, -math.floor(math.log10(self.step) + 1e-9))
        if self.step >= 1e5 or digits > 4:
            return f"{value:.1e}"
        return f"{value + 0.0:,.{digits}f}"


_LEAST_SPAN = 1e-290  # the logarithm of a part of less is not finite


def nice_axis(low: float, high: float, *, least: float = 0.0) -> TextAxis:
    """Return the shortest axis with round ends that contains low to high.

    least: the smallest span, so that a flat curve is not magnified noise.
    """
    if high - low < least:
        middle = (low + high) / 2
        low, high = middle - least / 2, middle + least / 2
    if high - low < _LEAST_SPAN:
        high = low + (abs(low) if abs(low) > _LEAST_SPAN else 1.0) * 0.1
    power = 10.0 ** math.floor(math.log10((high - low) / _TICKS))
    for factor in (1.0, 2.0, 5.0, 10.0, 20.0):
        step = factor * power
        bottom, top = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        if top - bottom <= _TICKS:
            return TextAxis(bottom * step, top * step, step)
    raise AssertionError("20 times a power of ten below a fifth of the span has few parts")


def growing_end(step: int, *, total: int) -> int:
    """Return the end of the axis of steps: it doubles up to `total`, so that a curve is not
    rescaled at every step."""
    end = 25
    while end < step:
        end *= 2
    return max(1, step, total if 2 * end > total else end)


def plot(
    points: Sequence[Point],
    *,
    width: int,
    height: int,
    x_end: float,
    axis: TextAxis | None = None,
    ascii_only: bool = False,
) -> list[str]:
    """Draw a curve from x = 0 to `x_end` as `height` lines, the last with the numbers of x.

    Points in a column are averaged; those that are not finite are left out. Every line has at most
    `width` cells.
    """
    known = [(x, y) for x, y in points if math.isfinite(y)]
    if axis is None:
        values = [y for _, y in known] or [0.0]
        axis = nice_axis(min(values), max(values))
    rows = height - 1
    labels = _labels(axis, rows)
    margin = max(map(len, labels))
    cells = max(2, width - margin - 1)
    canvas = _Canvas(cells, rows, ascii_only=ascii_only)
    canvas.draw(_columns(known, count=canvas.across, x_end=x_end), axis)
    bar, tick, corner = "||+" if ascii_only else "│┤└"
    lines = [
        f"{label:>{margin}}{tick if label else bar}{row}".rstrip()
        for label, row in zip(labels, canvas.rows(), strict=True)
    ]
    end = f"{x_end:,.0f}"
    rule = ("-" if ascii_only else "─") * max(0, cells - len(end) - 1)
    return [*lines, f"{'0':>{margin}}{corner}{rule} {end}"[:width]]


def sparkline(values: Sequence[float], *, width: int, ascii_only: bool = False) -> str:
    """Draw values as one character each, averaged if there are more than `width`."""
    known = [value for value in values if math.isfinite(value)]
    if not known or width < 1:
        return ""
    if len(known) > width:
        edges = [at * len(known) // width for at in range(width + 1)]
        known = [sum(known[a:b]) / (b - a) for a, b in pairwise(edges)]
    glyphs = _ASCII_BLOCKS if ascii_only else _BLOCKS
    low = min(known)
    span = max(known) - low
    if span <= 1e-9 * max(1.0, abs(low)):
        return glyphs[len(glyphs) // 2 - 1] * len(known)
    top = len(glyphs) - 1
    return "".join(glyphs[round((value - low) / span * top)] for value in known)


def _labels(axis: TextAxis, rows: int) -> list[str]:
    """Return the numbers next to the rows: the ends, and those between that meet a row."""
    labels = [""] * rows
    parts = round((axis.high - axis.low) / axis.step)
    for part in range(parts + 1):
        place = (rows - 1) * (1 - part / parts)
        if part in (0, parts) or (rows >= 4 and abs(place - round(place)) < 0.2):
            labels[round(place)] = axis.label(axis.low + part * axis.step)
    return labels


def _columns(points: Sequence[Point], *, count: int, x_end: float) -> list[tuple[int, float]]:
    """Average the points of each of `count` columns; columns without any are left out.

    No x is negative; what lies beyond `x_end` is in the last column.
    """
    sums, numbers = [0.0] * count, [0] * count
    scale = (count - 1) / x_end if x_end > 0 else 0.0
    last = count - 1
    for x, y in points:  # tens of thousands: kept simple
        column = int(x * scale + 0.5)
        if column > last:
            column = last
        sums[column] += y
        numbers[column] += 1
    return [(at, sums[at] / number) for at, number in enumerate(numbers) if number]


class _Canvas:
    """A grid of dots, drawn on column by column."""

    def __init__(self, cells: int, rows: int, *, ascii_only: bool) -> None:
        self._cells, self._rows, self._ascii = cells, rows, ascii_only
        self.across = cells if ascii_only else 2 * cells
        self._down = (3 if ascii_only else 4) * rows
        self._dots: list[set[int]] = [set() for _ in range(self.across)]

    def draw(self, columns: Sequence[tuple[int, float]], axis: TextAxis) -> None:
        """Join the columns' values by lines."""
        height = self._down - 1
        span = axis.high - axis.low
        heights = [
            (column, min(max((value - axis.low) / span, 0.0), 1.0) * height)
            for column, value in columns
        ]
        if len(heights) == 1:
            self._dots[heights[0][0]].add(round(heights[0][1]))
        for (x0, y0), (x1, y1) in pairwise(heights):
            before = round(y0)
            for column in range(x0, x1 + 1):
                now = round(y0 + (y1 - y0) * (column - x0) / (x1 - x0))
                low, high = min(before, now), max(before, now)
                self._dots[column].update(range(low + (before < now), high + (before <= now)))
                self._dots[column].add(now)
                before = now

    def rows(self) -> list[str]:
        """The dots as text, the top row first."""
        bits = [[0] * self._cells for _ in range(self._rows)]
        for column, dots in enumerate(self._dots):  # far fewer dots than places
            cell, side = (column, 0) if self._ascii else divmod(column, 2)
            for dot in dots:
                up, level = divmod(dot, 3 if self._ascii else 4)
                bit = 1 << level if self._ascii else _DOTS[3 - level][side]
                bits[self._rows - 1 - up][cell] |= bit
        write = _ASCII_CELLS.__getitem__ if self._ascii else _braille
        return ["".join(map(write, row)) for row in bits]


def _braille(bits: int) -> str:
    return chr(_BRAILLE + bits) if bits else " "
