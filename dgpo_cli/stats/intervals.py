"""95% intervals of Avg@k that stay valid at 0%, at 100% and with few samples. No torch.

Both are Wilson's score interval with an effective sample size: the number of samples or problems
divided by a design effect, the observed over the binomial variance. With every sample correct a
normal interval would have no width; Wilson's keeps that of n coin flips.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from statistics import NormalDist

from dgpo_cli.core.types import Interval

NORMAL_95 = NormalDist().inv_cdf(0.975)
_RERUN_PRIOR = NORMAL_95**2 / 2  # samples; Agresti and Coull add as many of each kind
_PROBLEM_PRIOR = 0.5  # problems


def wilson(share: float, *, size: float, quantile: float = NORMAL_95) -> Interval:
    """Return the values that a score test with `size` observations of `share` does not reject.

    Source: Wilson, J. Am. Stat. Assoc. 22 (1927) 209.
    """
    square = quantile * quantile / size
    middle = (share + square / 2) / (1 + square)
    half = math.sqrt(square * (share * (1 - share) + square / 4)) / (1 + square)
    # A share of 0 or 1 is an end exactly; rounding must not move it.
    return Interval(
        0.0 if share <= 0.0 else max(0.0, middle - half),
        1.0 if share >= 1.0 else min(1.0, middle + half),
    )


def mean_interval(values: Sequence[float], *, ends: tuple[float, float] | None = None) -> Interval:
    """Return the interval of the mean that independent values are drawn around.

    ends: the only two values that there can be, the lower first, for which Wilson's interval
        holds; None: any. Then it is Student's, which one value does not have: NaN.
    """
    size = len(values)
    mean = math.fsum(values) / size if size else math.nan
    if ends is not None and size:
        low, width = ends[0], ends[1] - ends[0]
        share = wilson((mean - low) / width, size=size)
        return Interval(low + width * share.low, low + width * share.high)
    if size < 2:
        return Interval(math.nan, math.nan)
    variance = math.fsum((value - mean) ** 2 for value in values) / (size - 1)
    half = student_quantile(0.975, freedom=size - 1) * math.sqrt(variance / size)
    return Interval(mean - half, mean + half)


def rerun_interval(correct: Sequence[int], *, k: int) -> Interval:
    """Return the interval of Avg@k on the same problems; NaN without problems.

    The variance of the count is at most that of a binomial (Hoeffding 1956), and the design
    effect, sum c (k - c) / (k - 1) over n k p (1 - p), is their ratio. Both get a prior of about
    two samples, so that the effect tends to 1, the safe side, if every problem is solved always
    or never. With one sample per problem the effect is unknown and taken as 1.
    Sources: Hoeffding, Ann. Math. Stat. 27 (1956) 713; effective sample size with Wilson's
    interval: Franco, Little, Louis, Slud, J. Surv. Stat. Methodol. 7 (2019) 334.
    """
    size = k * len(correct)
    if not size:
        return Interval(math.nan, math.nan)
    return wilson(sum(correct) / size, size=size / _rerun_effect(correct, k=k))


def _rerun_effect(correct: Sequence[int], *, k: int) -> float:
    if k == 1:
        return 1.0
    size = k * len(correct)
    share = sum(correct) / size
    binomial = size * share * (1 - share)
    within = sum(c * (k - c) for c in correct) / (k - 1)
    return min(1.0, (within + _RERUN_PRIOR) / (binomial + _RERUN_PRIOR))


def problems_interval(correct: Sequence[int], *, k: int) -> Interval:
    """Return the interval of the mean over all problems of this kind; [0, 1] for one problem.

    The means of the problems are the observations, and Student's quantile with n - 1 degrees of
    freedom replaces the normal one. Their variance is at most that of n coin flips; the design
    effect is the ratio. A prior of half a problem draws it to 1 as the mean goes to 0 or 1, where
    a rare kind of problem may not have occurred yet, and fades with the binomial's squared
    skewness, (1 - 2p)^2, towards the middle. This error includes that of a rerun, so the
    effective size is at most the rerun's.
    Source: see `rerun_interval`; the prior is ours, checked by simulation in the tests.
    """
    n = len(correct)
    if n < 2:
        return Interval(0.0, 1.0) if n else Interval(math.nan, math.nan)
    mean = sum(correct) / (n * k)
    spread = math.fsum((c / k - mean) ** 2 for c in correct) * n / (n - 1)
    binomial = n * mean * (1 - mean)
    prior = _PROBLEM_PRIOR * (1 - 2 * mean) ** 2
    effect = min(1.0, (spread + prior) / (binomial + prior))
    effect = max(effect, _rerun_effect(correct, k=k) / k)
    return wilson(mean, size=n / effect, quantile=student_quantile(0.975, freedom=n - 1))


def student_cdf(value: float, *, freedom: int) -> float:
    """Return the distribution function of Student's t, exact for integer degrees of freedom.

    Source: Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4.
    """
    angle = math.atan2(abs(value), math.sqrt(freedom))
    cosine = math.cos(angle)
    odd = freedom % 2
    term, total = 1.0, 1.0  # of the series in cos^2, for even freedom
    for i in range(1 + odd, freedom - 2, 2):
        term *= (i / (i + 1)) * cosine * cosine
        total += term
    if odd:
        series = math.sin(angle) * cosine * total if freedom > 1 else 0.0
        inside = (angle + series) * 2 / math.pi
    else:
        inside = math.sin(angle) * total
    return 0.5 + math.copysign(inside / 2, value)


@lru_cache(maxsize=256)
def student_quantile(share: float, *, freedom: int) -> float:
    """Return the quantile `share` of Student's t, by bisection.

    Above 1,000 degrees of freedom: the normal quantile with Fisher's first correction.
    Raises ValueError unless 0.5 < share < 1 and freedom is at least 1.
    """
    if not 0.5 < share < 1.0 or freedom < 1:
        raise ValueError(f"share={share}, freedom={freedom}: needs 0.5 < share < 1, freedom >= 1")
    if freedom > 1000:
        normal = NormalDist().inv_cdf(share)
        return normal + (normal**3 + normal) / (4 * freedom)
    low, high = 0.0, 1.0
    while student_cdf(high, freedom=freedom) < share:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        if student_cdf(middle, freedom=freedom) < share:
            low = middle
        else:
            high = middle
    return high
