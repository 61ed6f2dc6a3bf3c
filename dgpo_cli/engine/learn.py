"""Learning from a batch: measure it, then update the policy on it, once or several times.

The order, for a batch whose groups are cut into `updates` pieces:

1. `measure` takes the statistics of every completion by the weights as they are: those that the
   first update does not learn from in a pass without gradient; then those of the first piece in a
   pass with gradient, each micro-batch weighted and run backward as soon as it is measured. While
   nothing has moved since the rollout, the policy's log-probabilities are their own old_logprobs,
   so one forward pass serves both. The gradient waits in .grad.
2. `update` moves the weights by that gradient, if it is this batch's, and then runs forward and
   backward over each later piece, whose old_logprobs are now those of earlier weights. A rule that
   is refreshed by each update (`credit.refresh`) measures the piece again: entropy, distance and
   credit of the batch are then those that were trained on, and old_logprobs stay.

With several ranks every one has the whole batch and runs its share of the micro-batches. Statistics
are summed over the ranks, so that credit, normalisers and metrics are those of the batch; so are
the gradients of an update.

A first pass cannot serve both where statistics and learning differ (dropout), or where the weights
of a completion need the statistics of all (a rule of the whole batch): then 1 only measures.
Completions that earlier weights sampled bring their old_logprobs, measured under those weights;
everything else is the present policy's all the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from dgpo_cli.algo.off_policy import Correction
from dgpo_cli.core.errors import ConfigError
from dgpo_cli.core.events import NOBODY, Observer, phase
from dgpo_cli.core.timing import Stopwatch
from dgpo_cli.core.types import Advance, Batch, TokenStats
from dgpo_cli.parallel.ranks import ALONE, Ranks
from dgpo_cli.policy.batching import Rows, cut_rows, on_grid, whole_groups
from dgpo_cli.policy.scoring import StatsTable, token_stats

if TYPE_CHECKING:
    from torch import Tensor

    from dgpo_cli.algo.credit import CreditRule
    from dgpo_cli.algo.losses import Loss
    from dgpo_cli.algo.truncation import Truncation
    from dgpo_cli.config.settings import Settings
    from dgpo_cli.policy.policy import Policy


NO_CORRECTION = Correction(level="none", mode="truncate", cap=1.0)


@dataclass(frozen=True, slots=True)
class Recipe:
    """The settings under which a batch is measured and learnt from.

    updates, group_size: the rows are cut into that many pieces of whole groups, an update each.
    max_grad_norm: 0 switches clipping off.
    """

    rule: CreditRule
    loss: Loss
    temperature: float
    max_completion_tokens: int
    group_size: int
    micro_batch_size: int
    micro_batch_tokens: int | None = None
    correction: Correction = NO_CORRECTION
    truncation: Truncation | None = None
    updates: int = 1
    max_grad_norm: float = 0.0

    @classmethod
    def of(cls, settings: Settings) -> Recipe:
        """Return the recipe of a run."""
        optim, rollout = settings.optim, settings.rollout
        return cls(
            rule=settings.credit,
            loss=settings.loss,
            # Greedy sampling has no temperature; its tokens are scored under the plain logits.
            temperature=rollout.temperature or 1.0,
            max_completion_tokens=rollout.max_completion_tokens,
            group_size=rollout.group_size,
            micro_batch_size=optim.micro_batch_size,
            micro_batch_tokens=optim.micro_batch_tokens,
            correction=settings.off_policy.of(rollout.backend.kind),
            truncation=rollout.truncation,
            updates=optim.updates_per_step,
            max_grad_norm=optim.max_grad_norm,
        )

    @property
    def refreshes(self) -> bool:
        """Whether every update after the first measures its rows again."""
        return self.rule.refresh == "update" and self.updates > 1

    def pieces(self, rows: int) -> list[tuple[int, int]]:
        """Return the rows of each update. Raises ConfigError if the last group is not whole."""
        if not rows or rows % self.group_size:
            raise ConfigError(
                f"rollout.group_size={self.group_size}: {rows} completions are not a multiple; "
                "sample that many for each prompt"
            )
        return whole_groups(rows, group_size=self.group_size, pieces=self.updates)


@dataclass(slots=True)
class Update:
    """The result of one update. Sums run over the completion tokens of rows with an advantage.

    signal_tokens: the number of those tokens.
    kept_tokens: tokens whose importance weight was within its cap.
    correction_weights, correction_squares: sums of those weights and of their squares.
    ratios_finite: whether the logarithm of every ratio was a finite number.
    grad_norm: before clipping; 0 when no row had an advantage.
    applied: whether the weights moved: the update was finite and a completion had an advantage.
    """

    loss: float = 0.0
    ratio_min: float = math.inf
    ratio_max: float = -math.inf
    clipped_tokens: int = 0
    signal_tokens: int = 0
    kept_tokens: int = 0
    correction_weights: float = 0.0
    correction_squares: float = 0.0
    ratios_finite: bool = True
    grad_norm: float = 0.0
    applied: bool = False

    @property
    def finite(self) -> bool:
        """Whether the loss, its gradient and the logarithm of every ratio were finite numbers."""
        return self.ratios_finite and math.isfinite(self.loss) and math.isfinite(self.grad_norm)

    def include(self, other: Update) -> None:
        """Add the micro-batches of another rank."""
        self.loss += other.loss
        self.ratio_min = min(self.ratio_min, other.ratio_min)
        self.ratio_max = max(self.ratio_max, other.ratio_max)
        self.clipped_tokens += other.clipped_tokens
        self.signal_tokens += other.signal_tokens
        self.kept_tokens += other.kept_tokens
        self.correction_weights += other.correction_weights
        self.correction_squares += other.correction_squares
        self.ratios_finite &= other.ratios_finite

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
        self.kept_tokens += int(within.sum())
        self.correction_weights += float(weights.double().sum())
        self.correction_squares += float(weights.double().square().sum())
        self.loss += float(loss.detach())
        self.ratio_min = min(self.ratio_min, float(ratios.min()))
        self.ratio_max = max(self.ratio_max, float(ratios.max()))
        self.clipped_tokens += int(clipped.sum())
        self.signal_tokens += len(ratios)
        # A probability of zero gives a ratio of 0 or a clipped one, and so a finite loss.
        self.ratios_finite &= bool(log_ratios.isfinite().all())


@dataclass(frozen=True, slots=True)
class _Piece:
    """The completions of one update, and its result so far."""

    batch: Batch
    recipe: Recipe
    scales: Tensor  # float32 [B], what the token losses of a row are multiplied by; 0 outside
    update: Update

    @classmethod
    def of(cls, batch: Batch, index: Tensor, *, recipe: Recipe) -> _Piece:
        """Take the rows `index` (int64 [M]) of a batch."""
        counting = batch.counting(index)
        scales = torch.zeros(len(batch.mask), device=batch.mask.device)
        if len(counting):  # else every row is left out of the loss
            own = batch.lengths[counting]
            scales[counting] = recipe.loss.row_scales(
                own,
                num_tokens=int(own.sum()),
                num_completions=len(counting),
                max_completion_tokens=recipe.max_completion_tokens,
            )
        return cls(batch, recipe, scales, Update())

    def backward(
        self,
        logprobs: Tensor,  # float32 [M, t]
        *,
        old_logprobs: Tensor,  # float32 [M, t]
        mask: Tensor,  # bool [M, t]
        chosen: Tensor,  # int64 [M], the rows of the batch that these are
        counts: bool = True,
    ) -> None:
        """Add the gradient of a micro-batch to .grad, and count it.

        counts: False for a pass that only keeps other ranks company: its gradient is 0.
        """
        batch, width, device = self.batch, mask.shape[1], mask.device
        sampled = batch.sampling_logprobs
        weights, within = self.recipe.correction.weights(
            old_logprobs,
            old_logprobs if sampled is None else sampled[chosen, :width].to(device),
            mask,
        )
        # A positive factor of the advantage is one of the loss, and moves no bound of the clip.
        credited = batch.advantages[chosen, None] * batch.credit.weights[chosen, :width]
        losses, ratios, clipped = self.recipe.loss.token_losses(
            logprobs,
            old_logprobs=old_logprobs,
            token_advantages=credited.to(device) * weights,
            mask=mask,
        )
        value = (losses * self.scales[chosen, None].to(device))[mask].sum()
        if not counts:
            (value * 0.0).backward()
            return
        value.backward()
        self.update.add(
            value,
            log_ratios=(logprobs.detach() - old_logprobs)[mask],
            ratios=ratios[mask],
            clipped=clipped[mask],
            weights=weights[mask],
            within=within[mask],
        )


@dataclass(frozen=True, slots=True)
class _Measuring:
    """Where a pass that trains writes its statistics.

    old_logprobs: of the first C rows; None: those of this pass, for every row.
    """

    table: StatsTable
    old_logprobs: Tensor | None  # float32 [C, T]


class Learner:
    """The policy, its optimiser if it is trained, and the update that has begun."""

    def __init__(
        self,
        policy: Policy,
        optimizer: torch.optim.Optimizer | None,
        *,
        ranks: Ranks = ALONE,
        observer: Observer = NOBODY,
        watch: Stopwatch | None = None,
    ) -> None:
        """
        Args:
            ranks: all call the same methods with the same arguments.
            watch: counts the seconds of backward passes as "update".
        """
        self.policy = policy
        self.optimizer = optimizer
        self._ranks = ranks
        self._observer = observer
        self._watch = watch or Stopwatch()
        self._begun: tuple[Batch, Update] | None = None  # its gradient is in .grad

    def measures_distance(self, rule: CreditRule) -> bool:
        """Whether the reference runs; a rule that does not use it does not pay for it."""
        return rule.needs_reference and self.policy.has_reference

    def measure(
        self,
        rows: Rows,
        advantages: Tensor,  # float32 [B]
        *,
        recipe: Recipe,
        every_distance: bool = False,
        sampling_logprobs: Tensor | None = None,  # float32 [B, T]
        counted: Tensor | None = None,  # bool [B]
        noise_floor: float | None = None,
        old_logprobs: Tensor | None = None,  # float32 [C, T]
    ) -> Batch:
        """Return the batch of `rows`, with statistics and weights; begin its first update.

        Args:
            every_distance: run the reference on rows without an advantage too.
            sampling_logprobs: the sampler's, for the recipe's correction.
            counted: rows that enter loss and normaliser; the others have no advantage. None: all.
            noise_floor: see TokenStats.
            old_logprobs: of the first C rows, under the weights that sampled them. None:
                they were sampled by the weights as they are.
        """
        signal = advantages != 0
        learnt = self._learnt_at_once(signal, recipe=recipe)
        table = StatsTable(
            rows,
            noise_floor=noise_floor,
            truncated=recipe.truncation is not None,
            kept_of=signal,
        )
        token_stats(
            self.policy,
            rows,
            temperature=recipe.temperature,
            micro_batch_size=recipe.micro_batch_size,
            micro_batch_tokens=recipe.micro_batch_tokens,
            with_reference=self.measures_distance(recipe.rule),
            needs_reference=None if every_distance else signal,
            only=torch.nonzero(~learnt).squeeze(1),
            truncation=recipe.truncation,
            into=table,
            ranks=self._ranks,
            observer=self._observer,
        )
        batch = Batch(
            prompt_ids=rows.prompt_ids,
            prompt_mask=rows.prompt_mask,
            completion_ids=rows.completion_ids,
            mask=rows.mask,
            advantages=advantages,
            stats=table.stats,
            credit=recipe.rule.credit_for(
                table.stats, rows.mask, advantages, vocab_size=self.policy.vocab_size
            ),
            sampling_logprobs=sampling_logprobs,
            counted=counted,
            policy_logprobs=(
                None if old_logprobs is None else torch.zeros_like(table.stats.old_logprobs)
            ),
            filled=rows.filled,
            kept=table.kept,
        )
        if recipe.refreshes and recipe.rule.whole_batch:  # whose batch is then that of an update
            for piece in recipe.pieces(len(advantages)):
                index = torch.arange(*piece, device=advantages.device)
                self._weigh(batch, index, rule=recipe.rule, stats=batch.stats)
        self._begun = None
        if learnt.any():
            first = recipe.pieces(len(advantages))[:1]
            with self._phase(batch, first) as advance:
                measuring = _Measuring(table, old_logprobs)
                update = self._accumulate(
                    batch, first[0], recipe=recipe, advance=advance, measuring=measuring
                )
            self._complete(batch, learnt, recipe=recipe, table=table)
            self._begun = batch, update
        if old_logprobs is not None and batch.policy_logprobs is not None:
            batch.policy_logprobs.copy_(table.stats.old_logprobs)
            table.stats.old_logprobs[: len(old_logprobs)] = old_logprobs
        return batch

    def update(self, batch: Batch, *, recipe: Recipe) -> list[Update]:
        """Move the weights, once for each piece of the batch.

        The loss of an update is normalised over all its completions; those whose advantage is zero
        have a gradient of exactly zero and are not computed. The gradient does not depend on the
        micro-batches.
        """
        assert self.optimizer is not None
        pieces, updates = recipe.pieces(len(batch.advantages)), []
        begun, self._begun = self._begun, None
        waiting = [begun[1]] if begun is not None and begun[0] is batch else []
        with self._phase(batch, pieces[len(waiting) :]) as advance:
            for piece in pieces:
                if waiting:
                    update = waiting.pop()
                elif recipe.refreshes and piece != pieces[0]:
                    update = self._refreshed(batch, piece, recipe=recipe, advance=advance)
                else:
                    update = self._accumulate(batch, piece, recipe=recipe, advance=advance)
                if update.signal_tokens:
                    update.grad_norm = self._clipped_norm(recipe.max_grad_norm)
                    update.applied = update.finite
                else:
                    update.ratio_min = update.ratio_max = 1.0
                if update.applied:
                    self.optimizer.step()
                self.optimizer.zero_grad(set_to_none=True)
                updates.append(update)
        return updates

    def _learnt_at_once(self, signal: Tensor, *, recipe: Recipe) -> Tensor:
        """Return which rows are measured by the pass that trains on them, bool [B]."""
        learnt = torch.zeros_like(signal)
        if self.optimizer is not None and not self._measures_apart(recipe.rule):
            start, stop = recipe.pieces(len(signal))[0]
            learnt[start:stop] = signal[start:stop]
        return learnt

    def _measures_apart(self, rule: CreditRule) -> bool:
        """Whether a pass that trains cannot measure the rows that it trains on."""
        return self.policy.has_dropout or rule.whole_batch

    def _refreshed(
        self, batch: Batch, piece: tuple[int, int], *, recipe: Recipe, advance: Advance
    ) -> Update:
        """Measure the rows of a piece again, by the weights as they are, and learn from them."""
        signal = torch.zeros_like(batch.advantages, dtype=torch.bool)
        signal[slice(*piece)] = batch.advantages[slice(*piece)] != 0
        index = torch.nonzero(signal).squeeze(1)
        rows, old = Rows.of(batch), batch.stats.old_logprobs
        table = StatsTable.again(batch.stats, index)
        if not len(index):
            return self._accumulate(batch, piece, recipe=recipe, advance=advance)
        if not self._measures_apart(recipe.rule):
            measuring = _Measuring(table, old)
            update = self._accumulate(
                batch, piece, recipe=recipe, advance=advance, measuring=measuring
            )
            self._complete(batch, signal, recipe=recipe, table=table)
            return update
        token_stats(
            self.policy,
            rows,
            temperature=recipe.temperature,
            micro_batch_size=recipe.micro_batch_size,
            micro_batch_tokens=recipe.micro_batch_tokens,
            with_reference=self.measures_distance(recipe.rule),
            only=index,
            truncation=recipe.truncation,
            into=table,
            ranks=self._ranks,
        )
        self._weigh(batch, index, rule=recipe.rule, stats=table.stats)
        return self._accumulate(batch, piece, recipe=recipe, advance=advance)

    def _accumulate(
        self,
        batch: Batch,
        piece: tuple[int, int],
        *,
        recipe: Recipe,
        advance: Advance,
        measuring: _Measuring | None = None,
    ) -> Update:
        """Run forward and backward over the rows of a piece that have an advantage; the gradients
        of the micro-batches add up in .grad.

        measuring: take statistics, credit and old_logprobs from the same pass and fill them in;
            None: they are known.
        """
        assert self.optimizer is not None
        self.optimizer.zero_grad(set_to_none=True)
        index = torch.arange(*piece, device=batch.advantages.device)
        own, rows = _Piece.of(batch, index, recipe=recipe), Rows.of(batch)
        parts = cut_rows(
            rows,
            index[batch.advantages[index] != 0],
            size=recipe.micro_batch_size,
            max_tokens=recipe.micro_batch_tokens,
            even_length=self.policy.even_length,
            lanes=self._ranks.lanes,
        )
        with self.policy.training():
            for chosen, counts in self._ranks.deal(parts):
                part = rows.take(chosen).to(self.policy.device)
                if measuring is None:
                    logprobs = self.policy.token_logprobs(
                        part, temperature=recipe.temperature, truncation=recipe.truncation
                    )
                    old = batch.stats.old_logprobs[chosen, : part.mask.shape[1]].to(logprobs.device)
                    clock: AbstractContextManager[None] = nullcontext()
                else:
                    logprobs, old = self._measured(
                        part, batch, chosen, recipe, measuring if counts else None
                    )
                    clock = self._watch.phase("update")
                with clock:
                    own.backward(
                        logprobs, old_logprobs=old, mask=part.mask, chosen=chosen, counts=counts
                    )
                advance(int(part.mask.sum()) * counts)
        return self._over_ranks(own.update, summed=not parts)

    def _over_ranks(self, update: Update, *, summed: bool) -> Update:
        """Return the update over all ranks, and sum its gradients if there are any."""
        if self._ranks.count == 1:
            return update
        if not (summed or self._ranks.collective):  # collective backward passes sum them
            for _, weight in self.policy.trainable():
                if weight.grad is None:
                    weight.grad = torch.zeros_like(weight)
            self._ranks.sum_([w.grad for _, w in self.policy.trainable() if w.grad is not None])
        # The ranks of a lane count the same micro-batches.
        first, *others = self._ranks.gather(update)[:: self._ranks.sequence]
        for other in others:
            first.include(other)
        return first

    def _complete(self, batch: Batch, learnt: Tensor, *, recipe: Recipe, table: StatsTable) -> None:
        """Fill in the statistics and the credit of rows that other ranks have learnt from."""
        if self._ranks.count == 1:
            return
        index = torch.nonzero(learnt).squeeze(1)
        table.make_whole(index, batch.mask, ranks=self._ranks)
        self._weigh(batch, index, rule=recipe.rule, stats=table.stats)

    def _weigh(self, batch: Batch, index: Tensor, *, rule: CreditRule, stats: TokenStats) -> None:
        """Write the credit of the rows `index` by their statistics."""
        mask, advantages = batch.mask[index], batch.advantages[index]
        vocab_size = self.policy.vocab_size
        credit = rule.credit_for(stats.take(index), mask, advantages, vocab_size=vocab_size)
        batch.credit.put(index, credit)

    def _measured(
        self,
        part: Rows,
        batch: Batch,
        chosen: Tensor,
        recipe: Recipe,
        measuring: _Measuring | None,
    ) -> tuple[Tensor, Tensor]:
        """Fill in statistics and credit of the rows `chosen`; return their log-probabilities, and
        the denominators of their ratios, float32 [M, t]."""
        policy = self.policy
        columns = policy.token_columns(
            part,
            temperature=recipe.temperature,
            reference=self.measures_distance(recipe.rule),
            truncation=recipe.truncation,
        )
        if measuring is None:  # a pass that does not count
            logprobs = on_grid(columns.logprobs, part.mask)
            return logprobs, logprobs.detach()
        table = measuring.table
        table.put(chosen, part.mask, columns)
        self._weigh(batch, chosen, rule=recipe.rule, stats=table.stats)
        logprobs = on_grid(columns.logprobs, part.mask)
        old, known = logprobs.detach(), measuring.old_logprobs
        if known is not None:
            first = chosen < len(known)
            old = old.clone()
            old[first.to(old.device)] = known[chosen[first], : old.shape[1]].to(old.device)
        return logprobs, old

    def _phase(
        self, batch: Batch, pieces: Sequence[tuple[int, int]]
    ) -> AbstractContextManager[Advance]:
        """Report progress in the tokens that these pieces learn from."""
        if not pieces:
            return nullcontext(lambda amount: None)
        rows = slice(pieces[0][0], pieces[-1][1])
        total = int(batch.lengths[rows][batch.advantages[rows] != 0].sum())
        total = -(-total // self._ranks.lanes)  # about this rank's share
        return phase(self._observer, "update", total=total, unit="tokens")

    def _clipped_norm(self, limit: float) -> float:
        """Clip the gradient to a norm; return what it was. 0 only measures it."""
        parameters = [p for _, p in self.policy.trainable()]
        norm = torch.nn.utils.clip_grad_norm_(parameters, limit if limit > 0 else math.inf)
        return float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)
