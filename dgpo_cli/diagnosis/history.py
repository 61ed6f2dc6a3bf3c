"""The metrics of a run as diagnoses look at them: how it started, and a window of its last steps.

A diagnosis needs only both ends of a run. One step proves nothing: batches are small, so a window
holds enough steps to be no accident and enough groups for a share of them to mean something.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from dgpo_cli.core.types import Interval
from dgpo_cli.stats.intervals import wilson

Line = Mapping[str, float | None]

# Steps of a window at least: a single odd batch, or two, raise nothing.
WINDOW = 5
# Groups of a window at least: if every third group has signal, 20 have none once in 3,000 times.
MIN_GROUPS = 20
# First steps of a run, of weights that are still close to those it began with.
START = 5
# First lines that no diagnosis looks beyond: what a trend is held against.
FIRST = 20
# Lines that no diagnosis looks behind: two windows of 20 steps of one group each.
LAST = 2 * MIN_GROUPS
# Standard errors from which a change is one: once in 4,000 windows by chance, and a run has many.
SIGMAS = 3.5


def steps_needed(prompts_per_step: int) -> int:
    """How many steps make a window: a shorter run is not diagnosed."""
    return max(WINDOW, math.ceil(MIN_GROUPS / prompts_per_step))


class History:
    """The lines of metrics of a run, oldest first; lines that are no training step do not count.

    A number that is missing, null or not finite is unknown, and no diagnosis is made from it.
    """

    def __init__(self, lines: Sequence[Line], *, prompts_per_step: int) -> None:
        steps = [line for line in lines if math.isfinite(number(line, "reward/mean"))]
        self.start: Sequence[Line] = steps[:START]
        self.early: Sequence[Line] = steps[:FIRST]
        self.last: Sequence[Line] = steps[-LAST:]
        self.count = len(steps)
        self.prompts_per_step = prompts_per_step
        self.width = steps_needed(prompts_per_step)

    @property
    def step(self) -> int:
        """Number of the last step; where it is unknown, how many there are."""
        step = number(self.last[-1], "step")
        return int(step) if math.isfinite(step) else self.count

    @property
    def has_window(self) -> bool:
        return self.count >= self.width

    def known(self, name: str, *, width: int | None = None) -> list[float]:
        """Return what is known of a metric in the window, or in the last `width` lines."""
        return _known(self.last[-(width or self.width) :], name)

    def newest(self, name: str, *, count: int) -> list[float]:
        """Return the last `count` known values, however many lines lack it in between."""
        return _known(self.last, name)[-count:]

    def first(self, name: str, *, count: int = START) -> list[float]:
        """Return what is known of a metric in the first `count` lines, those of no window."""
        before = self.count - self.width
        return _known(self.start[: max(0, min(count, before))], name)

    def groups(self, lines: Sequence[Line]) -> float:
        """Return how many groups were drawn in some steps."""
        drawn = [number(line, "dynamic/groups_sampled") for line in lines]
        return sum(each if each > 0 else self.prompts_per_step for each in drawn)

    def share(self, name: str) -> float:
        """Return a share over the groups or completions of the window; NaN where unknown."""
        return self._share(self.last[-self.width :], name)

    def mean(self, name: str, width: int) -> float:
        """Return a share over the groups or completions of the last `width` lines."""
        return self._share(self.last[-width:], name)

    def likely(self, name: str) -> Interval:
        """Return where the share lies with 95%, counted by groups.

        Completions of a group resemble each other: a share of them is taken as if it was of so
        many groups, which is the widest it can be.
        """
        lines = self.last[-self.width :]
        share = self._share(lines, name)
        if math.isnan(share):
            return Interval(0.0, 1.0)
        return wilson(min(1.0, max(0.0, share)), size=self.groups(lines))

    def begun_with(self, name: str) -> float:
        """Return a share in the first steps; NaN where there are none before the window."""
        return self._share(self.start[: max(0, self.count - self.width)], name)

    def fallen(self, name: str) -> tuple[float, float] | None:
        """Return a share in the first steps and in the window, if it is surely less than half.

        The first step alone, three and five of them are tried: a policy can break at its first
        update, and there may be many groups in a step or few. A window of four times the width
        sees the same fall where groups are few.
        """
        for width in (self.width, 4 * self.width):
            for count in (1, 3, START):
                if self.count < width + count or len(self.last) < width:
                    break
                found = self._difference(self.start[:count], self.last[-width:], name)
                if found is not None:
                    return found
        return None

    def _difference(
        self, start: Sequence[Line], window: Sequence[Line], name: str
    ) -> tuple[float, float] | None:
        before, few = self._share(start, name), self.groups(start)
        now, many = self._share(window, name), self.groups(window)
        if not now < before / 2:
            return None
        both = (before * few + now * many) / (few + many)
        error = math.sqrt(both * (1 - both) * (1 / few + 1 / many))
        return (before, now) if before - now > SIGMAS * error else None

    def rises(self, name: str) -> bool:
        """Whether a metric rose from the window before to this one by twice its error."""
        now = self.known(name)
        before = _known(self.last[-2 * self.width : -self.width], name)
        if len(now) < 2 or len(before) < 2:
            return False
        error = math.sqrt(
            statistics.variance(now) / len(now) + statistics.variance(before) / len(before)
        )
        return statistics.fmean(now) - statistics.fmean(before) > 2 * error

    @property
    def span(self) -> str:
        """The steps of the window, as a reader is told."""
        return self.last_steps(self.width)

    def last_steps(self, width: int) -> str:
        """The last `width` steps, as a reader is told."""
        first = number(self.last[-width:][0], "step")
        if not first < self.step:
            return f"step {self.step}"
        return f"steps {int(first)} to {self.step}"

    def _share(self, lines: Sequence[Line], name: str) -> float:
        known = [line for line in lines if math.isfinite(number(line, name))]
        if not known:
            return math.nan
        weights = [self.groups([line]) for line in known]
        values = [number(line, name) for line in known]
        return sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)


def number(line: Line, name: str) -> float:
    """Return a metric of one step; NaN where it is missing or null."""
    value = line.get(name)
    return math.nan if value is None else float(value)


def _known(lines: Sequence[Line], name: str) -> list[float]:
    values = (number(line, name) for line in lines)
    return [value for value in values if math.isfinite(value)]


# Standard errors that a rise or its limit is told with.
SURE = 2.0
# No resemblance of neighbours makes a step count for less than a tenth.
_MOST_ALIKE = 0.8
_LEAST_STEPS = 3


class Rise(NamedTuple):
    """By how much a metric has risen since the run began.

    Two means are compared, so nothing is assumed of the course in between. Steps that resemble
    their neighbours, as a policy that wanders makes them, count for fewer than they are.

    before, now: the two means. error: standard error of their difference.
    """

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
