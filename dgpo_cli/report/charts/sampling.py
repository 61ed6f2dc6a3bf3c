"""Downsampling and smoothing of curves; unknown values stay gaps."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

Values = Sequence[float | None]  # None: unknown, a gap


@dataclass(frozen=True, slots=True)
class Buckets:
    """The steps of each point: `size` neighbours, the rest for the last."""

    count: int
    size: int

    @classmethod
    def of(cls, count: int, *, at_most: int) -> Buckets:
        return cls(count=count, size=max(1, math.ceil(count / at_most)))

    def __iter__(self) -> Iterator[tuple[int, int]]:
        for start in range(0, self.count, self.size):
            yield start, min(self.count, start + self.size)


@dataclass(frozen=True, slots=True)
class Column:
    """A metric over the points: mean, smallest and largest of the known values.

    low and high are empty if every point is a single step.
    """

    mean: tuple[float | None, ...]
    low: tuple[float | None, ...] = ()
    high: tuple[float | None, ...] = ()


def column(values: Values, *, buckets: Buckets) -> Column:
    """Summarise values by bucket; a point is unknown if all its values are."""
    if buckets.size == 1:
        return Column(tuple(values))
    mean: list[float | None] = []
    low: list[float | None] = []
    high: list[float | None] = []
    for start, stop in buckets:
        known = [value for value in values[start:stop] if value is not None]
        mean.append(math.fsum(known) / len(known) if known else None)
        low.append(min(known) if known else None)
        high.append(max(known) if known else None)
    return Column(tuple(mean), tuple(low), tuple(high))


def smoothed(values: Values, *, span: float) -> list[float | None]:
    """Return the exponential moving average of past values, with decay 1 - 2 / (span + 1).

    It starts without bias, at the first value. Gaps stay gaps.
    """
    keep = 1.0 - 2.0 / (span + 1.0)
    total = weight = 0.0
    found: list[float | None] = []
    for value in values:
        if value is None:
            found.append(None)
            continue
        total = keep * total + value
        weight = keep * weight + 1.0
        found.append(total / weight)
    return found


def usual_span(count: int) -> int:
    """Return the initial smoothing in points; 1 is none."""
    return 1 if count < 20 else max(3, round(count / 25))


def runs_of(values: Values) -> Iterator[tuple[int, int]]:
    """Yield the ranges without a gap, as (start, stop)."""
    start: int | None = None
    for at, value in enumerate([*values, None]):
        if value is not None and start is None:
            start = at
        elif value is None and start is not None:
            yield start, at
            start = None
