"""The noise of a gradient against its size, from the norms of half a batch and of all of it.

A batch of M groups has the mean gradient g = sum x / M; x is what a group adds, M times. With the
mean G of x and V = tr cov x, E|g|^2 = |G|^2 + V / M, and the same holds of the mean over half of
the groups: two equations for |G|^2 and V, whose solutions are unbiased. One update says little
(the estimate of |G|^2 may be negative): average both over steps and divide then.
Source: McCandlish et al., An Empirical Model of Large-Batch Training, arXiv 1812.06162, appendix A.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

SIGNAL, VARIANCE = "optim/grad_signal", "optim/grad_variance"


@dataclass(frozen=True, slots=True)
class GradNoise:
    """Estimates of one update.

    signal: of |G|^2. variance: of tr cov of the gradient of one completion; divided by the number
        of completions it is the variance of a batch's gradient.
    """

    signal: float
    variance: float


def first_half(groups: int) -> int:
    """Return how many of the groups are in the half: those with an even number, from 0."""
    return (groups + 1) // 2


def noise_of_halves(half: float, whole: float, *, groups: int, group_size: int) -> GradNoise | None:
    """Return the noise of a gradient that groups add up to; None for a single group.

    half: norm of what the groups of `first_half` add. whole: of what all add. Groups are drawn
    independently of each other, the completions of one are not: its baseline is theirs.
    """
    if groups < 2:
        return None
    own = first_half(groups)
    scaled = (half * groups / own) ** 2
    of_a_group = (scaled - whole**2) / (1.0 / own - 1.0 / groups)
    return GradNoise(signal=whole**2 - of_a_group / groups, variance=of_a_group * group_size)


def noise_scale(lines: Iterable[Mapping[str, float | None]]) -> float | None:
    """Return the simple noise scale over steps, in completions: tr cov over |G|^2.

    A batch of so many completions has a gradient whose variance equals its squared mean. None if
    no step measured it; infinity if the mean gradient is not to be told from 0.

    lines: of metrics.jsonl.
    """
    found = [
        (signal, variance)
        for line in lines
        if (signal := line.get(SIGNAL)) is not None
        and (variance := line.get(VARIANCE)) is not None
        and math.isfinite(signal)
        and math.isfinite(variance)
    ]
    if not found:
        return None
    signal, variance = (math.fsum(each) for each in zip(*found, strict=True))
    return variance / signal if signal > 0 else math.inf
