"""The ticks of an axis: places and labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from dgpo_cli.core.numbers import UNITS, short

_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
MAX_DECADES = 12  # of a logarithmic axis; smaller numbers are drawn at its bottom
_ROUNDING = 1e-3  # of a ceiling: rounded shares may add up to a little more than 1
_LEAST = 1e-300  # smaller numbers count as 0: they have no ticks of their own


@dataclass(frozen=True, slots=True)
class Axis:
    """A range of numbers on a range of units, linear or logarithmic.

    low, high: the numbers at the ends, high > low; start, end: their places.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool
    ticks: tuple[float, ...]

    def at(self, value: float) -> float:
        """Return the place of a number, clamped to the ends."""
        if self.log:
            low, high = math.log10(self.low), math.log10(self.high)
            here = math.log10(max(value, self.low))
        else:
            low, high, here = self.low, self.high, value
        share = min(1.0, max(0.0, (here - low) / (high - low)))
        return self.start + share * (self.end - self.start)

    @property
    def labels(self) -> tuple[str, ...]:
        return tick_labels(self.ticks, log=self.log)

    @property
    def form(self) -> tuple[float, int, str]:
        """Return the format of a number between the ticks: divisor, digits after the point for a
        hundredth of a tick, and unit. With log: 1, 0 and none, for 3 significant digits.
        """
        largest = max((abs(tick) for tick in self.ticks), default=0.0)
        if self.log or not largest:
            return 1.0, 0, ""
        size, unit = next(((s, u) for s, u in UNITS if largest >= 10 * s), (1.0, ""))
        if largest < 1e-3 or largest >= 1e15:
            power = math.floor(math.log10(largest) + 1e-9)
            size, unit = 10.0**power, f"e{power:+03d}"
        step = (self.high - self.low) / max(1, len(self.ticks) - 1) / size
        return size, max(0, -math.floor(math.log10(step / 100) + 1e-9)), unit


def axis(
    values: Sequence[float],
    *,
    start: float,
    end: float,
    log: bool = False,
    floor: float | None = None,
    ceiling: float | None = None,
    count: int = 5,
    tight: bool = False,
    whole: bool = False,
) -> Axis:
    """Return the axis that contains these finite numbers; with log the positive ones.

    floor, ceiling: also contained; numbers above the ceiling by rounding alone are drawn at it.
    count: ticks, about. tight: end at the last number, not at the next tick. whole: ticks are whole
    numbers, as steps are.
    """
    held = [*values, *(each for each in (floor, ceiling) if each is not None)]
    held = [0.0 if abs(value) < _LEAST else value for value in held]
    if log:
        held = [value for value in held if value > 0.0]
        if held:
            return _log_axis(min(held), max(held), start=start, end=end)
        held = [1.0]  # nothing to show: any axis will do
    low, high = _ends(held, floor=floor, ceiling=ceiling, margin=0.5 if whole else None)
    step = _nice_step((high - low) / max(1, count - 1))
    if whole and not step.is_integer():  # 2.5, or below 1
        step = 5.0 if step > 1.0 else 1.0
    if not tight:
        low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    ticks = tuple(_clean(at * step) for at in range(first, last + 1))
    return Axis(low=low, high=high, start=start, end=end, log=False, ticks=ticks)


def _ends(
    held: Sequence[float], *, floor: float | None, ceiling: float | None, margin: float | None
) -> tuple[float, float]:
    """Return the ends of these numbers, apart by a margin if they are equal."""
    low, high = (min(held), max(held)) if held else (0.0, 1.0)
    if ceiling is not None and high - ceiling <= _ROUNDING * abs(ceiling):
        high = ceiling
    if high > low:
        return low, high
    margin = margin or abs(low) * 0.1 or 1.0
    low, high = low - margin, high + margin
    return (max(low, floor), high) if floor is not None and floor < high else (low, high)


def _log_axis(low: float, high: float, *, start: float, end: float) -> Axis:
    top = math.ceil(math.log10(high) - 1e-9)
    bottom = max(math.floor(math.log10(low) + 1e-9), top - MAX_DECADES)
    if bottom == top:
        bottom -= 1
    decades = top - bottom
    every = max(1, math.ceil(decades / 5))
    powers = range(bottom, top + 1, every)
    ticks = [10.0**power for power in powers]
    if decades == 1:
        ticks = [factor * 10.0**bottom for factor in (1, 2, 5)] + [10.0**top]
    return Axis(
        low=10.0**bottom, high=10.0**top, start=start, end=end, log=True, ticks=tuple(ticks)
    )


def _nice_step(raw: float) -> float:
    """Return the smallest of 1, 2, 2.5 and 5 times a power of ten that is at least `raw`."""
    power = 10.0 ** math.floor(math.log10(raw))
    return next(step * power for step in _STEPS if step * power >= raw * (1 - 1e-9))


def _clean(value: float) -> float:
    """Return a tick without rounding errors: 0.3 for 0.30000000000000004."""
    return float(f"{value:.12g}") + 0.0


def tick_labels(ticks: Sequence[float], *, log: bool = False) -> tuple[str, ...]:
    """Return the ticks in as few digits as distinguish them, in one format; 12500 is 12.5k."""
    if log:
        return tuple(short(tick) for tick in ticks)
    largest = max((abs(tick) for tick in ticks), default=0.0)
    if largest and (largest < 1e-3 or largest >= 1e15):
        power = math.floor(math.log10(largest) + 1e-9)
        return tuple(
            "0" if tick == 0 else f"{tick / 10.0**power:.3g}e{power:+03d}" for tick in ticks
        )
    size, unit = next(((s, u) for s, u in UNITS if largest >= 10 * s), (1.0, ""))
    scaled = [tick / size for tick in ticks]
    for digits in range(12):
        texts = [f"{value:.{digits}f}" for value in scaled]
        near = (
            math.isclose(float(text), value, rel_tol=1e-6, abs_tol=1e-12 * largest)
            for text, value in zip(texts, scaled, strict=True)
        )
        if all(near):
            break
    return tuple("0" if float(text) == 0 else f"{text}{unit}" for text in texts)
