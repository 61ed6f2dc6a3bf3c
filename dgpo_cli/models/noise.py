"""What rounding alone makes of the distance: the policy against itself, batched in another way.

Policy and reference run with the same layout, so equal weights have a distance of exactly 0. Once
the weights differ, their rounding differs as well, by as much as that of one model under two
layouts. What is below that in d is no signal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from dgpo_cli.algo.masked import masked_quantiles
from dgpo_cli.models import token_pass
from dgpo_cli.models.batching import Rows, cut_rows, pad_rows
from dgpo_cli.models.scoring import hidden_states
from dgpo_cli.types import StepMetrics

if TYPE_CHECKING:
    from torch import Tensor

    from dgpo_cli.models.accumulate import Plan
    from dgpo_cli.models.policy import Policy

Pair = tuple[Sequence[int], Sequence[int]]

# Completions that are run twice: at most this many, and this share of a batch.
_MOST = 8
_SHARE = 8


def noise_pairs(pairs: Sequence[Pair]) -> list[Pair]:
    """Return the completions to measure with, spread evenly over the lengths, longest first."""
    count = max(1, min(_MOST, len(pairs) // _SHARE))
    ordered = sorted(pairs, key=lambda pair: len(pair[0]) + len(pair[1]), reverse=True)
    return [ordered[(len(ordered) - 1) * i // max(count - 1, 1)] for i in range(count)]


@torch.no_grad()
def noise_of_distance(policy: Policy, pairs: Sequence[Pair], *, plan: Plan) -> Tensor:
    """Return the squared Hellinger distance of the policy to itself at each token, float32 [N].

    One forward pass has the layout of training, its micro-batches; in the other every completion
    is alone, or not alone where it was in the first.

    Args:
        pairs: ids of prompts and completions.
    """
    rows = pad_rows(pairs, pad_id=policy.pad_id, device=policy.device)
    found = []
    for index in cut_rows(
        rows,
        torch.arange(len(pairs), device=rows.mask.device),
        size=plan.micro_batch_size,
        max_tokens=plan.micro_batch_tokens,
        even_length=policy.even_length,
    ):
        part = rows.take(index)
        columns = token_pass.token_pass(
            hidden_states(policy, part),
            _in_another_layout(policy, part),
            head=policy.head,
            reference_head=None,
            ids=part.completion_ids[part.mask],
            temperature=plan.temperature,
        )
        found.append(columns.hellinger_sq)
    return torch.cat(found)


def _in_another_layout(policy: Policy, rows: Rows) -> Tensor:
    """Return the hidden states of `hidden_states`, [N, D], from other forward passes."""
    count = len(rows.mask)
    if count > 1:
        every = torch.arange(count, device=rows.mask.device)
        return torch.cat([hidden_states(policy, rows.take(one)) for one in every.split(1)])
    # One that is alone gets its own beginning for company, before it: its tokens move to other
    # places in the blocks of a matrix product.
    both = rows.take(torch.zeros(2, dtype=torch.int64, device=rows.mask.device))
    length = both.mask.shape[1]
    mask = both.mask.clone()
    mask[0, max(1, length // 4) :] = False
    return hidden_states(policy, replace(both, mask=mask))[-length:]


def noise_metrics(noise: Tensor, *, dtype: torch.dtype) -> StepMetrics:
    """Return mean, 99 % quantile and largest of what `noise_of_distance` found, and the floor.

    Two layouts may happen to round alike, all of a small model's, say. The floor is the quantile,
    but at least what rounding to the model's dtype makes of the distance: the square of its eps.
    """
    p99, largest = masked_quantiles(noise, torch.ones_like(noise).bool(), levels=(0.99, 1.0))
    return {
        "noise/hellinger_sq_mean": float(noise.mean()),
        "noise/hellinger_sq_p99": p99,
        "noise/hellinger_sq_max": largest,
        "noise/floor": max(p99, torch.finfo(dtype).eps ** 2),
    }
