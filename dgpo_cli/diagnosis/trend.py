"""By how much a metric has risen since the run began, and how sure that is.

Two means are compared, so nothing is assumed of the course in between. Steps that resemble their
neighbours, as a policy that wanders makes them, count for fewer than they are.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from dgpo_cli.diagnosis.history import FIRST, START, History, Line, number

# Standard errors that a rise or its limit is told with.
SURE = 2.0
# No resemblance of neighbours makes a step count for less than a tenth.
_MOST_ALIKE = 0.8
_LEAST_STEPS = 3


class Rise(NamedTuple):
    """before, now: the two means. error: standard error of their difference."""

    before: float
    now: float
    error: float

    @property
    def size(self) -> float:
        return self.now - self.before

    @property
    def at_most(self) -> float:
        return self.size + SURE * self.error

    @property
    def is_sure(self) -> bool:
        return self.size > SURE * self.error


def rise_since_start(history: History, name: str, *, first: int = FIRST) -> Rise | None:
    """Compare the first steps with the last that are none of them; None where it cannot be."""
    rest = history.count - first
    return _rise(history.early[:first], history.last[-rest:] if rest > 0 else (), name)


def rise_of_late(history: History, name: str) -> Rise | None:
    """Compare the two halves of the last lines."""
    half = len(history.last) // 2
    return _rise(history.last[:half], history.last[half:], name)


def has_risen(history: History, name: str) -> bool:
    """Whether a metric is surely higher than in the first steps, few or many of them."""
    rises = (rise_since_start(history, name, first=n) for n in (START, FIRST))
    return any(rise is not None and rise.is_sure for rise in rises)


def _rise(before: Sequence[Line], now: Sequence[Line], name: str) -> Rise | None:
    parts = [[v for v in (number(x, name) for x in p) if math.isfinite(v)] for p in (before, now)]
    if min(map(len, parts)) < _LEAST_STEPS:
        return None
    means = [statistics.fmean(part) for part in parts]
    rests = [[v - mean for v in part] for part, mean in zip(parts, means, strict=True)]
    squares = sum(v * v for rest in rests for v in rest)
    variance = squares / (sum(map(len, parts)) - len(parts))
    error = math.sqrt(variance * _alike(rests, squares) * sum(1 / len(part) for part in parts))
    return Rise(before=means[0], now=means[1], error=error)


def _alike(rests: Sequence[Sequence[float]], squares: float) -> float:
    """Return the factor by which the variance of a mean grows where neighbours resemble each
    other: (1 + r) / (1 - r) for their correlation r, as in an autoregression of first order."""
    if squares <= 0:
        return 1.0
    products = sum(a * b for rest in rests for a, b in itertools.pairwise(rest))
    alike = min(_MOST_ALIKE, max(0.0, products / squares))
    return (1 + alike) / (1 - alike)
