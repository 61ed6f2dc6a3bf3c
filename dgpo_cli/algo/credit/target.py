"""Finds the tau that gives credit the target effective token fraction.

The effective token fraction of a completion, (sum w)^2 / (T sum w^2), grows with tau, and its
largest weight falls: in b = 1 / tau, log(sum w)^2 - log(sum w^2) is 2 L(b) - L(2b) for the convex
L(b) = log sum exp(b s), whose slope at 2b is at least that at b. So there is one smallest tau with
a fraction of at least the target, and one with no weight above the cap, and bisection finds them.
The cap raises tau instead of clipping weights: their mean stays 1 and their order that of the
scores.

Tau has a floor, below which rounding would pass for signal. sqrt(d) is a metric, so
policies that are a distance e apart by rounding alone have sqrt(d) at most sqrt(e) apart: d is
known to 2 sqrt(d e) + e, and the score to h^kappa times that. The floor is the tau under which this
moves no score / tau of the completion by more than NOISE_SHARE.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dgpo_cli.core.types import LIMITS

if TYPE_CHECKING:
    from torch import Tensor

# Most that noise may move log w.
NOISE_SHARE = 0.05
# The noise of d if not measured: that of a model in float32.
ASSUMED_NOISE = 1e-12
# 1 where the distances of a step are as much rounding as distance.
IS_NOISE = "policy/hellinger_sq_is_noise"
# Floors up to which the 99% quantile of d counts as noise. SmolLM2 under bfloat16: at 4 floors
# d and the true distance have a correlation of 0.65, at 18 of 0.94 (benchmarks/noise.py).
NEAR = 5.0

# Stands for no floor: no noise, or a closed gate and a score of 0 at every token.
_SMALLEST = 1e-30
_HALVINGS = 40


def is_noise(distance: float, *, noise_floor: float | None) -> bool:
    """Whether distances are close to rounding; distance: their 99% quantile.

    Distances of exactly 0 are not noise: the models are equal.
    """
    return noise_floor is not None and 0 < distance < NEAR * noise_floor


@dataclass(frozen=True, slots=True)
class Target:
    """Targets of the weights. whole: one tau for all rows; the mean of their fractions counts."""

    fraction: float
    max_weight: float
    whole: bool


@dataclass(frozen=True, slots=True)
class FoundTau:
    """The tau of each row and what limited it; see core.types.Credit."""

    tau: Tensor  # float64 [B], NaN where no tau makes a difference
    limit: Tensor  # int64 [B], index into LIMITS


def noise_of_scores(distance: Tensor, gate: Tensor, *, noise: float | None) -> Tensor:
    """Return how far rounding may have moved each score, [B, T].

    distance: d, [B, T]. gate: h^kappa, [B, T]. noise: d between two evaluations of one policy.
    """
    size = ASSUMED_NOISE if noise is None else noise
    return gate * (2.0 * (distance * size).sqrt() + size)


def find_tau(
    gaps: Tensor,  # float32 [B, T], the row's largest score less each; 0 outside the mask
    mask: Tensor,  # bool [B, T]
    *,
    floor: Tensor,  # [B], the least tau that noise allows
    target: Target,
    rows: Tensor | None,  # bool [B], those that set a tau of all rows; None: all
) -> FoundTau:
    """Return the smallest tau that meets the target, the cap and the floor.

    Cap and floor are each row's own: with one tau for all, they raise only the rows that need it,
    and the others compensate in the mean.
    """
    import torch

    weights = _Weights(gaps, mask)
    lowest = floor.double().clamp(min=_SMALLEST)
    # Weights lie in [exp(-x), 1] of the largest, x = spread / tau. So the largest is at most
    # exp(x), and the fraction at least 1 / cosh(x / 2)^2 (Kantorovich's inequality).
    capped = _smallest(
        lambda tau: weights.shape_at(tau)[1] <= target.max_weight,
        low=lowest,
        high=weights.unit / math.log(target.max_weight),
    )
    sets = _Sets(mask.any(dim=1), rows=rows, whole=target.whole)
    found = _smallest(
        lambda tau: sets.mean(weights.shape_at(torch.maximum(tau, capped))[0]) >= target.fraction,
        low=sets.least(capped),
        high=sets.most(
            torch.maximum(weights.unit * 0.5 / math.acosh(target.fraction**-0.5), capped)
        ),
    )
    tau = torch.maximum(found, capped)
    tied = (sets.mean(weights.ties) > target.fraction) | ~weights.uneven
    limit = torch.zeros_like(tau, dtype=torch.int64)
    for name, holds in (("cap", tau <= capped), ("noise", tau <= lowest), ("ties", tied)):
        limit[holds] = LIMITS.index(name)
    return FoundTau(tau=tau.masked_fill(~weights.uneven, math.nan), limit=limit)


class _Weights:
    """The shape of each row's weights as tau moves.

    unit: the row's largest gap, float64 [B]; 1 where all its scores are equal.
    uneven: bool [B], where they are not. ties: share of tokens with the largest score, [B], which
    is the effective token fraction as tau goes to 0.
    """

    def __init__(self, gaps: Tensor, mask: Tensor) -> None:
        import torch

        spread = gaps.amax(dim=1).double()
        self.uneven = spread > 0
        self.unit = torch.where(self.uneven, spread, torch.ones_like(spread))
        # In units of the spread nothing overflows, however small the distances are.
        self._gaps = (gaps / self.unit.unsqueeze(1)).float().masked_fill(~mask, math.inf)
        self._powers = torch.empty_like(self._gaps)
        self._lengths = mask.sum(dim=1).double()
        self.ties = (self._gaps == 0).sum(dim=1) / self._lengths.clamp(min=1.0)

    def shape_at(self, tau: Tensor) -> tuple[Tensor, Tensor]:
        """Return each row's effective token fraction and largest weight, float64 [B]."""
        import torch

        slope = (-self.unit / tau).float().unsqueeze(1)
        torch.mul(self._gaps, slope, out=self._powers).exp_()
        total = self._powers.sum(dim=1, dtype=torch.float64)
        squares = self._powers.square_().sum(dim=1, dtype=torch.float64) * self._lengths
        # A row without tokens has no weights; the clamp keeps it from being NaN.
        return total * total / squares.clamp(min=1.0), self._lengths / total.clamp(min=1.0)


