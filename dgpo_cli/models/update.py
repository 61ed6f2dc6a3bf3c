"""One optimiser update: micro-batches forward and backward, one check, one AdamW step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from dgpo_cli.models.batching import Rows, micro_batches
from dgpo_cli.models.scoring import token_logprobs
from dgpo_cli.types import Advance, Batch

if TYPE_CHECKING:
    from torch import Tensor

    from dgpo_cli.algo.losses import ClipLoss
    from dgpo_cli.models.policy import Policy


@dataclass(frozen=True, slots=True)
class UpdateResult:
    """What one update did. Sums run over the completion tokens of rows with an advantage.

    grad_norm: before clipping; 0 when no row had an advantage.
    applied: whether the weights were moved; not when the update was not finite, nor when no
        completion had an advantage.
    finite: whether the loss, its gradient and the logarithm of every ratio were finite numbers.
    """

    loss: float
    grad_norm: float
    ratio_min: float
    ratio_max: float
    clipped_tokens: int
    signal_tokens: int
    applied: bool
    finite: bool


def build_adamw(
    policy: Policy, *, lr: float, betas: tuple[float, float], eps: float, weight_decay: float
) -> torch.optim.AdamW:
    """Return AdamW over the trainable parameters; matrices decay, norms and biases do not."""
    named = policy.trainable()
    matrices = [p for _, p in named if p.ndim >= 2]
    vectors = [p for _, p in named if p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    fused = policy.device.type in ("cpu", "cuda")
    return torch.optim.AdamW(
        [g for g in groups if g["params"]], lr=lr, betas=betas, eps=eps, fused=fused
    )


def update(
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    index: Tensor,
    *,
    loss: ClipLoss,
    temperature: float,
    max_completion_tokens: int,
    max_grad_norm: float,
    micro_batch_size: int,
    micro_batch_tokens: int | None = None,
    advance: Advance,
) -> UpdateResult:
    """Update the policy on the completions `index` (int64 [M]) of a batch.

    The loss is normalised over all M completions; those whose advantage is zero have a gradient
    of exactly zero and are not computed. The gradient does not depend on `micro_batch_size`.
    """
    optimizer.zero_grad(set_to_none=True)
    tally = _accumulate(
        policy,
        batch,
        index,
        loss=loss,
        temperature=temperature,
        max_completion_tokens=max_completion_tokens,
        micro_batch_size=micro_batch_size,
        micro_batch_tokens=micro_batch_tokens,
        advance=advance,
    )
    if tally.tokens == 0:
        return tally.result(grad_norm=0.0, applied=False)
    parameters = [p for _, p in policy.trainable()]
    # An infinite limit only measures the norm.
    limit = max_grad_norm if max_grad_norm > 0 else math.inf
    grad_norm = float(torch.nn.utils.clip_grad_norm_(parameters, limit))
    applied = tally.finite and math.isfinite(grad_norm)
    if applied:
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return tally.result(grad_norm=grad_norm, applied=applied)


@dataclass(slots=True)
class _Tally:
    """Sums over the micro-batches of one update."""

    loss: float = 0.0
    ratio_min: float = math.inf
    ratio_max: float = -math.inf
    clipped: int = 0
    tokens: int = 0
    ratios_finite: bool = True

    @property
    def finite(self) -> bool:
        return self.ratios_finite and math.isfinite(self.loss)

    def add(
        self,
        loss: Tensor,  # scalar
        *,
        log_ratios: Tensor,  # [N], of the tokens on the mask, and so the two below
        ratios: Tensor,
        clipped: Tensor,
    ) -> None:
        """Count one micro-batch."""
        self.loss += float(loss.detach())
        self.ratio_min = min(self.ratio_min, float(ratios.min()))
        self.ratio_max = max(self.ratio_max, float(ratios.max()))
        self.clipped += int(clipped.sum())
        self.tokens += len(ratios)
        # A probability of zero gives a ratio of 0 or a clipped one, and so a finite loss.
        self.ratios_finite &= bool(log_ratios.isfinite().all())

    def result(self, *, grad_norm: float, applied: bool) -> UpdateResult:
        empty = self.tokens == 0
        return UpdateResult(
            loss=self.loss,
            grad_norm=grad_norm,
            ratio_min=1.0 if empty else self.ratio_min,
            ratio_max=1.0 if empty else self.ratio_max,
            clipped_tokens=self.clipped,
            signal_tokens=self.tokens,
            applied=applied,
            finite=self.finite and math.isfinite(grad_norm),
        )


def _accumulate(
    policy: Policy,
    batch: Batch,
    index: Tensor,
    *,
    loss: ClipLoss,
    temperature: float,
    max_completion_tokens: int,
    micro_batch_size: int,
    micro_batch_tokens: int | None = None,
    advance: Advance,
) -> _Tally:
    """Run forward and backward over the rows with an advantage; gradients add up in .grad."""
    scales = _row_scales(batch, index, loss=loss, max_completion_tokens=max_completion_tokens)
    signal = index[batch.advantages[index] != 0]
    rows = rows_of(batch)
    tally = _Tally()
    row_lengths = batch.prompt_mask.sum(dim=1) + batch.lengths
    with policy.training():
        for local in micro_batches(
            row_lengths[signal], size=micro_batch_size, max_tokens=micro_batch_tokens
        ):
            part_index = signal[local]
            part = rows.take(part_index)
            width = part.mask.shape[1]
            logprobs = token_logprobs(policy, part, temperature=temperature)
            weights = batch.credit.weights[part_index, :width]
            old_logprobs = batch.stats.old_logprobs[part_index, :width]
            losses, ratios, clipped = loss.token_losses(
                logprobs,
                old_logprobs=old_logprobs,
                token_advantages=batch.advantages[part_index, None] * weights,
            )
            value = (losses * scales[part_index, None])[part.mask].sum()
            value.backward()
            tally.add(
                value,
                log_ratios=(logprobs.detach() - old_logprobs)[part.mask],
                ratios=ratios[part.mask],
                clipped=clipped[part.mask],
            )
            advance(int(part.mask.sum()))
    return tally


def _row_scales(
    batch: Batch, index: Tensor, *, loss: ClipLoss, max_completion_tokens: int
) -> Tensor:
    """Return what each row's token losses are multiplied by, float32 [B]; 0 outside `index`."""
    lengths = batch.lengths[index]
    scales = loss.row_scales(
        lengths,
        num_tokens=int(lengths.sum()),
        num_completions=len(index),
        max_completion_tokens=max_completion_tokens,
    )
    return torch.zeros_like(batch.advantages).index_copy(0, index, scales)


def rows_of(batch: Batch) -> Rows:
    """Return the ids and masks of a batch."""
    return Rows(
        prompt_ids=batch.prompt_ids,
        prompt_mask=batch.prompt_mask,
        completion_ids=batch.completion_ids,
        mask=batch.mask,
    )
