"""A forest plot as SVG: an effect a row, its interval, and what it is the mean of as dots."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dgpo_cli.core.text import elide, escaped
from dgpo_cli.report.charts.drawing import mark, number
from dgpo_cli.report.charts.ticks import Axis, axis

ROW, TALL_ROW = 26.0, 42.0  # units; a tall row has its name above
NARROW = 480.0  # units below which rows are tall
_CHARACTER = 6.2  # units of a name of 11 px
_FOOT = 24.0  # for the numbers of the axis


@dataclass(frozen=True, slots=True)
class Effect:
    """A row. low, high: None if there is no interval. text: its numbers, in words."""

    label: str
    look: int
    mean: float
    low: float | None
    high: float | None
    dots: tuple[float, ...]
    text: str
    key: str = ""


def forest(effects: Sequence[Effect], *, title: str, width: float) -> str:
    """Return the plot; the same effects give the same bytes. A line marks 0."""
    tall = forest_height(effects, width=width)
    return (
        f'<svg class="plot forest solo" viewBox="0 0 {number(width)} {number(tall)}" role="img"'
        f' aria-label="{escaped(title)}">{forest_drawing(effects, width=width)}</svg>'
    )


def forest_height(effects: Sequence[Effect], *, width: float) -> float:
    return _row(width) * len(effects) + _FOOT


def forest_drawing(effects: Sequence[Effect], *, width: float) -> str:
    """Return the content of the svg element."""
    foot = _row(width) * len(effects)
    x = _axis(effects, width=width)
    return "".join((*_grid(x, foot=foot), *_rows(effects, x=x, width=width)))


def _row(width: float) -> float:
    return TALL_ROW if width < NARROW else ROW


def _axis(effects: Sequence[Effect], *, width: float) -> Axis:
    held = [0.0]
    for each in effects:
        held += [each.mean, *(end for end in (each.low, each.high) if end is not None)]
    reach = max(held) - min(held)
    held += [d for each in effects for d in each.dots if min(held) - reach < d < max(held) + reach]
    start, end = 24.0, width - 24.0
    if width >= NARROW:
        start += _CHARACTER * max((len(_name(each, width=width)) for each in effects), default=0)
        end -= _CHARACTER * max((len(each.text) for each in effects), default=0)
    return axis(held, start=start, end=end, count=4 if width < NARROW else 6)


def _grid(x: Axis, *, foot: float) -> Iterator[str]:
    """Yield the lines and numbers of the axis; the line of 0 is stronger."""
    lines, texts = [], []
    for tick, text in zip(x.ticks, x.labels, strict=True):
        at = number(x.at(tick))
        kind = ' class="zero"' if tick == 0 else ""
        lines.append(f'<line{kind} x1="{at}" x2="{at}" y1="0" y2="{number(foot)}"/>')
        sign = "+" if tick > 0 else ""
        texts.append(
            f'<text x="{at}" y="{number(foot + 15)}" text-anchor="middle">{sign}{text}</text>'
        )
    yield f'<g class="grid">{"".join(lines)}</g><g class="ticks">{"".join(texts)}</g>'


def _rows(effects: Sequence[Effect], *, x: Axis, width: float) -> Iterator[str]:
    tall = width < NARROW
    for at, each in enumerate(effects):
        y = _row(width) * at + (28.0 if tall else ROW / 2)
        keys = f' data-variant="{escaped(each.key)}"' if each.key else ""
        name = (8.0, y - 12) if tall else (0.0, y + 4)
        yield (
            f'<g class="series s{each.look}"{keys}>'
            f'<text class="label" x="{number(name[0])}" y="{number(name[1])}">'
            f"{escaped(_name(each, width=width))}</text>"
            f'<text class="effect" x="{number(width - (8 if tall else 0))}" y="{number(name[1])}"'
            f' text-anchor="end">{escaped(_text(each, width=width))}</text>'
            f"{''.join(_marks(each, x=x, y=y))}</g>"
        )


def _marks(effect: Effect, *, x: Axis, y: float) -> Iterator[str]:
    """Yield the seeds below the interval; one outside of the axis is an open dot at its end."""
    for dot in effect.dots:
        out = " out" * (not x.low <= dot <= x.high)
        yield f'<circle class="seed{out}" cx="{number(x.at(dot))}" cy="{number(y + 6)}" r="2"/>'
    if effect.low is not None and effect.high is not None:
        start, end = number(x.at(effect.low)), number(x.at(effect.high))
        up, down = number(y - 4), number(y + 4)
        yield (
            f'<path class="inner" d="M{start},{number(y)}H{end}M{start},{up}V{down}'
            f'M{end},{up}V{down}"/>'
        )
    yield mark(effect.look, x.at(effect.mean), y)


def _text(effect: Effect, *, width: float) -> str:
    """Return the numbers; a narrow plot has the interval as a drawing alone."""
    return effect.text if width >= NARROW else re.sub(r" \(.*?\)", "", effect.text)


def _name(effect: Effect, *, width: float) -> str:
    """Return the name, shortened to what its row has room for."""
    if width >= NARROW:
        return elide(effect.label, 34)
    taken = len(_text(effect, width=width)) + 4
    return elide(effect.label, max(8, int(width / _CHARACTER) - taken))
