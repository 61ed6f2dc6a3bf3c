"""Token statistics and log-probabilities of completions: the model forward, then the token pass.

No tensor of logits of a batch is ever held; see token_pass.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from dgpo_cli.models import token_pass
from dgpo_cli.models.batching import Rows, micro_batches
from dgpo_cli.models.packing import Packed, pack
from dgpo_cli.types import Progress, SilentProgress, TokenStats

if TYPE_CHECKING:
    from torch import Tensor

    from dgpo_cli.models.policy import Policy


@torch.no_grad()
def token_stats(
    policy: Policy,
    rows: Rows,
    *,
    temperature: float,
    micro_batch_size: int,
    micro_batch_tokens: int | None = None,
    with_reference: bool,
    needs_reference: Tensor | None = None,  # bool [B]
    progress: Progress | None = None,
) -> TokenStats:
    """Compute log-probability, entropy and squared Hellinger distance of every completion token.

    Policy and reference run with the same layout, so that equal weights give a distance of
    exactly 0. Without the reference `hellinger_sq` is 0.

    Args:
        needs_reference: rows to run the reference on; None for all. The others have a distance
            of 0 and are batched apart, so that the micro-batches of the rows of an update are
            those of the update.
    """
    shape, device = rows.mask.shape, rows.mask.device
    logprobs, entropy, distance = (torch.zeros(shape, device=device) for _ in range(3))
    wanted = torch.full(shape[:1], with_reference, device=device)
    if needs_reference is not None:
        wanted &= needs_reference
    total = int(rows.mask.sum())
    with (progress or SilentProgress()).phase("statistics", total=total, unit="tokens") as advance:
        lengths = rows.prompt_mask.sum(dim=1) + rows.mask.sum(dim=1)
        for reference in (True, False):
            group = torch.nonzero(wanted == reference).squeeze(1)
            for local in micro_batches(
                lengths[group], size=micro_batch_size, max_tokens=micro_batch_tokens
            ):
                index = group[local]
                part = rows.take(index)
                columns = _columns(policy, part, temperature=temperature, reference=reference)
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
    found = token_pass.token_logprobs(
        hidden, head=policy.head, ids=rows.completion_ids[rows.mask], temperature=temperature
    )
    empty = torch.zeros(rows.mask.shape, device=hidden.device)
    return empty.masked_scatter(rows.mask, found)


def _columns(
    policy: Policy, rows: Rows, *, temperature: float, reference: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return logprobs, entropy, hellinger_sq of the N tokens on the mask, float32 [N] each."""
    packed, predicting = _packed(rows)
    hidden = policy.hidden(packed)[predicting]
    other = policy.reference_hidden(packed)[predicting] if reference else None
    found = token_pass.token_pass(
        hidden,
        other,
        head=policy.head,
        reference_head=policy.reference_head,
        ids=rows.completion_ids[rows.mask],
        temperature=temperature,
    )
    return found.logprobs, found.entropy, found.hellinger_sq


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
