"""Log-probabilities of chosen tokens alone, with a gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from dgpo_cli.policy.token_pass.gradient import MeanRow, cap_slope, with_gradient
from dgpo_cli.policy.token_pass.moments import Ledger
from dgpo_cli.policy.token_pass.reduce import fused_on, reduce_fused, reduce_one
from dgpo_cli.policy.token_pass.tiles import (
    LOG_ZERO,
    HalfLogits,
    Tiles,
    chosen_in,
    logprobs_of,
)

if TYPE_CHECKING:
    from torch import Tensor

    from dgpo_cli.policy.head import Head


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

    def walk(slopes: Tensor | None) -> tuple[Tensor, Tensor]:
        result = torch.empty(1, len(ids), device=hidden.device)
        log_total = torch.empty(len(ids), dtype=torch.float64, device=hidden.device)
        for rows in tiles.row_blocks(len(ids)):
            block = _Walk(hidden[rows], ids[rows], logits, tiles)
            result[0, rows], log_total[rows] = block.run(None if slopes is None else slopes[rows])
        return result, log_total

    return with_gradient(hidden, ids=ids, logits=logits, tiles=tiles, walk=walk)[0]


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
        mean = None if slopes is None else MeanRow(slopes)
        fused = fused_on(self._buffer)
        for part in self._tiles.column_blocks(self._logits.head.vocab_size):
            weights = self._logits.weights(part)
            x = self._buffer[: count * len(weights)].view(count, -1)
            self._logits.tile(self._hidden, weights, part, out=x, bare=fused)
            bent = None if mean is None else cap_slope(x, self._logits.cap)
            if fused:
                powers = self._logits.powers_like(x)
                numbers = ledger.next_tile()
                reduce_fused(
                    x,
                    None,
                    scale=self._logits.bare,
                    reference_scale=1.0,
                    ids=self._ids,
                    start=part.start,
                    numbers=numbers,
                    chosen=chosen,
                    reference_chosen=chosen,
                    powers=None if mean is None else powers,
                )
                if mean is not None:
                    mean.add(powers if bent is None else powers.mul_(bent), weights, top=numbers[0])
                continue
            chosen_in(x, self._ids, part, found=chosen)
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
