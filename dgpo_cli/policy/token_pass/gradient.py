"""The gradient of log-probabilities of chosen tokens in hidden states and head, a tile at a time.

Up to a factor, the gradient of a log-probability in its hidden state is the chosen row of the head
minus the mean row under the softmax. The incoming gradient only scales it, by one number per
token. So a walk also accumulates the mean row (rescaled as the maximum grows) and keeps [N, D]
numbers, which backward multiplies. This costs one matrix product on top of the logits; recomputing
the logits in backward would cost two. Only the gradient of the head's own weights recomputes the
logits, tile by tile.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch.autograd.function import once_differentiable

from dgpo_cli.policy.token_pass.tiles import LOG_ZERO, HalfLogits, Tiles

if TYPE_CHECKING:
    from torch import Tensor

    from dgpo_cli.policy.token_pass.kept import Cover

# Fills slopes (float32 [N, D]; None: no gradient) and returns float32 [C, N], the log-probabilities
# first, and the log of each sum of exponentials, float64 [N].
Walk = Callable[["Tensor | None"], "tuple[Tensor, Tensor]"]


def with_gradient(
    hidden: Tensor,  # [N, D]
    *,
    ids: Tensor,  # int64 [N]
    logits: HalfLogits,
    tiles: Tiles,
    walk: Walk,
    cover: Cover | None = None,
) -> tuple[Tensor, Tensor]:
    """Run `walk` and return its log-probabilities [N], differentiable once, and its other columns
    [C - 1, N], without gradient.

    The gradient goes to the hidden states and, where they require it, to the head's weight and
    bias.

    cover: what `walk` hides.
    """
    if not torch.is_grad_enabled():
        columns, _ = walk(None)
        return columns[0], columns[1:]
    apply: Any = _Graph.apply
    head = logits.head
    logprobs, others = apply(hidden, head.weight, head.bias, ids, logits, tiles, walk, cover)
    return logprobs, others


class _Graph(torch.autograd.Function):
    """Ties a walk over the vocabulary to the graph; see `with_gradient`."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        ids: Tensor,
        logits: HalfLogits,
        tiles: Tiles,
        walk: Walk,
        cover: Cover | None,
    ) -> tuple[Tensor, Tensor]:
        slopes = None
        if ctx.needs_input_grad[0]:
            slopes = torch.empty(hidden.shape, device=hidden.device)
        columns, log_total = walk(slopes)
        head_grad = ctx.needs_input_grad[1] or ctx.needs_input_grad[2]
        kept = (hidden, ids, log_total) if head_grad else (None, None, None)
        ctx.save_for_backward(slopes, weight if head_grad else None, bias, *kept)
        ctx.logits, ctx.tiles, ctx.dtype, ctx.cover = logits, tiles, hidden.dtype, cover
        others = columns[1:].clone()
        ctx.mark_non_differentiable(others)
        return columns[0].clone(), others

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, pull: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        slopes, weight, bias, hidden, ids, log_total = ctx.saved_tensors
        to_hidden = None if slopes is None else (slopes * pull.unsqueeze(1)).to(ctx.dtype)
        to_weight = to_bias = None
        if weight is not None:
            to_weight = torch.empty_like(weight) if ctx.needs_input_grad[1] else None
            to_bias = torch.empty_like(bias) if ctx.needs_input_grad[2] else None
            for part in ctx.tiles.column_blocks(weight.shape[0]):
                _head_gradient(
                    (hidden, ids, log_total, pull),
                    ctx.logits,
                    part,
                    tiles=ctx.tiles,
                    cover=ctx.cover,
                    out=(
                        None if to_weight is None else to_weight[part],
                        None if to_bias is None else to_bias[part],
                    ),
                )
        return to_hidden, to_weight, to_bias, None, None, None, None, None


class MeanRow:
    """Accumulates sum_v exp(2 (x_v - M)) W_v of R tokens, M the largest half logit so far."""

    def __init__(self, out: Tensor) -> None:
        self._sum = out.zero_()  # float32 [R, D]
        self._tile = torch.empty_like(out)
        self._top = out.new_full(out.shape[:1], LOG_ZERO)

    def add(self, powers: Tensor, weights: Tensor, *, top: Tensor) -> None:
        """Add a tile: powers exp(2 (x - top)) [R, C], weights [C, D], top [R].

        Powers in 16 bits, like the weights, are multiplied into float32.
        """
        larger = torch.maximum(self._top, top)
        old, new = (2 * (self._top - larger)).exp(), (2 * (top - larger)).exp()
        if powers.dtype == torch.float32:
            torch.mm(powers, weights.float(), out=self._tile)
        else:
            torch.mm(powers, weights, out_dtype=torch.float32, out=self._tile)
        self._sum.mul_(old.unsqueeze(1)).addcmul_(self._tile, new.unsqueeze(1))
        self._top = larger

    def finish(self, logits: HalfLogits, ids: Tensor, chosen: Tensor, *, total: Tensor) -> None:
        """Turn the sum into the gradient of the log-probability in the hidden state."""
        rows = logits.head.weight.detach()[ids].float()
        bent = cap_slope(chosen, logits.cap)
        if bent is not None:
            rows.mul_(bent.unsqueeze(1))
        self._sum.div_(-total.float().unsqueeze(1)).add_(rows).mul_(logits.slope)


def cap_slope(x: Tensor, cap: float | None) -> Tensor | None:
    """Return the derivative 1 - (x / cap)^2 of a soft-cap from its result; None without one."""
    return None if cap is None else (x / cap).square_().neg_().add_(1.0)


def _head_gradient(
    tokens: tuple[Tensor, Tensor, Tensor, Tensor],  # hidden [N, D], ids, log_total, pull [N]
    logits: HalfLogits,
    part: slice,
    *,
    tiles: Tiles,
    cover: Cover | None,
    out: tuple[Tensor | None, Tensor | None],  # weight [C, D], bias [C]
) -> None:
    """Write the gradient of one vocabulary tile of the head."""
    hidden, ids, log_total, pull = tokens
    weights = logits.weights(part)
    to_weight = torch.zeros(weights.shape, device=hidden.device)
    to_bias = to_weight.new_zeros(len(weights))
    buffer = to_weight.new_empty(min(tiles.rows, len(ids)) * len(weights))
    for rows in tiles.row_blocks(len(ids)):
        count = rows.stop - rows.start
        x = buffer[: count * len(weights)].view(count, -1)
        logits.tile(logits.prepare(hidden[rows]), weights, part, out=x)
        bent = cap_slope(x, logits.cap)
        if cover is not None:
            cover.hide(x, rows=rows, columns=part)
        local = ids[rows] - part.start
        inside = (local >= 0) & (local < len(weights))
        strength = pull[rows].float()
        x.sub_((log_total[rows] / 2).float().unsqueeze(1)).mul_(2).exp_()
        x.mul_(-strength.unsqueeze(1))
        local = local.clamp(0, len(weights) - 1).unsqueeze(1)
        x.scatter_add_(1, local, (strength * inside).unsqueeze(1))
        if bent is not None:
            x.mul_(bent)
        x.mul_(logits.slope)
        if logits.mixed:
            low = weights.dtype
            to_weight += torch.mm(x.to(low).t(), hidden[rows].to(low), out_dtype=torch.float32)
        else:
            to_weight.addmm_(x.t(), hidden[rows].float())
        to_bias.add_(x.sum(dim=0))
    for target, values in zip(out, (to_weight, to_bias), strict=True):
        if target is not None:
            target.copy_(values)
