"""Finds the tau under which credit is as concentrated as it was asked to be.

The effective fraction of a completion, (sum w)^2 / (T sum w^2), grows with tau, and its largest
weight falls: in b = 1 / tau, log(sum w)^2 - log(sum w^2) is 2 L(b) - L(2b) for the convex
L(b) = log sum exp(b s), whose slope at 2b is at least that at b. So there is one smallest tau
with a fraction of at least the target and no weight above the cap, and bisection finds it. A cap is
held by a larger tau and not by cutting weights off: their mean stays 1 and their order what it was.

Below a floor tau does not go, where rounding would be taken for a signal. sqrt(d) is a metric, so
policies that are a distance e apart by rounding alone have sqrt(d) at most sqrt(e) apart: d is
known to 2 sqrt(d e) + e, and the score to h^kappa times that. The floor is the tau under which this
moves no score / tau of the completion by more than NOISE_SHARE.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dgpo_cli.types import LIMITS

if TYPE_CHECKING:
    from torch import Tensor

# What noise may move log w by, in score / tau.
NOISE_SHARE = 0.05
# The noise of d where nobody has measured it: that of a model in float32.
ASSUMED_NOISE = 1e-12

# Stands for no floor at all: no noise, or a closed gate and a score of 0 at every token.
_SMALLEST = 1e-30
_HALVINGS = 40
# A fraction this far above the target is one that something held up.
_REACHED = 1e-3


@dataclass(frozen=True, slots=True)
class Target:
    """What is asked of the weights. whole: one tau for all rows, where their mean is `fraction`."""

    fraction: float
    max_weight: float
    whole: bool


@dataclass(frozen=True, slots=True)
class Found:
    """A tau a row and what held it up; see types.Credit."""

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
    rows: Tensor | None,  # bool [B], those that a tau of all rows is found on; None: all
) -> Found:
    """Return the smallest tau that keeps to the target, the cap and the floor."""
    import torch

    counted = mask.any(dim=1)
    if target.whole and rows is not None:
        counted = torch.where((counted & rows).any(), counted & rows, counted)
    search = _Search(gaps, mask, target=target, counted=counted)
    lowest = search.joined(floor.double()).amax(dim=1).clamp(min=_SMALLEST)
    tau = search.smallest(lowest)
    fraction, _ = search.shape_at(tau)
    limit = torch.full_like(tau, LIMITS.index("cap"), dtype=torch.int64)
    limit[fraction <= target.fraction + _REACHED] = LIMITS.index("none")
    limit[tau <= lowest] = LIMITS.index("noise")
    limit[search.least_fraction() > target.fraction] = LIMITS.index("ties")
    tau = tau.masked_fill(search.spread <= 0, math.nan)
    return Found(tau=tau.expand(len(mask)), limit=limit.expand(len(mask)))


class _Search:
    """Weights as tau moves, for K sets of rows that have a tau of their own: each row, or all.

    spread: the largest gap of each set, float64 [K].
    """

    def __init__(self, gaps: Tensor, mask: Tensor, *, target: Target, counted: Tensor) -> None:
        import torch

        self._target = target
        self._counted = counted
        self.spread = self.joined(gaps.amax(dim=1).double()).amax(dim=1)
        self._unit = torch.where(self.spread > 0, self.spread, torch.ones_like(self.spread))
        # In units of the spread nothing overflows, however small the distances are.
        self._gaps = (gaps / self._unit.unsqueeze(1)).float().masked_fill(~mask, math.inf)
        self._powers = torch.empty_like(self._gaps)
        self._lengths = mask.sum(dim=1).double()

    def joined(self, values: Tensor) -> Tensor:
        """Return the values [B] by set, [K, B / K]; 0 for rows that do not count."""
        if not self._target.whole:
            return values.unsqueeze(1)
        return values.masked_fill(~self._counted, 0.0).unsqueeze(0)

    def shape_at(self, tau: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean effective fraction and the largest weight of each set, float64 [K]."""
        import torch

        slope = (-self._unit / tau).float().unsqueeze(1)
        torch.mul(self._gaps, slope, out=self._powers).exp_()
        total = self._powers.sum(dim=1, dtype=torch.float64)
        squares = self._powers.square_().sum(dim=1, dtype=torch.float64) * self._lengths
        # A row without tokens has no weights; the clamp keeps it from being NaN.
        fraction = total * total / squares.clamp(min=1.0)
        largest = self._lengths / total.clamp(min=1.0)
        return self._mean(fraction), self.joined(largest).amax(dim=1)

    def least_fraction(self) -> Tensor:
        """Return the fraction of each set as tau goes to 0, when equal scores share it all."""
        return self._mean((self._gaps == 0).sum(dim=1) / self._lengths.clamp(min=1.0))

    def smallest(self, lowest: Tensor) -> Tensor:
        """Return the smallest tau from `lowest` [K] on that keeps to target and cap.

        By bisection in its logarithm, to more digits than float32 has.
        """
        import torch

        target, cap = self._target.fraction, self._target.max_weight
        # Weights lie in [exp(-x), 1] of the largest, x = spread / tau. Then the fraction is at
        # least 1 / cosh(x / 2)^2 (Kantorovich's inequality), and the largest at most exp(x).
        enough = self._unit * max(0.5 / math.acosh(target**-0.5), 1.0 / math.log(cap))
        high = torch.maximum(enough, lowest).log()
        low = lowest.log()
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            even = self._keeps(middle.exp())
            high = torch.where(even, middle, high)
            low = torch.where(even, low, middle)
        return torch.where(self._keeps(lowest), lowest, high.exp())

    def _keeps(self, tau: Tensor) -> Tensor:
        """Return which sets keep to target and cap at `tau` [K]."""
        fraction, largest = self.shape_at(tau)
        return (fraction >= self._target.fraction) & (largest <= self._target.max_weight)

    def _mean(self, values: Tensor) -> Tensor:
        """Return the mean of the values [B] in each set, [K]."""
        count = self._counted.sum() if self._target.whole else 1
        return self.joined(values).sum(dim=1) / count
