"""Permutation tests for two evaluations of the same problems; all p-values are two-sided.

Counts are integers, so convolution over integer sums gives the null distributions without
listing every permutation: exact, and fast for hundreds of problems. No torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

EXACT_WORK = 100_000_000  # additions up to which the distribution is computed exactly
DRAWS = 19_999  # sign patterns drawn otherwise
_CHUNK = 2_000_000  # signs drawn at once


class PValue(NamedTuple):
    """A two-sided p-value, and whether it is exact or from drawn permutations."""

    p: float
    exact: bool


def sign_flip(differences: Sequence[int], *, seed: int = 0, exact_work: int = EXACT_WORK) -> PValue:
    """Return how often random signs of the differences give as large a sum; 1 if all are 0.

    Under the null hypothesis the two runs of each problem are exchangeable. Above `exact_work`
    additions it is estimated from seeded draws as (b + 1) / (m + 1), which is never biased low.
    Sources: Fisher, The Design of Experiments (1935), 21; Phipson and Smyth, Stat. Appl. Genet.
    Mol. Biol. 9 (2010) 39.
    """
    sizes = [abs(d) for d in differences if d]
    if not sizes:
        return PValue(1.0, True)
    unit = math.gcd(*sizes)
    sizes = [size // unit for size in sizes]
    observed = abs(sum(differences)) // unit
    if sum(sizes) * len(sizes) > exact_work:
        return PValue(_drawn(sizes, observed=observed, seed=seed), False)
    return PValue(_enumerated(sizes, observed=observed), True)


def _enumerated(sizes: Sequence[int], *, observed: int) -> float:
    """Return P(|sum of signed sizes| >= observed); it is 2 * (sum of a random subset) - total."""
    total = sum(sizes)
    chances = np.zeros(total + 1)
    chances[0] = 1.0
    for size in sizes:
        halved = 0.5 * chances
        halved[size:] += 0.5 * chances[: total + 1 - size]
        chances = halved
    reached = np.abs(2 * np.arange(total + 1) - total) >= observed
    return min(1.0, math.fsum(chances[reached]))


def _drawn(sizes: Sequence[int], *, observed: int, seed: int) -> float:
    rng = np.random.default_rng(seed)
    values = np.array(sizes, dtype=np.int64)
    rows = max(1, _CHUNK // len(sizes))
    reached, left = 0, DRAWS
    while left:
        count = min(rows, left)
        signs = 2 * rng.integers(0, 2, size=(count, len(sizes)), dtype=np.int8) - 1
        reached += int((np.abs(signs @ values) >= observed).sum())
        left -= count
    return (reached + 1) / (DRAWS + 1)


def shuffled_samples(
    before: Sequence[int], after: Sequence[int], *, k_before: int, k_after: int
) -> float:
    """Return how often exchanging the samples of each problem gives as large a difference.

    Under the null hypothesis both models solve each problem equally often; which of its
    k_before + k_after samples came from which model is then chance, a hypergeometric count.
    This is Fisher's exact test, stratified by problem.
    """
    pool = k_before + k_after
    solved = [b + a for b, a in zip(before, after, strict=True)]
    chances = np.ones(1)
    for total in solved:
        chances = np.convolve(chances, _hypergeometric(total, k_before, k_after))
    counts = np.arange(len(chances))
    expected = k_after * sum(solved)  # times pool
    observed = abs(pool * sum(after) - expected)
    if observed == 0:
        return 1.0
    return min(1.0, math.fsum(chances[np.abs(pool * counts - expected) >= observed]))


@lru_cache(maxsize=4096)
def _hypergeometric(total: int, k_before: int, k_after: int) -> np.ndarray:
    """Return the chances that 0 to k_after of `total` solved samples are the later run's."""
    ways = math.comb(k_before + k_after, total)
    return np.array([_ways(c, total, k_before, k_after) / ways for c in range(k_after + 1)])


def _ways(count: int, total: int, k_before: int, k_after: int) -> int:
    rest = total - count
    return math.comb(k_after, count) * math.comb(k_before, rest) if 0 <= rest <= k_before else 0


@lru_cache(maxsize=65536)
def fisher(before: int, after: int, *, k_before: int, k_after: int) -> float:
    """Return p of Fisher's exact test of one problem: all tables no likelier than this one.

    Source: Fisher, J. R. Stat. Soc. 85 (1922) 87.
    """
    total = before + after
    observed = _ways(after, total, k_before, k_after)
    ways = [_ways(count, total, k_before, k_after) for count in range(k_after + 1)]
    return sum(way for way in ways if way <= observed) / math.comb(k_before + k_after, total)


def holm(values: Sequence[float]) -> list[float]:
    """Return p-values adjusted to keep the family-wise error rate.

    Source: Holm, Scand. J. Stat. 6 (1979) 65.
    """
    adjusted = [1.0] * len(values)
    highest = 0.0
    for rank, at in enumerate(sorted(range(len(values)), key=lambda at: values[at])):
        highest = max(highest, min(1.0, (len(values) - rank) * values[at]))
        adjusted[at] = highest
    return adjusted
