"""Differences between variants of a study, paired by seed, and numbers of a training curve.

The seeds are the observations: a variant and its baseline see the same prompts and sampling seeds
in a pair, and pairs are independent. No torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from statistics import NormalDist

import numpy as np

from dgpo_cli.core.schema import Count, Real
from dgpo_cli.core.types import Interval
from dgpo_cli.core.types.evaluation import Ends
from dgpo_cli.stats.comparison import LEVEL, POWER, spread_of
from dgpo_cli.stats.intervals import NORMAL_95, student_cdf, student_quantile
from dgpo_cli.stats.permutation import holm

POINT = 0.01  # the difference whose number of seeds is told
GAPS = 0.1  # share of steps that may be missing from a curve
_EQUAL = 1e-12  # spreads below this share of the numbers are rounding
_NORMAL_FROM = 2000  # seeds from which Student's t is taken as normal
_FAR = 9.0  # standard deviations beyond which nothing is left
_NODES = tuple(zip(*(each.tolist() for each in np.polynomial.legendre.leggauss(80)), strict=True))
_UNKNOWN = Interval(math.nan, math.nan)


@dataclass(frozen=True, slots=True)
class SeedMean:
    """The mean over seeds, and its standard error; null is unknown.

    interval_95: Student's; null for one seed.
    """

    seeds: Count
    mean: Real
    stderr: Real
    interval_95: Ends


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """A variant minus its baseline, over the seeds that both have; null is unknown.

    interval_95: Student's; null for one pair, or if every pair has the same difference, which says
        nothing of the spread. Where all are 0 it is [0, 0]: the variants did the same.
    p: of the paired t test, two-sided. p_holm: adjusted for the variants that are compared.
    seeds_for_point: seeds that would show a difference of 0.01 with power 0.8 at the 5% level, if
        the differences spread as these do.
    left_out: seeds that only one of the two has.
    """

    seeds: Count
    mean: Real
    stderr: Real
    interval_95: Ends
    p: Real
    p_holm: Real
    seeds_for_point: Count | None
    left_out: tuple[Count, ...]

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval is known and does not contain 0."""
        return self.interval_95.low > 0 or self.interval_95.high < 0

    @property
    def shown(self) -> bool:
        """Whether there is a difference at the 5% level, adjusted for all that are compared."""
        return self.p_holm < LEVEL


def mean_over_seeds(values: Mapping[int, float]) -> SeedMean:
    """Return the mean of the known values, one a seed."""
    known = _known(values)
    found = list(known.values())
    mean = math.fsum(found) / len(found) if found else math.nan
    stderr = spread_of(found) / math.sqrt(len(found)) if found else math.nan
    return SeedMean(len(found), mean, stderr, _student(mean, stderr, n=len(found)))


def paired_difference(
    baseline: Mapping[int, float], variant: Mapping[int, float]
) -> PairedDifference:
    """Return the mean of variant minus baseline over the seeds that both know; p is not adjusted.

    Source: Student, Biometrika 6 (1908) 1.
    """
    old, new = _known(baseline), _known(variant)
    both = sorted(old.keys() & new.keys())
    left_out = tuple(sorted(old.keys() ^ new.keys()))
    found = [new[seed] - old[seed] for seed in both]
    n = len(found)
    mean = math.fsum(found) / n if n else math.nan
    spread = spread_of(found)
    size = max((max(abs(old[seed]), abs(new[seed])) for seed in both), default=0.0)
    if spread <= _EQUAL * size:
        if abs(mean) <= _EQUAL * size:
            return PairedDifference(n, 0.0, 0.0, Interval(0.0, 0.0), 1.0, 1.0, None, left_out)
        spread = math.nan
    stderr = spread / math.sqrt(n) if n else math.nan
    p = math.nan
    if not math.isnan(stderr):
        p = 2 * student_cdf(-abs(mean / stderr), freedom=n - 1)
    interval = _student(mean, stderr, n=n)
    return PairedDifference(n, mean, stderr, interval, p, p, seeds_needed(spread), left_out)


def adjusted(differences: Sequence[PairedDifference]) -> list[PairedDifference]:
    """Return the differences with p_holm for all of them together; unknown p do not count.

    Source: `holm`.
    """
    known = [at for at, each in enumerate(differences) if not math.isnan(each.p)]
    values = dict(zip(known, holm([differences[at].p for at in known]), strict=True))
    return [replace(each, p_holm=values.get(at, math.nan)) for at, each in enumerate(differences)]


