"""Log-probabilities of chosen tokens with a gradient, a tile at a time.

The gradient of a log-probability in its hidden state is, but for a factor, the chosen row of the
head less the mean row under the softmax. It does not depend on what comes back through the graph
except as one number a token, so forward accumulates that mean row (rescaled as the maximum grows)
beside the sum and keeps [N, D] numbers; backward multiplies. Two matrix products in all, where
recomputing the logits in backward would take three. Only the gradient of the head's own weights
needs the logits again, and computes them again, tile by tile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.autograd.function import once_differentiable

from dgpo_cli.models.token_pass.moments import Ledger
from dgpo_cli.models.token_pass.reduce import reduce_one
from dgpo_cli.models.token_pass.statistics import logprobs_of
from dgpo_cli.models.token_pass.tiles import LOG_ZERO, HalfLogits, Tiles, chosen_in

if TYPE_CHECKING:
    from torch import Tensor

    from dgpo_cli.models.head import Head


def token_logprobs(
    hidden: Tensor,  # [N, D], any floating dtype
    *,
    head: Head,
    ids: Tensor,  # int64 [N], in [0, V)
    temperature: float,
    tiles: Tiles | None = None,
) -> Tensor:
    """Return log-probabilities in nats of N chosen tokens, float32 [N], differentiable once.

    Bit for bit those of `token_pass` on the same input. The gradient goes to the hidden states
    and, where they require it, to the head's weight and bias. Memory beyond inputs, outputs and
    gradients does not depend on N or V.
    """
    tiles = tiles or Tiles.fitting(hidden.shape[1], device=hidden.device)
    logits = HalfLogits(head, temperature=temperature)
    apply: Any = _TokenLogprobs.apply
    result: Tensor = apply(hidden, head.weight, head.bias, ids, logits, tiles)
    return result


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        ids: Tensor,
        logits: HalfLogits,
        tiles: Tiles,
    ) -> Tensor:
        result = torch.empty(len(ids), device=hidden.device)
        log_total = torch.empty(len(ids), dtype=torch.float64, device=hidden.device)
        slopes = None
        if ctx.needs_input_grad[0]:
            slopes = torch.empty(hidden.shape, device=hidden.device)
        for rows in tiles.row_blocks(len(ids)):
            walk = _Walk(hidden[rows], ids[rows], logits, tiles)
            result[rows], log_total[rows] = walk.run(None if slopes is None else slopes[rows])
        head_grad = ctx.needs_input_grad[1] or ctx.needs_input_grad[2]
        kept = (hidden, ids, log_total) if head_grad else (None, None, None)
        ctx.save_for_backward(slopes, weight if head_grad else None, bias, *kept)
        ctx.logits, ctx.tiles, ctx.dtype = logits, tiles, hidden.dtype
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, pull: Tensor) -> tuple[Tensor | None, ...]:
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
                    out=(
                        None if to_weight is None else to_weight[part],
                        None if to_bias is None else to_bias[part],
                    ),
                )
        return to_hidden, to_weight, to_bias, None, None, None


class _Walk:
    """One block of R tokens over the whole vocabulary."""

    def __init__(self, hidden: Tensor, ids: Tensor, logits: HalfLogits, tiles: Tiles) -> None:
        self._hidden, self._ids = logits.prepare(hidden), ids
        self._logits, self._tiles = logits, tiles
        self._buffer = torch.empty(len(ids) * tiles.columns, device=hidden.device)

    def run(self, slopes: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return logprobs and the log of the sum of exponentials, float64 [R] each.

        slopes: float32 [R, D], to be filled with the gradient of each logprob; None without.
        """
        count = len(self._ids)
        ledger = Ledger(count, device=self._hidden.device)
        chosen = self._buffer.new_full((count,), LOG_ZERO)
        mean = None if slopes is None else _MeanRow(slopes)
        for part in self._tiles.column_blocks(self._logits.head.vocab_size):
            weights = self._logits.weights(part)
            x = self._buffer[: count * len(weights)].view(count, -1)
            self._logits.tile(self._hidden, weights, part, out=x)
            chosen_in(x, self._ids, part, found=chosen)
            bent = None if mean is None else cap_slope(x, self._logits.cap)
            top, norm, _, reference_top, g_norm, slope, _, _ = numbers = ledger.next_tile()
            for rows in self._tiles.slices(count):
                reduce_one(x[rows], top=top[rows], norm=norm[rows])
                if mean is not None:
                    x[rows].square_()
            reference_top.copy_(top)
            g_norm.copy_(norm)
            slope.fill_(1.0)
            numbers[2].zero_()
            numbers[6:].zero_()
            if mean is not None:
                mean.add(x if bent is None else x.mul_(bent), weights, top=top)
        sums = ledger.result()
        if mean is not None:
            mean.finish(self._logits, self._ids, chosen, total=sums.total)
        return logprobs_of(chosen, sums.log_total()), sums.log_total()


class _MeanRow:
    """Accumulates sum_v exp(2 (x_v - M)) W_v of R tokens, M the largest half logit so far."""

    def __init__(self, out: Tensor) -> None:
        self._sum = out.zero_()  # float32 [R, D]
        self._tile = torch.empty_like(out)
        self._top = out.new_full(out.shape[:1], LOG_ZERO)

    def add(self, powers: Tensor, weights: Tensor, *, top: Tensor) -> None:
        """Add a tile: powers exp(2 (x - top)) float32 [R, C], weights [C, D], top [R]."""
        larger = torch.maximum(self._top, top)
        old, new = (2 * (self._top - larger)).exp(), (2 * (top - larger)).exp()
        torch.mm(powers, weights.float(), out=self._tile)
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
        local = ids[rows] - part.start
        inside = (local >= 0) & (local < len(weights))
        strength = pull[rows].float()
        x.sub_((log_total[rows] / 2).float().unsqueeze(1)).mul_(2).exp_()
        x.mul_(-strength.unsqueeze(1))
        where = torch.nonzero(inside).squeeze(1)
        x[where, local[where]] += strength[where]
        if bent is not None:
            x.mul_(bent)
        x.mul_(logits.slope)
        to_weight.addmm_(x.t(), hidden[rows].float())
        to_bias.add_(x.sum(dim=0))
    for target, values in zip(out, (to_weight, to_bias), strict=True):
        if target is not None:
            target.copy_(values)
