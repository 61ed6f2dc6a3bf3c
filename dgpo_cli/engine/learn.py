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

from dgpo_cli.algo.grad_noise import noise_of_halves
from dgpo_cli.core.events import NOBODY, Observer, phase
from dgpo_cli.core.timing import Stopwatch
from dgpo_cli.core.types import Advance, Batch, TokenStats
from dgpo_cli.engine.piece import Piece, Recipe, Update
from dgpo_cli.parallel.ranks import ALONE, Ranks
from dgpo_cli.policy.batching import Rows, cut_rows, on_grid
from dgpo_cli.policy.scoring import StatsTable, token_stats

if TYPE_CHECKING:
    from torch import Tensor

    from dgpo_cli.algo.credit import CreditRule
    from dgpo_cli.policy.policy import Policy


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

    def runs_reference(self, recipe: Recipe) -> bool:
        """Whether the reference runs; what does not use it does not pay for it."""
        return recipe.needs_reference and self.policy.has_reference

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
        value_moves: Tensor | None = None,  # float32 [B, T]
    ) -> Batch:
        """Return the batch of `rows`, with statistics and weights; begin its first update.

        Args:
            every_distance: run the reference on all rows, those that are not learnt from too.
            sampling_logprobs: the sampler's, for the recipe's correction.
            counted: rows that enter loss and normaliser; the others have no advantage. None: all.
            noise_floor: see TokenStats.
            old_logprobs: of the first C rows, under the weights that sampled them. None:
                they were sampled by the weights as they are.
            value_moves: see TokenStats; a refreshed rule has them again.
        """
        rows_learnt = recipe.learnt_rows(advantages, counted=counted)
        learnt = self._learnt_at_once(rows_learnt, recipe=recipe)
        has_reference = self.runs_reference(recipe)
        table = StatsTable(
            rows,
            noise_floor=noise_floor,
            truncated=recipe.truncation is not None,
            kept_of=rows_learnt,
            reference_logprobs=has_reference and recipe.loss.needs_reference,
            value_moves=value_moves,
        )
        token_stats(
            self.policy,
            rows,
            temperature=recipe.temperature,
            micro_batch_size=recipe.micro_batch_size,
            micro_batch_tokens=recipe.micro_batch_tokens,
            with_reference=has_reference,
            needs_reference=None if every_distance else rows_learnt,
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
            with self._phase(batch, first, recipe=recipe) as advance:
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
        have a gradient of exactly zero and are not computed, unless the loss has a KL term. The
        gradient does not depend on the micro-batches.
        """
        assert self.optimizer is not None
        pieces, updates = recipe.pieces(len(batch.advantages)), []
        begun, self._begun = self._begun, None
        waiting = [begun[1]] if begun is not None and begun[0] is batch else []
        with self._phase(batch, pieces[len(waiting) :], recipe=recipe) as advance:
            for piece in pieces:
                if waiting:
                    update = waiting.pop()
                elif recipe.refreshes and piece != pieces[0]:
                    update = self._refreshed(batch, piece, recipe=recipe, advance=advance)
                else:
                    update = self._accumulate(batch, piece, recipe=recipe, advance=advance)
                if update.learnt_tokens:
                    update.grad_norm = self._clipped_norm(recipe.max_grad_norm)
                    update.applied = update.finite
                if update.half_norm is not None:
                    update.noise = noise_of_halves(
                        update.half_norm,
                        update.grad_norm,
                        groups=(piece[1] - piece[0]) // recipe.group_size,
                        group_size=recipe.group_size,
                    )
                if not update.signal_tokens:
                    update.ratio_min = update.ratio_max = 1.0
                if update.applied:
                    self.optimizer.step()
                self.optimizer.zero_grad(set_to_none=True)
                updates.append(update)
        return updates

    def _learnt_at_once(self, rows: Tensor, *, recipe: Recipe) -> Tensor:
        """Return which of the rows (bool [B]) are measured by the pass that trains on them."""
        learnt = torch.zeros_like(rows)
        if self.optimizer is not None and not self._measures_apart(recipe.rule):
            start, stop = recipe.pieces(len(rows))[0]
            learnt[start:stop] = rows[start:stop]
        return learnt

    def _measures_apart(self, rule: CreditRule) -> bool:
        """Whether a pass that trains cannot measure the rows that it trains on."""
        return self.policy.has_dropout or rule.whole_batch

    def _refreshed(
        self, batch: Batch, piece: tuple[int, int], *, recipe: Recipe, advance: Advance
    ) -> Update:
        """Measure the rows of a piece again, by the weights as they are, and learn from them."""
        learnt = recipe.learnt_rows(batch.advantages, counted=batch.counted).clone()
        learnt[: piece[0]] = learnt[piece[1] :] = False
        index = torch.nonzero(learnt).squeeze(1)
        rows, old = Rows.of(batch), batch.stats.old_logprobs
        table = StatsTable.again(batch.stats, index)
        if not len(index):
            return self._accumulate(batch, piece, recipe=recipe, advance=advance)
        if not self._measures_apart(recipe.rule):
            measuring = _Measuring(table, old)
            update = self._accumulate(
                batch, piece, recipe=recipe, advance=advance, measuring=measuring
            )
            self._complete(batch, learnt, recipe=recipe, table=table)
            return update
        token_stats(
            self.policy,
            rows,
            temperature=recipe.temperature,
            micro_batch_size=recipe.micro_batch_size,
            micro_batch_tokens=recipe.micro_batch_tokens,
            with_reference=self.runs_reference(recipe),
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
        """Run forward and backward over the rows of a piece that are learnt from; the gradients of
        the micro-batches add up in .grad.

        To measure the noise of the gradient, the even groups come first.

        measuring: take statistics, credit and old_logprobs from the same pass and fill them in;
            None: they are known.
        """
        assert self.optimizer is not None
        self.optimizer.zero_grad(set_to_none=True)
        index = torch.arange(*piece, device=batch.advantages.device)
        own = Piece.of(batch, index, recipe=recipe)
        learnt = index[recipe.learnt_rows(batch.advantages, counted=batch.counted)[index]]
        if not recipe.grad_noise:
            parts = self._backward(own, learnt, advance=advance, measuring=measuring)
            return self._over_ranks(own.update, summed=not parts)
        odd = (learnt - piece[0]) // recipe.group_size % 2 == 1
        parts = self._backward(own, learnt[~odd], advance=advance, measuring=measuring)
        own.update.half_norm = self._norm_so_far(summed=not parts)
        parts += self._backward(own, learnt[odd], advance=advance, measuring=measuring)
        return self._over_ranks(own.update, summed=not parts)

    def _backward(
        self, own: Piece, index: Tensor, *, advance: Advance, measuring: _Measuring | None
    ) -> int:
        """Add the gradient of the rows `index` to .grad; return the number of micro-batches."""
        batch, recipe, rows = own.batch, own.recipe, Rows.of(own.batch)
        parts = cut_rows(
            rows,
            index,
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
        return len(parts)

    def _norm_so_far(self, *, summed: bool) -> float:
        """Return the norm of the gradient over all ranks, in the midst of an update."""
        if self._ranks.count > 1 and not summed and not self._ranks.collective:
            self._sum_gradients()
            for _, weight in self.policy.trainable():
                if not self._ranks.leads and weight.grad is not None:
                    weight.grad.zero_()  # what is summed is summed once more at the end
        return self._clipped_norm(0.0)

    def _sum_gradients(self) -> None:
        for _, weight in self.policy.trainable():
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
        self._ranks.sum_([w.grad for _, w in self.policy.trainable() if w.grad is not None])

    def _over_ranks(self, update: Update, *, summed: bool) -> Update:
        """Return the update over all ranks, and sum its gradients if there are any."""
        if self._ranks.count == 1:
            return update
        if not (summed or self._ranks.collective):  # collective backward passes sum them
            self._sum_gradients()
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
            reference=self.runs_reference(recipe),
            reference_logprobs=recipe.loss.needs_reference,
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
        self, batch: Batch, pieces: Sequence[tuple[int, int]], *, recipe: Recipe
    ) -> AbstractContextManager[Advance]:
        """Report progress in the tokens that these pieces learn from."""
        if not pieces:
            return nullcontext(lambda amount: None)
        rows = slice(pieces[0][0], pieces[-1][1])
        learnt = recipe.learnt_rows(batch.advantages, counted=batch.counted)
        total = int(batch.lengths[rows][learnt[rows]].sum())
        total = -(-total // self._ranks.lanes)  # about this rank's share
        return phase(self._observer, "update", total=total, unit="tokens")

    def _clipped_norm(self, limit: float) -> float:
        """Clip the gradient to a norm; return what it was. 0 only measures it."""
        parameters = [p for _, p in self.policy.trainable()]
        norm = torch.nn.utils.clip_grad_norm_(parameters, limit if limit > 0 else math.inf)
        return float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)