class _Sets:
    """Which rows share a tau: each has its own, or the rows that count are one set."""

    def __init__(self, filled: Tensor, *, rows: Tensor | None, whole: bool) -> None:
        import torch

        self._whole = whole
        self._counted = filled
        if rows is not None:
            both = filled & rows
            self._counted = torch.where(both.any(), both, filled)

    def mean(self, values: Tensor) -> Tensor:
        """Return the values [B], or their mean [1]."""
        if not self._whole:
            return values
        kept = values.masked_fill(~self._counted, 0.0)
        return kept.sum(dim=0, keepdim=True) / self._counted.sum().clamp(min=1)

    def least(self, values: Tensor) -> Tensor:
        """Return the values [B], or the smallest of them [1]."""
        return values.amin(dim=0, keepdim=True) if self._whole else values

    def most(self, values: Tensor) -> Tensor:
        """Return the values [B], or the largest of them [1]."""
        return values.amax(dim=0, keepdim=True) if self._whole else values


def _smallest(keeps: Callable[[Tensor], Tensor], *, low: Tensor, high: Tensor) -> Tensor:
    """Return the smallest tau from `low` on that `keeps`, float64 [K]; it does at `high` and above.

    By bisection in its logarithm, to more digits than float32 has.
    """
    import torch

    below, above = low.log(), torch.maximum(low, high).log()
    for _ in range(_HALVINGS):
        middle = (below + above) / 2
        kept = keeps(middle.exp())
        above = torch.where(kept, middle, above)
        below = torch.where(kept, below, middle)
    return torch.where(keeps(low), low, above.exp())
