"""Forward and backward over the micro-batches of one update; gradients add up in .grad.

There are two ways in. `accumulate` takes a batch whose statistics are known, for rollouts that were
measured before earlier updates moved the policy. `measure_and_accumulate` takes the statistics from
the same forward pass that is trained on: while nothing has moved since the rollout, the policy's
log-probabilities are their own old_logprobs, and the weights of a completion's tokens need nothing
but its own statistics. (Under a rule whose weights need those of the whole batch, it is the first.)
Where something has moved, old_logprobs come from outside, measured under the weights that sampled;
everything else is the present policy's all the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from dgpo_cli.algo.off_policy import Correction
from dgpo_cli.models.batching import Rows, cut_rows
from dgpo_cli.models.scoring import StatsTable, on_grid, token_columns, token_logprobs
from dgpo_cli.types import Advance, Batch

if TYPE_CHECKING:
    from torch import Tensor

    from dgpo_cli.algo.credit import CreditRule
    from dgpo_cli.algo.losses import ClipLoss
    from dgpo_cli.models.policy import Policy

NO_CORRECTION = Correction(level="none", mode="truncate", cap=1.0)
Watch = Callable[[str], AbstractContextManager[None]]


@dataclass(frozen=True, slots=True)
class Plan:
    """How an update is computed; the same for every micro-batch of it."""

    loss: ClipLoss
    temperature: float
    max_completion_tokens: int
    micro_batch_size: int
    micro_batch_tokens: int | None = None
    correction: Correction = NO_CORRECTION


@dataclass(slots=True)
class Tally:
    """Sums over the micro-batches of one update."""

    loss: float = 0.0
    ratio_min: float = math.inf
    ratio_max: float = -math.inf
    clipped: int = 0
    tokens: int = 0
    ratios_finite: bool = True
    kept: int = 0
    weights: float = 0.0
    squared_weights: float = 0.0

    @property
    def finite(self) -> bool:
        return self.ratios_finite and math.isfinite(self.loss)

    def add(
        self,
        loss: Tensor,  # scalar
        *,
        log_ratios: Tensor,  # [N], of the tokens on the mask, and so those below
        ratios: Tensor,
        clipped: Tensor,
        weights: Tensor,
        within: Tensor,
    ) -> None:
        """Count one micro-batch. weights: of the correction, within: of its cap."""
        self.kept += int(within.sum())
        self.weights += float(weights.double().sum())
        self.squared_weights += float(weights.double().square().sum())
        self.loss += float(loss.detach())
        self.ratio_min = min(self.ratio_min, float(ratios.min()))
        self.ratio_max = max(self.ratio_max, float(ratios.max()))
        self.clipped += int(clipped.sum())
        self.tokens += len(ratios)
        # A probability of zero gives a ratio of 0 or a clipped one, and so a finite loss.
        self.ratios_finite &= bool(log_ratios.isfinite().all())


def accumulate(
    policy: Policy, batch: Batch, index: Tensor, *, plan: Plan, advance: Advance
) -> Tally:
    """Run over the rows of `index` (int64 [M]) that have an advantage, with stored statistics."""
    scales = _row_scales(batch.lengths, batch.counting(index), plan=plan)
    signal = index[batch.advantages[index] != 0]
    rows = rows_of(batch)
    tally = Tally()
    with policy.training():
        for chosen, part in _parts(policy, rows, signal, plan=plan):
            width = part.mask.shape[1]
            _backward(
                token_logprobs(policy, part, temperature=plan.temperature),
                part.mask,
                old_logprobs=batch.stats.old_logprobs[chosen, :width],
                token_advantages=batch.advantages[chosen, None]
                * batch.credit.weights[chosen, :width],
                sampling_logprobs=_sampling_logprobs(batch, chosen, width=width),
                plan=plan,
                scales=scales[chosen],
                tally=tally,
            )
            advance(int(part.mask.sum()))
    return tally


def measure_and_accumulate(
    policy: Policy,
    batch: Batch,
    index: Tensor,  # int64 [M]
    *,
    table: StatsTable,
    rule: CreditRule,
    reference: bool,
    plan: Plan,
    advance: Advance,
    watch: Watch,
    carried: Tensor | None = None,  # float32 [C, T]
) -> Tally:
    """Measure the rows of `index` that have an advantage, weight them and run backward on them.

    Args:
        batch: `table` holds its statistics; those of these rows, and their credit, are filled in.
        reference: whether to measure the distance to the reference.
        watch: opened as "update" around each backward pass.
        carried: old_logprobs of the first C rows; None: those of this pass.
    """
    scales = _row_scales(batch.lengths, batch.counting(index), plan=plan)
    tally = Tally()
    with policy.training():
        signal = index[batch.advantages[index] != 0]
        for chosen, part in _parts(policy, rows_of(batch), signal, plan=plan):
            columns = token_columns(policy, part, temperature=plan.temperature, reference=reference)
            table.put(chosen, part.mask, columns)
            own = rule.credit(table.take(chosen), batch.mask[chosen], vocab_size=policy.vocab_size)
            batch.credit.put(chosen, own)
            logprobs = on_grid(columns.logprobs, part.mask)
            width = part.mask.shape[1]
            weights = own.weights[:, :width]
            with watch("update"):
                _backward(
                    logprobs,
                    part.mask,
                    old_logprobs=_old(logprobs, carried, chosen=chosen),
                    token_advantages=batch.advantages[chosen, None] * weights,
                    sampling_logprobs=_sampling_logprobs(batch, chosen, width=width),
                    plan=plan,
                    scales=scales[chosen],
                    tally=tally,
                )
            advance(int(part.mask.sum()))
    return tally


def _parts(policy: Policy, rows: Rows, index: Tensor, *, plan: Plan) -> list[tuple[Tensor, Rows]]:
    """Return the micro-batches of the rows `index`: which rows, and the rows."""
    cuts = cut_rows(
        rows,
        index,
        size=plan.micro_batch_size,
        max_tokens=plan.micro_batch_tokens,
        even_length=policy.even_length,
    )
    return [(chosen, rows.take(chosen)) for chosen in cuts]


def _backward(
    logprobs: Tensor,  # float32 [M, t]
    mask: Tensor,  # bool [M, t]
    *,
    old_logprobs: Tensor,  # float32 [M, t]
    token_advantages: Tensor,  # float32 [M, t]
    sampling_logprobs: Tensor | None,  # float32 [M, t]
    scales: Tensor,  # float32 [M]
    plan: Plan,
    tally: Tally,
) -> None:
    sampled = old_logprobs if sampling_logprobs is None else sampling_logprobs
    weights, within = plan.correction.weights(old_logprobs, sampled, mask)
    # A positive factor of the advantage is one of the loss, and moves no bound of the clip.
    losses, ratios, clipped = plan.loss.token_losses(
        logprobs, old_logprobs=old_logprobs, token_advantages=token_advantages * weights
    )
    value = (losses * scales[:, None])[mask].sum()
    value.backward()
    tally.add(
        value,
        log_ratios=(logprobs.detach() - old_logprobs)[mask],
        ratios=ratios[mask],
        clipped=clipped[mask],
        weights=weights[mask],
        within=within[mask],
    )


def _old(logprobs: Tensor, carried: Tensor | None, *, chosen: Tensor) -> Tensor:
    """Return the ratio's denominators of the rows `chosen`, float32 [M, t]."""
    found = logprobs.detach()
    if carried is None:
        return found
    first = chosen < len(carried)
    found = found.clone()
    found[first] = carried[chosen[first], : found.shape[1]]
    return found


def _sampling_logprobs(batch: Batch, chosen: Tensor, *, width: int) -> Tensor | None:
    if batch.sampling_logprobs is None:
        return None
    return batch.sampling_logprobs[chosen, :width]


def _row_scales(lengths: Tensor, index: Tensor, *, plan: Plan) -> Tensor:
    """Return what each row's token losses are multiplied by, float32 [B]; 0 outside `index`."""
    own = lengths[index]
    if not len(own):  # every row is left out of the loss
        return lengths.new_zeros(len(lengths), dtype=torch.float32)
    scales = plan.loss.row_scales(
        own,
        num_tokens=int(own.sum()),
        num_completions=len(index),
        max_completion_tokens=plan.max_completion_tokens,
    )
    return scales.new_zeros(len(lengths)).index_copy(0, index, scales)


def rows_of(batch: Batch) -> Rows:
    """Return the ids and masks of a batch."""
    return Rows(
        prompt_ids=batch.prompt_ids,
        prompt_mask=batch.prompt_mask,
        completion_ids=batch.completion_ids,
        mask=batch.mask,
    )
