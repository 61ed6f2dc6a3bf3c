"""Two evaluations of the same problems, paired problem by problem. No torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal, NamedTuple

from dgpo_cli.core.schema import Count, Real, Text
from dgpo_cli.core.types import Card, Evaluation, Interval, ProblemResult
from dgpo_cli.core.types.evaluation import Ends
from dgpo_cli.stats.estimators import check_counts, stderr_rerun
from dgpo_cli.stats.intervals import NORMAL_95, rerun_interval, student_quantile
from dgpo_cli.stats.permutation import fisher, holm, shuffled_samples, sign_flip


@dataclass(frozen=True, slots=True)
class NamedEvaluation:
    """An evaluation with its card, if it has one. name: its path."""

    name: str
    evaluation: Evaluation
    card: Card | None


@dataclass(frozen=True, slots=True)
class ProblemChange:
    """The change of one problem: samples solved before and after.

    p: Fisher's exact test of this problem alone. p_holm: the same, adjusted for all problems.
    flipped: most samples are correct only after (gained) or only before (lost).
    """

    id: Text
    answer: Text | None
    before: Count
    after: Count
    difference: Real
    p: Real
    p_holm: Real
    flipped: Literal["gained", "lost"] | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """The comparison of two evaluations; shares between -1 and 1, NaN is unknown.

    `rerun`: the same problems sampled again; `problems`: other problems of this kind.
    p_rerun: by exchanging samples of each problem. p_problems: by flipping signs of the problems'
    differences, all of them if `exact`, else seeded draws.
    smallest_*: the difference that 80% of such comparisons find at the 5% level; infinite if
    there is none.
    """

    n_problems: Count
    k_before: Count
    k_after: Count
    before: Real
    after: Real
    difference: Real
    stderr_rerun: Real
    rerun_95: Ends
    p_rerun: Real
    smallest_rerun: Real
    stderr_problems: Real
    problems_95: Ends
    p_problems: Real
    exact: bool
    smallest_problems: Real
    changes: tuple[ProblemChange, ...]


@dataclass(frozen=True, slots=True)
class ComparedPair:
    """An evaluation compared with its baseline.

    subject: the card entries in which the two subjects differ: what is compared.
    forced: differences that forbid a comparison and were ignored.
    notes: for the reader. Lines of all three may contain untrusted text.
    """

    before: NamedEvaluation
    after: NamedEvaluation
    comparison: Comparison
    subject: tuple[str, ...]
    forced: tuple[str, ...]
    notes: tuple[str, ...]


POWER = 0.8
LEVEL = 0.05


def compare_runs(
    before: Sequence[ProblemResult], after: Sequence[ProblemResult], *, seed: int = 0
) -> Comparison:
    """Compare two runs of the same problems in the same order; each has its own k.

    Raises ValueError without problems, or when ids differ.
    """
    if not before or [p.id for p in before] != [p.id for p in after]:
        raise ValueError("a comparison needs the same problems in the same order, at least one")
    return compare_counts(
        [p.correct for p in before],
        [p.correct for p in after],
        k_before=len(before[0].outcomes),
        k_after=len(after[0].outcomes),
        problems=[(p.id, p.answer) for p in before],
        seed=seed,
    )


def compare_counts(
    before: Sequence[int],
    after: Sequence[int],
    *,
    k_before: int,
    k_after: int,
    problems: Sequence[tuple[str, str | None]] | None = None,
    seed: int = 0,
) -> Comparison:
    """Compare how many samples of each problem are correct before, of k_before, and after.

    Args:
        problems: id and answer of each, for `changes`; by default its number from 0.
        seed: of the signs that are drawn if there are too many problems to flip all of them.

    Raises ValueError without problems, if their numbers differ, or if a count is not between 0
    and its k.
    Sources: `rerun_difference`, `over_problems`, and those in stats/permutation.py.

    Examples:
        >>> from dgpo_cli import compare_counts
        >>> found = compare_counts([8, 3, 0, 5], [8, 6, 2, 7], k_before=8, k_after=8)
        >>> f"{found.difference:+.3f}: p {found.p_rerun:.3f} (rerun), {found.p_problems} (problems)"
        '+0.219: p 0.044 (rerun), 0.25 (problems)'
    """
    check_counts(before, k=k_before)
    check_counts(after, k=k_after)
    old, new = before, after
    if len(old) != len(new) or (problems is not None and len(problems) != len(old)):
        named = "" if problems is None else f", {len(problems)} named"
        raise ValueError(f"{len(old)} problems before, {len(new)} after{named}: must be the same")
    # In units of 1 / lcm differences are integers, and their sums exact.
    unit = math.lcm(k_before, k_after)
    whole = [b * (unit // k_after) - a * (unit // k_before) for a, b in zip(old, new, strict=True)]
    n = len(whole)
    rerun = rerun_difference(old, new, k_before=k_before, k_after=k_after)
    flips = sign_flip(whole, seed=seed)
    p_rerun = shuffled_samples(old, new, k_before=k_before, k_after=k_after)
    over_reruns = math.hypot(stderr_rerun(old, k=k_before), stderr_rerun(new, k=k_after))
    shares = [c / k_before for c in old], [c / k_after for c in new]
    return Comparison(
        n_problems=n,
        k_before=k_before,
        k_after=k_after,
        before=sum(old) / (n * k_before),
        after=sum(new) / (n * k_after),
        difference=sum(whole) / (n * unit),
        stderr_rerun=over_reruns,
        rerun_95=rerun,
        p_rerun=p_rerun,
        smallest_rerun=smallest_rerun(rerun),
        stderr_problems=spread_of([d / unit for d in whole]) / math.sqrt(n),
        problems_95=problems_difference(old, new, k_before=k_before, k_after=k_after, p=flips.p),
        p_problems=flips.p,
        exact=flips.exact,
        smallest_problems=smallest_problems(over_problems(*shares).stderr, n=n, rerun=over_reruns),
        changes=_changes(old, new, k_before=k_before, k_after=k_after, problems=problems),
    )


def spread_of(values: Sequence[float]) -> float:
    """Return the standard deviation with n - 1; NaN for one value."""
    if len(values) < 2:
        return math.nan
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1))


def rerun_difference(
    before: Sequence[int], after: Sequence[int], *, k_before: int, k_after: int
) -> Interval:
    """Return the interval of the difference on these problems.

    The distances from each score to the ends of its own interval add up as squares.
    Source: method 10 of Newcombe, Stat. Med. 17 (1998) 873.
    """
    old = rerun_interval(before, k=k_before)
    new = rerun_interval(after, k=k_after)
    x = sum(before) / (k_before * len(before))
    y = sum(after) / (k_after * len(after))
    return Interval(
        y - x - math.hypot(y - new.low, old.high - x),
        y - x + math.hypot(new.high - y, x - old.low),
    )


class OverProblems(NamedTuple):
    """A mean difference over all problems of a kind and its standard error, from n problems."""

    mean: float
    stderr: float
    n: int

    def interval(self) -> Interval:
        """Return Student's 95% interval, within -1 and 1; NaN for one problem."""
        if self.n < 2:
            return Interval(math.nan, math.nan)
        half = student_quantile(0.975, freedom=self.n - 1) * self.stderr
        return Interval(max(-1.0, self.mean - half), min(1.0, self.mean + half))


