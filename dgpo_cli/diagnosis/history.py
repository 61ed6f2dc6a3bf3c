"""The metrics of a run as diagnoses read them: its first steps and a window of its last ones.

Batches are small and one step proves nothing, so a window has a minimum of steps and of groups.
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

# Least steps of a window: one or two odd batches do not trigger a diagnosis.
WINDOW = 5
# Least groups of a window: if every third group has signal, 20 have none once in 3,000 times.
MIN_GROUPS = 20
# First steps of a run, whose weights are still close to the initial ones.
START = 5
# First lines that a diagnosis reads: the baseline of a trend.
FIRST = 20
# Last lines that a diagnosis reads: two windows of 20 steps of one group each.
LAST = 2 * MIN_GROUPS
# Standard errors of a significant change: by chance once in 4,000 windows, and a run has many.
SIGMAS = 3.5


def steps_needed(prompts_per_step: int) -> int:
    """Return the steps of a window; a shorter run is not diagnosed."""
    return max(WINDOW, math.ceil(MIN_GROUPS / prompts_per_step))


class History:
    """The metric lines of a run's training steps, oldest first.

    A number that is missing, null or not finite is unknown; no diagnosis uses it.
    """

    def __init__(self, lines: Sequence[Line], *, prompts_per_step: int) -> None:
        steps = [
            line
            for line in lines
            # Of a step whose rewards all failed the mean is unknown.
            if math.isfinite(number(line, "reward/mean")) or number(line, "reward/unscored") == 1
        ]
        self.start: Sequence[Line] = steps[:START]
        self.early: Sequence[Line] = steps[:FIRST]
        self.last: Sequence[Line] = steps[-LAST:]
        self.count = len(steps)
        self.prompts_per_step = prompts_per_step
        self.width = steps_needed(prompts_per_step)

    @property
    def step(self) -> int:
        """Number of the last step; the number of steps if unknown."""
        step = number(self.last[-1], "step")
        return int(step) if math.isfinite(step) else self.count

    @property
    def has_window(self) -> bool:
        return self.count >= self.width

    def known(self, name: str, *, width: int | None = None) -> list[float]:
        """Return the known values of a metric in the window, or in the last `width` lines."""
        return _known(self.last[-(width or self.width) :], name)

    def newest(self, name: str, *, count: int) -> list[float]:
        """Return the last `count` known values, over any number of lines that lack it."""
        return _known(self.last, name)[-count:]

    def first(self, name: str, *, count: int = START) -> list[float]:
        """Return the known values in the first `count` lines before the window."""
        before = self.count - self.width
        return _known(self.start[: max(0, min(count, before))], name)

    def groups(self, lines: Sequence[Line]) -> float:
        """Return the number of groups drawn in these steps."""
        drawn = [number(line, "dynamic/groups_sampled") for line in lines]
        return sum(each if each > 0 else self.prompts_per_step for each in drawn)

    def share(self, name: str, *, width: int | None = None) -> float:
        """Return a share over the window, or the last `width` lines; NaN if unknown."""
        return self._share(self.last[-(width or self.width) :], name)

    def likely(self, name: str) -> Interval:
        """Return the 95% interval of a share, with the number of groups as sample size.

        Completions of a group resemble each other; this is the widest the interval can be.
        """
        lines = self.last[-self.width :]
        share = self._share(lines, name)
        if math.isnan(share):
            return Interval(0.0, 1.0)
        return wilson(min(1.0, max(0.0, share)), size=self.groups(lines))

    def initial(self, name: str) -> float:
        """Return a share in the first steps; NaN without steps before the window."""
        return self._share(self.start[: max(0, self.count - self.width)], name)

    def fallen(self, name: str) -> tuple[float, float] | None:
        """Return a share in the first steps and in the window if it significantly halved.

        The first step alone, three and five are tried: a policy can break at its first update,
        and steps may have many groups or few. With few groups a window of four times the width
        shows the same fall.
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
        """Whether a metric rose since the previous window by twice its standard error."""
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
        """The steps of the window, for messages."""
        return self.last_steps(self.width)

    def last_steps(self, width: int) -> str:
        """Return the last `width` steps, for messages."""
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


# Standard errors of a rise that is sure, or of its upper limit.
SURE = 2.0
# Largest correlation of neighbouring steps: a step counts for at least a ninth.
_MAX_CORRELATION = 0.8
_LEAST_STEPS = 3


class Rise(NamedTuple):
    """The rise of a metric between two parts of a run.

    It compares two means and assumes nothing of the course in between. Correlated steps count
    for fewer than they are.

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
    """Compare the first steps with the last of the others; None with too few."""
    rest = history.count - first
    return _rise(history.early[:first], history.last[-rest:] if rest > 0 else (), name)


def recent_rise(history: History, name: str) -> Rise | None:
    """Compare the two halves of the last lines."""
    half = len(history.last) // 2
    return _rise(history.last[:half], history.last[half:], name)


def has_risen(history: History, name: str) -> bool:
    """Whether a metric is significantly higher than in the first 5 or 20 steps."""
    rises = (rise_since_start(history, name, first=n) for n in (START, FIRST))
    return any(rise is not None and rise.is_sure for rise in rises)


def _rise(before: Sequence[Line], now: Sequence[Line], name: str) -> Rise | None:
    parts = [_known(part, name) for part in (before, now)]
    if min(map(len, parts)) < _LEAST_STEPS:
        return None
    means = [statistics.fmean(part) for part in parts]
    rests = [[v - mean for v in part] for part, mean in zip(parts, means, strict=True)]
    squares = sum(v * v for rest in rests for v in rest)
    variance = squares / (sum(map(len, parts)) - len(parts))
    error = math.sqrt(variance * _inflation(rests, squares) * sum(1 / len(part) for part in parts))
    return Rise(before=means[0], now=means[1], error=error)


def _inflation(rests: Sequence[Sequence[float]], squares: float) -> float:
    """Return the factor by which correlated neighbours inflate the variance of a mean:
    (1 + r) / (1 - r) for their correlation r, as in an autoregression of first order."""
    if squares <= 0:
        return 1.0
    products = sum(a * b for rest in rests for a, b in itertools.pairwise(rest))
    correlation = min(_MAX_CORRELATION, max(0.0, products / squares))
    return (1 + correlation) / (1 - correlation)
