"""Tiles of half logits, x = logits / (2 * temperature), in float32 whatever the head's dtype.

Both passes need half a logit: f = exp(x) is the root of a probability. The factor from product to
x is applied to the hidden states, which costs D numbers per token instead of V.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from dgpo_cli.core.errors import ModelError
from dgpo_cli.policy.shape import tile_size

if TYPE_CHECKING:
    from torch import Tensor

    from dgpo_cli.policy.head import Head

# Replaces a half logit of -inf: exp of it minus any real maximum is exactly 0, and the difference
# of two is 0, not NaN.
LOG_ZERO = -1e30


@dataclass(frozen=True, slots=True)
class Tiles:
    """The cut of tokens and vocabulary.

    rows, columns: tokens and vocabulary entries of one matrix product; large enough for it to run
        at full speed.
    slice_rows: tokens reduced at a time; small enough that three arrays of slice_rows x columns
        stay in a core's cache.
    """

    rows: int
    columns: int
    slice_rows: int

    @staticmethod
    def fitting(width: int, *, device: torch.device) -> Tiles:
        """Return the tiles for hidden states of `width` numbers; see tile_size."""
        return Tiles(*tile_size(width, cpu=device.type == "cpu"))

    def row_blocks(self, count: int) -> Iterator[slice]:
        yield from _cuts(0, count, self.rows)

    def column_blocks(self, count: int) -> Iterator[slice]:
        yield from _cuts(0, count, self.columns)

    def slices(self, rows: int) -> Iterator[slice]:
        yield from _cuts(0, rows, self.slice_rows)


def _cuts(start: int, stop: int, size: int) -> Iterator[slice]:
    for low in range(start, stop, size):
        yield slice(low, min(low + size, stop))


class HalfLogits:
    """Computes tiles of half logits of one head at one temperature."""

    def __init__(self, head: Head, *, temperature: float) -> None:
        self.head = head
        self._half = 0.5 / temperature
        # Under a soft-cap the product becomes the argument of tanh.
        self.factor = head.scale * (self._half if head.softcap is None else 1 / head.softcap)
        # d logit / d product, without a soft-cap's slope.
        self.slope = head.scale / temperature
        weight = head.weight.detach()
        if weight.is_cuda and head.compute is not None:
            weight = weight.to(head.compute)
        self._weight = weight
        # A GPU multiplies half-precision numbers into float32; a CPU would round.
        self.mixed = weight.is_cuda and weight.dtype in (torch.bfloat16, torch.float16)

    @property
    def cap(self) -> float | None:
        """The soft-cap in half logits."""
        return None if self.head.softcap is None else self.head.softcap * self._half

    def prepare(self, hidden: Tensor) -> Tensor:
        """Return hidden states [R, D] for `tile`: a copy without gradient."""
        hidden = hidden.detach()
        if self.mixed:
            return hidden.to(self._weight.dtype)
        return hidden.to(torch.float32, copy=True).mul_(self.factor)

    def weights(self, columns: slice) -> Tensor:
        """Return the weights [C, D] for `tile`; float32 weights are not copied."""
        part = self._weight[columns]
        return part if self.mixed else part.float()

    @property
    def bare(self) -> float:
        """The factor that `tile(..., bare=True)` omits."""
        plain = self.head.bias is None and self.cap is None
        return self.factor if self.mixed and plain else 1.0

    def powers_like(self, x: Tensor) -> Tensor:
        """Return the buffer for the powers of a tile: new if weights have 16 bits, else `x`."""
        return torch.empty_like(x, dtype=self._weight.dtype) if self.mixed else x

    def tile(
        self,
        hidden: Tensor,
        weights: Tensor,
        columns: slice,
        *,
        out: Tensor,
        bare: bool = False,
    ) -> Tensor:
        """Write the half logits of prepared hidden states [R, D] into `out`, float32 [R, C].

        bare: omit the factor `self.bare`.
        """
        if self.mixed:
            torch.mm(hidden, weights.t(), out_dtype=torch.float32, out=out)
            if not bare or self.bare == 1.0:
                out.mul_(self.factor)
        else:
            torch.mm(hidden, weights.t(), out=out)
        if self.head.bias is not None:
            out.add_(self.head.bias.detach()[columns].float() * self.factor)
        if self.cap is not None:
            out.tanh_().mul_(self.cap)
        elif self.head.bias is not None:
            out.clamp_(min=LOG_ZERO)
        return out


def check_heads(head: Head, reference_head: Head) -> None:
    """Check that two heads have the same vocabulary.

    Raises:
        ModelError: their numbers of logits differ.
    """
    if head.vocab_size != reference_head.vocab_size:
        raise ModelError(
            f"the policy has {head.vocab_size} logits and the reference "
            f"{reference_head.vocab_size}: give two models of one vocabulary"
        )


def chosen_in(tile: Tensor, ids: Tensor, columns: slice, *, found: Tensor) -> None:
    """Copy the entries of `tile` [R, C] that `ids` [R] point at into `found` [R]."""
    local = ids - columns.start
    inside = (local >= 0) & (local < tile.shape[1])
    values = tile.gather(1, local.clamp(0, tile.shape[1] - 1).unsqueeze(1)).squeeze(1)
    torch.where(inside, values, found, out=found)


def logprobs_of(chosen: Tensor, log_total: Tensor) -> Tensor:
    """Return log-probabilities from half logits; a masked token has -inf. float64 [R]."""
    logprobs = 2 * chosen.double() - log_total
    return logprobs.clamp(max=0.0).masked_fill(chosen <= LOG_ZERO, -torch.inf)