def over_problems(
    before: Sequence[float], after: Sequence[float], *, unseen: float = 1.0
) -> OverProblems:
    """Estimate the difference over all problems of this kind, from each problem's two shares.

    If problems are solved always or never, most differences are 0 and a few are 1: 30 problems
    without a change are likely even if 8% of all problems change. So two problems are added, one
    that gains `unseen` and one that loses it (Laplace's rule of succession for each). They count
    fully if every share is 0 or 1, and hardly if shares are in between and the problems show
    their own spread: with the sixth power of the mean of (1 - 2 share)^2.
    Source: Bonett and Price, J. Educ. Behav. Stat. 37 (2012) 479; the weight is ours, chosen and
    checked by simulation (benchmarks/intervals.py).
    """
    n = len(before)
    if n < 2:
        return OverProblems(math.nan, math.nan, n)
    differences = [new - old for old, new in zip(before, after, strict=True)]
    edge = math.fsum((1 - 2 * share) ** 2 for share in (*before, *after)) / (2 * n)
    weight = edge**6
    size = n + 2 * weight
    mean = math.fsum(differences) / size
    square = (math.fsum(d * d for d in differences) + 2 * weight * unseen**2) / size
    return OverProblems(mean, math.sqrt(max(0.0, square - mean * mean) / (size - 1)), n)


