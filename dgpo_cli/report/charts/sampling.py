"""Fewer points for long curves, and smoother ones; what is unknown stays a gap."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

Values = Sequence[float | None]  # None: unknown, a gap


@dataclass(frozen=True, slots=True)
class Buckets:
    """How the steps of a run are put together: `size` neighbours to a point, the last has the rest.

    Size 1 leaves everything as it is.
    """

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
    """One metric over the points: the mean of the known values, the smallest and the largest.

    low and high are empty where every point is a single step.
    """

    mean: tuple[float | None, ...]
    low: tuple[float | None, ...] = ()
    high: tuple[float | None, ...] = ()


def column(values: Values, *, buckets: Buckets) -> Column:
    """Put values together; no extreme is lost, and a point is unknown where all of it is."""
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
    """The exponential moving average of past values, weights falling by 1 - 2 / (span + 1).

    It looks only backwards and starts without bias: the first is the first value. A gap stays one.
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
    """How many points the curves are smoothed over at first; 1 is not at all."""
    return 1 if count < 20 else max(3, round(count / 25))


def runs_of(values: Values) -> Iterator[tuple[int, int]]:
    """The stretches without a gap, as (start, stop)."""
    start: int | None = None
    for at, value in enumerate([*values, None]):
        if value is not None and start is None:
            start = at
        elif value is None and start is not None:
            yield start, at
            start = None