def seeds_needed(spread: float, *, difference: float = POINT, power: float = POWER) -> int | None:
    """Return the seeds with which a paired t test at 5% shows `difference` that often.

    spread: the standard deviation of a pair's difference; None if it is unknown.
    """
    if not math.isfinite(spread):
        return None
    effect = difference / spread if spread else math.inf
    guess = ((NORMAL_95 + NormalDist().inv_cdf(power)) / effect) ** 2
    if guess > _NORMAL_FROM:
        return math.ceil(guess)
    seeds = max(2, math.ceil(guess))  # of a known spread: never more than for an estimated one
    while power_of(effect, seeds=seeds) < power:
        seeds += 1
    return seeds


@lru_cache(maxsize=4096)
def power_of(effect: float, *, seeds: int) -> float:
    """Return the chance that a paired t test at 5%, two-sided, rejects.

    effect: the true mean difference over the standard deviation of a pair's. This is the noncentral
    t distribution: an integral over the estimated spread w, relative to the true one, which is
    distributed as chi over the root of its degrees of freedom.
    """
    freedom = seeds - 1
    shift = min(effect * math.sqrt(seeds), 1e6)
    limit = student_quantile(1 - LEVEL / 2, freedom=freedom)
    width = _FAR / math.sqrt(2 * freedom)
    low, high = max(0.0, 1 - width), min(1 + width, (shift + _FAR) / limit)
    scale = math.log(2) + freedom / 2 * math.log(freedom / 2) - math.lgamma(freedom / 2)
    total = 0.0
    for node, weight in _NODES:
        w = low + (high - low) * (node + 1) / 2
        density = math.exp(scale + (freedom - 1) * math.log(w) - freedom * w * w / 2)
        rejects = _normal_cdf(shift - limit * w) + _normal_cdf(-shift - limit * w)
        total += weight * density * rejects
    return min(1.0, total * max(0.0, high - low) / 2)


def _normal_cdf(value: float) -> float:
    return math.erfc(-value / math.sqrt(2)) / 2


def _student(mean: float, stderr: float, *, n: int) -> Interval:
    if n < 2 or math.isnan(stderr):
        return _UNKNOWN
    half = student_quantile(1 - LEVEL / 2, freedom=n - 1) * stderr
    return Interval(mean - half, mean + half)


def _known(values: Mapping[int, float]) -> dict[int, float]:
    return {seed: value for seed, value in values.items() if math.isfinite(value)}


def whole_curve(points: Iterable[tuple[float, float | None]], *, steps: int) -> list[float] | None:
    """Return a number for each step from 1 to `steps`; missing ones lie on the line between two.

    Before the first and after the last known step it is level. None if more than a tenth is missing
    or not finite. A step that comes twice has its last number.
    """
    known = {
        int(step): value
        for step, value in points
        if value is not None and math.isfinite(value) and 1 <= step <= steps
    }
    if not known or len(known) < (1 - GAPS) * steps:
        return None
    there = sorted(known)
    found, at = [], 0
    for step in range(1, steps + 1):
        while at + 1 < len(there) and there[at + 1] <= step:
            at += 1
        left, right = there[at], there[min(at + 1, len(there) - 1)]
        share = (step - left) / (right - left) if left < step and right > left else 0.0
        found.append(known[left] + share * (known[right] - known[left]))
    return found


def area_mean(curve: Sequence[float]) -> float:
    """Return the area under a curve divided by its steps: its mean."""
    return math.fsum(curve) / len(curve)


def last_mean(curve: Sequence[float], *, window: int) -> float:
    """Return the mean of the last `window` steps, or of all if there are fewer."""
    return area_mean(curve[-window:])


def steps_to(level: float, curve: Sequence[float], *, window: int) -> int | None:
    """Return the first step at which the mean of the last `window` steps is at least `level`.

    None if there is none. Fewer steps than `window` are no mean.
    """
    for stop in range(min(window, len(curve)), len(curve) + 1):
        if area_mean(curve[max(0, stop - window) : stop]) >= level - _EQUAL * abs(level):
            return stop
    return None