def problems_difference(
    before: Sequence[int], after: Sequence[int], *, k_before: int, k_after: int, p: float
) -> Interval:
    """Return the interval of the mean difference over all problems of this kind; NaN for one.

    It agrees with the sign test's `p`: it contains 0 if the test does not reject 0 (p >= 0.05).
    If it does, then at the end near 0 the added problems change no more than the seen ones: many
    small changes of one sign outweigh a large one that never occurred.
    This error includes that of a rerun, so the interval contains the rerun's.
    """
    old, new = [c / k_before for c in before], [c / k_after for c in after]
    wide = over_problems(old, new).interval()
    low, high = wide.low, wide.high
    if len(old) < 2:
        return wide
    if p >= LEVEL:
        low, high = min(low, 0.0), max(high, 0.0)
    else:
        largest = max(abs(b - a) for a, b in zip(old, new, strict=True))
        near = over_problems(old, new, unseen=largest)
        if near.mean > 0:
            low = max(near.interval().low, 0.0)
        else:
            high = min(near.interval().high, 0.0)
    rerun = rerun_difference(before, after, k_before=k_before, k_after=k_after)
    return Interval(min(low, rerun.low), max(high, rerun.high))


def smallest_rerun(interval: Interval) -> float:
    """Return the true difference on these problems that 80% of such comparisons find at 5%.

    (z_0.975 + z_0.8) = 2.80 standard errors, the error taken from the width of the interval.
    """
    stderr = (interval.high - interval.low) / (2 * NORMAL_95)
    return (NORMAL_95 + NormalDist().inv_cdf(POWER)) * stderr


def smallest_problems(stderr: float, *, n: int, rerun: float = math.nan) -> float:
    """Return the same over other problems: (t_0.975 + t_0.8) standard errors; NaN for one problem.

    Student's quantiles have n - 1 degrees of freedom. This error includes that of a rerun, so a
    known and larger `rerun` replaces it. An error of 0 means unknown: NaN.
    Infinite if not even a difference of 1 is found that often.
    """
    if n < 2:
        return math.nan
    largest = max(stderr, 0.0 if math.isnan(rerun) else rerun)
    quantiles = (student_quantile(share, freedom=n - 1) for share in (0.975, POWER))
    found = sum(quantiles) * largest or math.nan
    return math.inf if found > 1.0 else found


def _changes(
    before: Sequence[int],
    after: Sequence[int],
    *,
    k_before: int,
    k_after: int,
    problems: Sequence[tuple[str, str | None]] | None,
) -> tuple[ProblemChange, ...]:
    names = problems or [(str(number), None) for number in range(len(before))]
    values = [
        fisher(a, b, k_before=k_before, k_after=k_after) for a, b in zip(before, after, strict=True)
    ]
    return tuple(
        ProblemChange(
            id=name,
            answer=answer,
            before=a,
            after=b,
            difference=b / k_after - a / k_before,
            p=p,
            p_holm=adjusted,
            flipped=_flipped(2 * a > k_before, 2 * b > k_after),
        )
        for (name, answer), a, b, p, adjusted in zip(
            names, before, after, values, holm(values), strict=True
        )
    )


def _flipped(before: bool, after: bool) -> Literal["gained", "lost"] | None:
    if before == after:
        return None
    return "gained" if after else "lost"
