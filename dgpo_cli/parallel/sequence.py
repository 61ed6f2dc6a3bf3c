"""Ranks that share each micro-batch: a lane, for rows that do not fit one device.

A packed row of S tokens is cut into equal chunks, one a rank. Embedding, linear layers, norms and
the token pass need only a rank's own tokens. Attention needs all tokens, but only one head at a
time: before it the ranks of a lane exchange their chunks of all heads for all tokens of their share
of the heads, and after it back (Ulysses, arXiv 2309.14509).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.autograd.function import once_differentiable

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed import ProcessGroup

    from dgpo_cli.parallel.ranks import Ranks


@dataclass(frozen=True, slots=True)
class Lane:
    """The ranks of a lane, as one of them sees them. All run the same passes on the same rows.

    number: of this rank, and so of its chunk and of its share of the heads; from 0.
    """

    number: int
    count: int
    group: ProcessGroup

    def chunk(self, tokens: int) -> int:
        """Return the tokens of each rank's chunk; those after the row's end are padding."""
        return -(-tokens // self.count)

    def cut(self, values: Tensor) -> Tensor:
        """Return the own chunk of the values [S, ...] of a row, with 0 in padding."""
        size = self.chunk(len(values))
        own = values[self.number * size : (self.number + 1) * size]
        return _lengthened(own, size)

    def places(self, tokens: Tensor, *, of: int) -> tuple[Tensor, Tensor]:
        """Return which of the tokens (int64 [N]) of a row of S are in the own chunk, bool [N], and
        their places in it."""
        size = self.chunk(of)
        own = tokens // size == self.number
        return own, tokens[own] - self.number * size

    def by_heads(self, rows: Sequence[Tensor], *, tokens: int) -> list[Tensor]:
        """Exchange the own chunk [C, heads, size] of each tensor for all tokens of its own heads,
        [S, heads / ranks, size]. Collective and differentiable.

        Tensors may differ in heads, which come in consecutive shares, and in size.
        """
        flat = [x.reshape(len(x), self.count, -1) for x in rows]
        sent = torch.cat(flat, dim=2).transpose(0, 1)
        found = _exchange(sent, self.group).flatten(0, 1)[:tokens]
        parts = found.split([x.shape[2] for x in flat], dim=1)
        return [
            part.reshape(tokens, x.shape[1] // self.count, x.shape[2])
            for part, x in zip(parts, rows, strict=True)
        ]

    def by_tokens(self, row: Tensor) -> Tensor:
        """Exchange all tokens of the own heads [S, heads / ranks, size] for the own chunk of all
        heads, [C, heads, size]. Collective and differentiable."""
        size = self.chunk(len(row))
        sent = _lengthened(row, size * self.count).reshape(self.count, size, -1)
        found: Tensor = _exchange(sent, self.group).transpose(0, 1)
        return found.reshape(size, self.count * row.shape[1], row.shape[2])

    def completed(self, columns: Tensor, own: Tensor) -> Tensor:
        """Return the columns [K, N] of N tokens, of which `columns` [K, n] has those that `own`
        (bool [N]) marks: the other ranks have the rest. Collective, without gradient."""
        found = columns.new_zeros(len(columns), len(own))
        found[:, own] = columns
        torch.distributed.all_reduce(found, group=self.group)
        return found


def open_lane(ranks: Ranks) -> Lane | None:
    """Return the lane of this rank; None if no ranks share a micro-batch. Collective."""
    if ranks.sequence == 1:
        return None
    return Lane(ranks.number % ranks.sequence, ranks.sequence, ranks.lane_group())


def _lengthened(values: Tensor, length: int) -> Tensor:
    """Append zeros to values [n, ...] up to a length."""
    missing = length - len(values)
    if not missing:
        return values
    return torch.cat([values, values.new_zeros(missing, *values.shape[1:])])


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _exchange(parts: Tensor, group: ProcessGroup) -> Tensor:
    """Send part r of [ranks, ...] to rank r; return what rank r sent in place r."""
    apply: Any = _AllToAll.apply
    found: Tensor = apply(parts, group)
    return found


class _AllToAll(torch.autograd.Function):
    """An exchange of equal parts, which is its own transpose."""

    @staticmethod
    def forward(ctx: Any, parts: Tensor, group: ProcessGroup) -> Tensor:
        ctx.group = group
        return _sent(parts, group)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, pull: Tensor) -> tuple[Tensor, None]:
        return _sent(pull, ctx.group), None


def _sent(parts: Tensor, group: ProcessGroup) -> Tensor:
    parts = parts.contiguous()
    found = torch.empty_like(parts)
    # As bytes: gloo does not know every dtype.
    torch.distributed.all_to_all_single(
        found.view(torch.uint8), parts.view(torch.uint8), group=group
    )
    return found
