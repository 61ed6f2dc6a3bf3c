"""Measures a batch and updates on it; where it can, one forward pass serves both.

Nothing has moved between a rollout and the first update on it. So the completions of that update
are measured by the pass that is trained on, whose gradient then waits for the update. Those of
later updates are measured before the first one moves the policy, and run again when it is their
turn. Completions that earlier weights sampled bring their old_logprobs with them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from dgpo_cli.core.events import Observer, phase
from dgpo_cli.models.accumulate import Plan, Tally, Watch, measure_and_accumulate
from dgpo_cli.models.batching import Rows, whole_groups
from dgpo_cli.models.scoring import StatsTable, token_stats
from dgpo_cli.models.update import UpdateResult, apply, update
from dgpo_cli.types import Batch

if TYPE_CHECKING:
    from torch import Tensor

    from dgpo_cli.algo.credit import CreditRule
    from dgpo_cli.models.policy import Policy


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a batch is measured and learnt from.

    updates, group_size: the rows are cut into that many runs of whole groups, an update each.
    max_grad_norm: 0 switches clipping off.
    """

    plan: Plan
    rule: CreditRule
    updates: int
    group_size: int
    max_grad_norm: float

    def pieces(self, rows: int) -> list[tuple[int, int]]:
        return whole_groups(rows, group_size=self.group_size, pieces=self.updates)


@dataclass(frozen=True, slots=True)
class _Begun:
    """A first update whose gradient waits in the parameters' .grad."""

    batch: Batch
    tally: Tally


class Learner:
    """Holds the policy, its optimiser if it is trained, and an update that was begun."""

    def __init__(self, policy: Policy, optimizer: torch.optim.Optimizer | None) -> None:
        self.policy = policy
        self.optimizer = optimizer
        self._begun: _Begun | None = None

    def measures_distance(self, rule: CreditRule) -> bool:
        """Whether the reference runs; a rule that does not look at it is not made to pay."""
        return rule.needs_reference and self.policy.has_reference

    def measure(
        self,
        rows: Rows,
        advantages: Tensor,  # float32 [B]
        *,
        recipe: Recipe,
        every_distance: bool,
        observer: Observer,
        watch: Watch,
        sampling_logprobs: Tensor | None = None,  # float32 [B, T]
        counted: Tensor | None = None,  # bool [B]
        noise_floor: float | None = None,
        carried: Tensor | None = None,  # float32 [C, T]
    ) -> Batch:
        """Return the batch of `rows`, with statistics and weights; begin its first update.

        Args:
            every_distance: run the reference on rows without an advantage too.
            sampling_logprobs: the sampler's, for the plan's correction.
            counted: rows that enter loss and normaliser; the others have no advantage. None: all.
            noise_floor: see TokenStats.
            carried: old_logprobs of the first C rows, under the weights that sampled them. None:
                they were sampled by the weights as they are.
        """
        signal = advantages != 0
        learnt = self._learnt_at_once(signal, recipe=recipe)
        table = StatsTable(rows, noise_floor=noise_floor)
        plan = recipe.plan
        token_stats(
            self.policy,
            rows,
            temperature=plan.temperature,
            micro_batch_size=plan.micro_batch_size,
            micro_batch_tokens=plan.micro_batch_tokens,
            with_reference=self.measures_distance(recipe.rule),
            needs_reference=None if every_distance else signal,
            only=torch.nonzero(~learnt).squeeze(1),
            into=table,
            observer=observer,
        )
        batch = Batch(
            prompt_ids=rows.prompt_ids,
            prompt_mask=rows.prompt_mask,
            completion_ids=rows.completion_ids,
            mask=rows.mask,
            advantages=advantages,
            stats=table.stats,
            credit=recipe.rule.credit(
                table.stats, rows.mask, vocab_size=self.policy.vocab_size, rows=signal
            ),
            sampling_logprobs=sampling_logprobs,
            counted=counted,
            policy_logprobs=None if carried is None else torch.zeros_like(table.stats.old_logprobs),
        )
        self._begun = None
        if learnt.any():
            tally = self._begin(
                batch, table, recipe=recipe, observer=observer, watch=watch, carried=carried
            )
            self._begun = _Begun(batch, tally)
        if carried is not None and batch.policy_logprobs is not None:
            batch.policy_logprobs.copy_(table.stats.old_logprobs)
            table.stats.old_logprobs[: len(carried)] = carried
        return batch

    def update(self, batch: Batch, *, recipe: Recipe, observer: Observer) -> list[UpdateResult]:
        """Run the updates on a batch; the first is only finished where it was begun with it."""
        assert self.optimizer is not None
        pieces = recipe.pieces(len(batch.advantages))
        limit = recipe.max_grad_norm
        results = []
        begun, self._begun = self._begun, None
        if begun is not None and begun.batch is batch:
            results.append(apply(self.policy, self.optimizer, begun.tally, max_grad_norm=limit))
            pieces = pieces[1:]
        if not pieces:
            return results
        rows = slice(pieces[0][0], pieces[-1][1])
        total = int(batch.lengths[rows][batch.advantages[rows] != 0].sum())
        with phase(observer, "update", total=total, unit="tokens") as advance:
            for start, stop in pieces:
                results.append(
                    update(
                        self.policy,
                        self.optimizer,
                        batch,
                        torch.arange(start, stop, device=batch.advantages.device),
                        plan=recipe.plan,
                        max_grad_norm=limit,
                        advance=advance,
                    )
                )
        return results

    def _learnt_at_once(self, signal: Tensor, *, recipe: Recipe) -> Tensor:
        """Return which rows are measured by the pass that trains on them, bool [B].

        Under dropout none: statistics are taken without it. Nor where the weights of a row wait
        for the statistics of all.
        """
        learnt = torch.zeros_like(signal)
        apart = self.policy.has_dropout or recipe.rule.whole_batch
        if self.optimizer is not None and not apart:
            start, stop = recipe.pieces(len(signal))[0]
            learnt[start:stop] = signal[start:stop]
        return learnt

    def _begin(
        self,
        batch: Batch,
        table: StatsTable,
        *,
        recipe: Recipe,
        observer: Observer,
        watch: Watch,
        carried: Tensor | None,
    ) -> Tally:
        assert self.optimizer is not None
        self.optimizer.zero_grad(set_to_none=True)
        start, stop = recipe.pieces(len(batch.advantages))[0]
        total = int(batch.lengths[start:stop][batch.advantages[start:stop] != 0].sum())
        with phase(observer, "update", total=total, unit="tokens") as advance:
            return measure_and_accumulate(
                self.policy,
                batch,
                torch.arange(start, stop, device=batch.advantages.device),
                table=table,
                rule=recipe.rule,
                reference=self.measures_distance(recipe.rule),
                plan=recipe.plan,
                advance=advance,
                watch=watch,
                carried=carried,
            )
