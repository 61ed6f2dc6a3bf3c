"""Reductions over the positions where a mask is True.

Values outside the mask never matter, NaN included. A reduction over nothing is 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def masked_values(values: Tensor, mask: Tensor) -> Tensor:
    """Return `values` in float32 or better, with 0 wherever `mask` (bool, same shape) is False."""
    import torch

    dtype = torch.promote_types(values.dtype, torch.float32)
    return torch.where(mask, values.to(dtype), torch.zeros((), dtype=dtype, device=values.device))


def masked_sum(values: Tensor, mask: Tensor, *, dim: int | None = None) -> Tensor:
    """Sum over all masked positions, or along `dim`; differentiable."""
    kept = masked_values(values, mask)
    return kept.sum() if dim is None else kept.sum(dim=dim)


def masked_mean(values: Tensor, mask: Tensor, *, dim: int | None = None) -> Tensor:
    """Mean over all masked positions, or along `dim`; differentiable, 0 over nothing."""
    count = mask.sum() if dim is None else mask.sum(dim=dim)
    return masked_sum(values, mask, dim=dim) / count.clamp(min=1)


def masked_max(values: Tensor, mask: Tensor, *, dim: int | None = None) -> Tensor:
    """Largest masked value, of all or along `dim`; 0 over nothing."""
    import torch

    kept = masked_values(values, mask)
    if kept.numel() == 0:
        return kept.sum() if dim is None else kept.sum(dim=dim)
    kept = kept.masked_fill(~mask, float("-inf"))
    largest = kept.amax() if dim is None else kept.amax(dim=dim)
    found = mask.any() if dim is None else mask.any(dim=dim)
    return torch.where(found, largest, torch.zeros_like(largest))


def masked_quantiles(values: Tensor, mask: Tensor, *, levels: Sequence[float]) -> list[float]:
    """Return the exact quantiles of all masked values at `levels` (each 0 to 1), in that order.

    Interpolated linearly between neighbours, as numpy does. Sorting has no size limit, unlike
    torch.quantile.
    """
    ordered = masked_values(values.detach(), mask)[mask].sort().values
    last = ordered.numel() - 1
    if last < 0:
        return [0.0 for _ in levels]
    quantiles = []
    for level in levels:
        position = level * last
        below = min(int(position), last)
        above = min(below + 1, last)
        low, high = float(ordered[below]), float(ordered[above])
        share = position - below
        quantiles.append(low if share == 0.0 else low + share * (high - low))
    return quantiles
