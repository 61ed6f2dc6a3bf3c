"""Token statistics and log-probabilities of completions, from chunks of tokens.

No tensor of logits of a whole batch is ever held: the head runs on a bounded number of logits at
a time, and backward computes them again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.utils.checkpoint import checkpoint

from dgpo_cli.algo.divergence import selected_logprobs, token_statistics
from dgpo_cli.models.batching import Rows, micro_batches
from dgpo_cli.models.packing import Packed, pack
from dgpo_cli.types import Progress, SilentProgress, TokenStats

if TYPE_CHECKING:
    from torch import Tensor

    from dgpo_cli.models.head import Head
    from dgpo_cli.models.policy import Policy

# Logits held at once: 4 Mi float32 numbers are 16 MiB, small against a model and large enough
# for the matrix product to run at full speed.
LOGITS_AT_ONCE = 1 << 22


@torch.no_grad()
def token_stats(
    policy: Policy,
    rows: Rows,
    *,
    temperature: float,
    micro_batch_size: int,
    micro_batch_tokens: int | None = None,
    with_reference: bool,
    progress: Progress | None = None,
) -> TokenStats:
    """Compute log-probability, entropy and squared Hellinger distance of every completion token.

    Policy and reference run with the same layout, so that equal weights give a distance of
    exactly 0. Without the reference `hellinger_sq` is 0.
    """
    shape, device = rows.mask.shape, rows.mask.device
    logprobs, entropy, distance = (torch.zeros(shape, device=device) for _ in range(3))
    total = int(rows.mask.sum())
    with (progress or SilentProgress()).phase("statistics", total=total, unit="tokens") as advance:
        lengths = rows.prompt_mask.sum(dim=1) + rows.mask.sum(dim=1)
        for index in micro_batches(lengths, size=micro_batch_size, max_tokens=micro_batch_tokens):
            part = rows.take(index)
            columns = _columns(policy, part, temperature=temperature, reference=with_reference)
            width = part.mask.shape[1]
            for target, values in zip((logprobs, entropy, distance), columns, strict=True):
                padded = torch.zeros(part.mask.shape, device=device)
                padded[part.mask] = values
                target[index, :width] = padded
            advance(int(part.mask.sum()))
    return TokenStats(old_logprobs=logprobs, entropy=entropy, hellinger_sq=distance)


def token_logprobs(policy: Policy, rows: Rows, *, temperature: float) -> Tensor:
    """Return differentiable log-probabilities of the completion tokens, float32 [B, T].

    Positions outside the mask are 0.
    """
    packed, predicting = _packed(rows)
    hidden = policy.hidden(packed)[predicting]
    chosen = rows.completion_ids[rows.mask]
    step = max(1, LOGITS_AT_ONCE // policy.head.vocab_size)
    pieces = [
        checkpoint(_chunk_logprobs, part, ids_part, policy.head, temperature, use_reentrant=False)
        if hidden.shape[0] > step
        else _chunk_logprobs(part, ids_part, policy.head, temperature)
        for part, ids_part in zip(hidden.split(step), chosen.split(step), strict=True)
    ]
    return torch.zeros(rows.mask.shape, device=hidden.device).masked_scatter(
        rows.mask, torch.cat(pieces)
    )


def _chunk_logprobs(hidden: Tensor, ids: Tensor, head: Head, temperature: float) -> Tensor:
    return selected_logprobs(head.logits(hidden) / temperature, ids)


def _columns(
    policy: Policy, rows: Rows, *, temperature: float, reference: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return logprobs, entropy, hellinger_sq of the N tokens on the mask, float32 [N] each."""
    packed, predicting = _packed(rows)
    hidden = policy.hidden(packed)[predicting]
    other = policy.reference_hidden(packed)[predicting] if reference else None
    chosen = rows.completion_ids[rows.mask]
    step = max(1, LOGITS_AT_ONCE // policy.head.vocab_size)
    pieces = []
    for start in range(0, hidden.shape[0], step):
        cut = slice(start, start + step)
        q = None if other is None else policy.reference_head.logits(other[cut]) / temperature
        p = policy.head.logits(hidden[cut]) / temperature
        pieces.append(token_statistics(p, q, chosen[cut]))
    logprobs, entropy, distance = (torch.cat(column) for column in zip(*pieces, strict=True))
    return logprobs, entropy, distance


def _packed(rows: Rows) -> tuple[Packed, Tensor]:
    """Return prompts and completions as packed sequences, and which of the S tokens predict the
    completion tokens (bool [S], N of them, in the order of the mask).

    The last token of a completion is left out: nothing is predicted from it.
    """
    ids = torch.cat([rows.prompt_ids, rows.completion_ids], dim=1)[:, :-1]
    lengths = rows.prompt_mask.sum(dim=1)
    # A completion's last token is the last of its row, wherever the row ends.
    kept = rows.mask & (rows.mask.cumsum(dim=1) < rows.mask.sum(dim=1, keepdim=True))
    packed = pack(ids, torch.cat([rows.prompt_mask, kept], dim=1)[:, :-1])
    line = packed.slots // packed.width
    return packed, packed.positions >= lengths[line] - 1
