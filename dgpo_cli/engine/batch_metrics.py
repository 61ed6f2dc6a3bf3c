"""Metrics of a batch: its sampler, its lag, its layout and its updates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from dgpo_cli.algo.grad_noise import SIGNAL, VARIANCE
from dgpo_cli.core.types import Batch, ScoredGroup, StepMetrics
from dgpo_cli.policy.batching import Rows, padding_share, shared_share

if TYPE_CHECKING:
    from dgpo_cli.engine.piece import Recipe, Update
    from dgpo_cli.policy.policy import Policy


def sampler_metrics(groups: Sequence[ScoredGroup], batch: Batch) -> StepMetrics:
    """Compare the sampler's log-probabilities with the trainer's on the sampled tokens.

    k3 estimates KL(sampler || trainer) in nats a token: the mean of r - 1 - log r over the tokens
    that the sampler drew, r = trainer / sampler; it is never negative.
    Source: Schulman, "Approximating KL Divergence" (2020).
    """
    flat = [x for g in groups for c in g.completions for x in c.sampling_logprobs]
    rows = Rows.of(batch)
    own, written = batch.stats.old_logprobs[rows.mask].cpu(), rows.mask[rows.filled].cpu()
    change = (own - torch.tensor(flat, dtype=torch.float32)[written]).double()
    return {
        "sampler/logprob_gap_mean": float(change.abs().mean()),
        "sampler/logprob_gap_max": float(change.abs().max()),
        "sampler/k3": float((change.expm1() - change).mean()),
    }


def truncation_metrics(batch: Batch) -> StepMetrics:
    """Return what top_p and top_k left to draw from; nothing if they are off.

    sampling/outside_kept: share of the sampled tokens that the trainer's arithmetic does not keep.
    """
    kept, outside = batch.stats.kept, batch.stats.outside
    if kept is None or outside is None:
        return {}
    return {
        "sampling/kept_mean": float(kept[batch.mask].double().mean()),
        "sampling/outside_kept": float(outside[batch.mask].double().mean()),
    }


def lag_metrics(groups: Sequence[ScoredGroup], batch: Batch, *, policy_version: int) -> StepMetrics:
    """Return the lag of the completions, and how far the policy has moved on their tokens.

    rollout/lag: optimiser updates between the weights that sampled and those that are trained,
    the mean over completions. Both log-probabilities behind off_policy/stale_* are the trainer's,
    under those two weights; k3 estimates KL(sampled by || trained) as above.
    """
    versions = [c.policy_version for g in groups for c in g.completions]
    metrics = {"rollout/lag": policy_version - sum(versions) / len(versions)}
    if batch.policy_logprobs is None:
        return metrics
    change = (batch.policy_logprobs - batch.stats.old_logprobs)[batch.mask].double()
    return metrics | {
        "off_policy/stale_gap_mean": float(change.abs().mean()),
        "off_policy/stale_k3": float((change.expm1() - change).mean()),
    }


def layout_metrics(policy: Policy, batch: Batch, *, recipe: Recipe) -> StepMetrics:
    """Return the shares of tokens that are not computed; 0 if the model cannot be packed.

    batch/padding_saved: of the tokens of a padded batch, those that would be padding.
    batch/prompts_saved: of all tokens, those of prompts that are computed with another completion.
    """
    even_length = policy.even_length
    if even_length is None:
        return {"batch/padding_saved": 0.0, "batch/prompts_saved": 0.0}
    rows = Rows.of(batch)
    size, most = recipe.micro_batch_size, recipe.micro_batch_tokens
    return {
        "batch/padding_saved": padding_share(rows, size=size, max_tokens=most),
        "batch/prompts_saved": shared_share(
            rows, size=size, max_tokens=most, even_length=even_length
        ),
    }


def update_metrics(updates: Sequence[Update]) -> StepMetrics:
    """Average the updates of one step; extremes and counts over all of them."""
    tokens = sum(each.signal_tokens for each in updates)
    clipped = sum(each.clipped_tokens for each in updates)
    low = sum(each.clipped_low for each in updates)
    kl = [each for each in updates if each.kl is not None]
    metrics = {
        "loss/value": sum(each.loss for each in updates) / len(updates),
        "loss/clip_frac": clipped / tokens if tokens else 0.0,
        "loss/clip_low": low / tokens if tokens else 0.0,
        "loss/clip_high": (clipped - low) / tokens if tokens else 0.0,
        "loss/ratio_min": min(each.ratio_min for each in updates),
        "loss/ratio_max": max(each.ratio_max for each in updates),
        "loss/signal_tokens": float(tokens),
        "optim/grad_norm": sum(each.grad_norm for each in updates) / len(updates),
        "optim/updates": float(sum(each.applied for each in updates)),
        "optim/skipped_no_signal": float(sum(each.finite and not each.applied for each in updates)),
        "optim/skipped_nonfinite": float(sum(not each.finite for each in updates)),
    }
    noise = [each.noise for each in updates if each.noise is not None]
    if noise:
        metrics[SIGNAL] = sum(each.signal for each in noise) / len(noise)
        metrics[VARIANCE] = sum(each.variance for each in noise) / len(noise)
    if kl:
        learnt = sum(each.learnt_tokens for each in kl)
        metrics["loss/kl"] = sum(each.kl or 0.0 for each in kl) / learnt
    return metrics


def off_policy_metrics(updates: Sequence[Update]) -> StepMetrics:
    """Return the share of tokens within the cap, and the effective share of tokens by weight.

    ess: (sum w)^2 / (N sum w^2) over the N tokens of completions with an advantage; 1 when all
    count alike.
    """
    tokens = sum(each.signal_tokens for each in updates)
    squares = sum(each.correction_squares for each in updates)
    total = sum(each.correction_weights for each in updates)
    return {
        "off_policy/kept_frac": (
            sum(each.kept_tokens for each in updates) / tokens if tokens else 1.0
        ),
        "off_policy/ess": total * total / (tokens * squares) if squares else float(not tokens),
    }
