"""The noise floor of the distance: the policy against itself, rounded differently.

Policy and reference run with the same layout, so equal weights have a distance of exactly 0. Once
any weight differs, all products after it round differently. Moving the last digit of the input
embeddings does the same to a single model. A smaller d is not a signal.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from dgpo_cli.algo.masked import masked_quantiles
from dgpo_cli.core.types import StepMetrics
from dgpo_cli.policy import token_pass
from dgpo_cli.policy.batching import Rows, cut_rows, pad_rows

if TYPE_CHECKING:
    from torch import Tensor

    from dgpo_cli.engine.piece import Recipe
    from dgpo_cli.policy.batching import Pair
    from dgpo_cli.policy.policy import Policy

# Completions that are run twice: at most 8, and 1/8 of a batch.
_MOST = 8
_SHARE = 8


def noise_pairs(pairs: Sequence[Pair]) -> list[Pair]:
    """Return the completions to measure on, spread evenly over the lengths, longest first."""
    count = max(1, min(_MOST, len(pairs) // _SHARE))
    ordered = sorted(pairs, key=lambda pair: len(pair[0]) + len(pair[1]), reverse=True)
    return [ordered[(len(ordered) - 1) * i // max(count - 1, 1)] for i in range(count)]


@torch.no_grad()
def noise_of_distance(policy: Policy, pairs: Sequence[Pair], *, recipe: Recipe) -> Tensor:
    """Return the squared Hellinger distance of the policy to itself at each token, float32 [N].

    Both passes have the layout of training, its micro-batches. In the second every embedding is
    moved by up to half a unit in its last place, as products round it, always by the same draws.

    Args:
        pairs: see `pad_rows`.
    """
    rows = pad_rows(pairs, pad_id=policy.pad_id)
    found = []
    for index in cut_rows(
        rows,
        torch.arange(len(pairs), device=rows.mask.device),
        size=recipe.micro_batch_size,
        max_tokens=recipe.micro_batch_tokens,
        even_length=policy.even_length,
    ):
        part = rows.take(index).to(policy.device)
        found.append(policy.inside(partial(_distance, policy, part, recipe.temperature)))
    return torch.cat(found)


def _distance(policy: Policy, rows: Rows, temperature: float) -> Tensor:
    tokens, plain = policy.predicted(rows), policy.token_hidden(rows)
    with _rounded_otherwise(policy):
        moved = policy.token_hidden(rows)
    columns = token_pass.token_pass(
        plain,
        moved,
        head=policy.head,
        reference_head=None,
        ids=tokens.ids,
        temperature=temperature,
    )
    return tokens.completed(columns.hellinger_sq)[0]


@contextmanager
def _rounded_otherwise(policy: Policy) -> Iterator[None]:
    """Move the input embeddings by less than their dtype resolves, or that of products if it is
    coarser, inside the context."""
    generator, lane = torch.Generator(policy.device).manual_seed(0), policy.lane

    def moved(module: torch.nn.Module, inputs: Any, output: Tensor) -> Tensor:
        shape = list(output.shape)
        if lane is not None:  # the draws of all tokens, of which some are this rank's
            shape[1] *= lane.count
        share = torch.rand(shape, generator=generator, device=output.device) - 0.5
        if lane is not None:
            share = share.chunk(lane.count, dim=1)[lane.number]
        eps = max(torch.finfo(t).eps for t in (output.dtype, policy.compute or output.dtype))
        by = eps * share
        return (output.float() * (1.0 + by)).to(output.dtype)

    handle = policy.model.get_input_embeddings().register_forward_hook(moved)
    try:
        yield
    finally:
        handle.remove()


def noise_metrics(noise: Tensor, *, dtype: torch.dtype) -> StepMetrics:
    """Return mean, 99% quantile and largest of the noise, and the floor.

    The floor is the quantile, but at least the square of the dtype's eps: the distance that
    rounding to it makes.
    """
    p99, largest = masked_quantiles(noise, torch.ones_like(noise).bool(), levels=(0.99, 1.0))
    return {
        "noise/hellinger_sq_mean": float(noise.mean()),
        "noise/hellinger_sq_p99": p99,
        "noise/hellinger_sq_max": largest,
        "noise/floor": max(p99, torch.finfo(dtype).eps ** 2),
    }
