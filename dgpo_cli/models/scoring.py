"""Token statistics and log-probabilities of completions: the model forward, then the token pass.

No tensor of logits of a batch is ever held; see token_pass.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from dgpo_cli.models import token_pass
from dgpo_cli.models.batching import Rows, micro_batches
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
            for local in micro_batches(lengths[group], size=micro_batch_size):
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
    ids, attention = _inputs(rows)
    hidden = _completion_hidden(policy.hidden(ids, attention_mask=attention), rows)
    found = token_pass.token_logprobs(
        hidden, head=policy.head, ids=rows.completion_ids[rows.mask], temperature=temperature
    )
    empty = torch.zeros(rows.mask.shape, device=hidden.device)
    return empty.masked_scatter(rows.mask, found)


def _columns(
    policy: Policy, rows: Rows, *, temperature: float, reference: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return logprobs, entropy, hellinger_sq of the N tokens on the mask, float32 [N] each."""
    ids, attention = _inputs(rows)
    hidden = _completion_hidden(policy.hidden(ids, attention_mask=attention), rows)
    other = None
    if reference:
        other = _completion_hidden(policy.reference_hidden(ids, attention_mask=attention), rows)
    found = token_pass.token_pass(
        hidden,
        other,
        head=policy.head,
        reference_head=policy.reference_head,
        ids=rows.completion_ids[rows.mask],
        temperature=temperature,
    )
    return found.logprobs, found.entropy, found.hellinger_sq


def _inputs(rows: Rows) -> tuple[Tensor, Tensor]:
    """Return ids and attention mask of prompt and completion, without the last token, which
    nothing is predicted from."""
    ids = torch.cat([rows.prompt_ids, rows.completion_ids], dim=1)[:, :-1]
    attention = torch.cat([rows.prompt_mask, rows.mask], dim=1)[:, :-1]
    return ids, attention


def _completion_hidden(hidden: Tensor, rows: Rows) -> Tensor:
    """Return the hidden states that predict the completion tokens on the mask, [N, D]."""
    return hidden[:, rows.prompt_ids.shape[1] - 1 :][rows.mask]
