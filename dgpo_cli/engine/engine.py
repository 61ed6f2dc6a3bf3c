"""The four verbs: sample, score, make_batch, update. Every command is a composition of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from dgpo_cli.algo.credit import DgpoCredit, ProportionalCredit
from dgpo_cli.algo.group_split import split_metrics
from dgpo_cli.algo.overlong import is_truncated, overlong_metrics
from dgpo_cli.algo.schedule import learning_rate
from dgpo_cli.algo.summary import rollout_metrics
from dgpo_cli.core.events import NOBODY, Observer
from dgpo_cli.core.types import (
    Batch,
    Group,
    KeptTokens,
    ScoredGroup,
    StepMetrics,
)
from dgpo_cli.engine.sampling import SamplingEngine
from dgpo_cli.engine.stored import StoredPolicy
from dgpo_cli.parallel.ranks import ALONE, Ranks
from dgpo_cli.samplers.base import RemoteSampler
from dgpo_cli.samplers.ranked import RankedSampler

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from dgpo_cli.config.settings import Settings
    from dgpo_cli.core.formats import TrainerState
    from dgpo_cli.engine.checkpoint import CheckpointWriter
    from dgpo_cli.engine.learn import Learner
    from dgpo_cli.engine.optimizers import Snapshot
    from dgpo_cli.engine.piece import Recipe
    from dgpo_cli.environments.process import EnvProcess
    from dgpo_cli.policy.batching import Rows
    from dgpo_cli.policy.policy import Policy
    from dgpo_cli.rewards.grader import Grader
    from dgpo_cli.samplers.base import Sampler


TokenLogprobs = tuple[float, ...]


class Measured(NamedTuple):
    """What the trainer measured of completions, before an update moves the weights.

    logprobs: of every completion's tokens, in nats. kept: what sampling kept in place of these
        tokens, as kept_text writes it; empty without top_p and top_k.
    """

    logprobs: list[TokenLogprobs]
    kept: list[str]


class Engine(SamplingEngine):
    """The policy, the sampler, the grader and the optimiser, with a count of the updates.

    A command leaves out the parts that it does not need: without a grader `score` cannot be
    called, and so on. `training_engine` and `sampling_engine` build one from settings. As a
    context it ends the workers of its grader, and a vLLM that only samples.

    Examples:
        >>> from dgpo_cli import Message, Prompt, load_settings, training_engine
        >>> prompt = Prompt("a sum", (Message("user", "(12+7)*4?"),), answer="76", source="typed")
        >>> settings = load_settings("tiny", overrides={"rollout.group_size": 4})
        >>> with training_engine(settings) as engine:
        ...     groups = engine.score(engine.sample([prompt], seeds=[range(4)]))
        ...     metrics = engine.update(engine.make_batch(groups), step=0)
        ...     engine.sync()
        >>> metrics["optim/lr"], engine.policy_version
        (0.0002, 1)
    """

    def __init__(
        self,
        settings: Settings,
        *,
        policy: Policy | StoredPolicy,
        sampler: Sampler | None = None,
        grader: Grader | None = None,
        optimizer: torch.optim.Optimizer | None = None,
        environment: EnvProcess | None = None,
        ranks: Ranks = ALONE,
        observer: Observer = NOBODY,
    ) -> None:
        """
        Args:
            policy: one without weights in this process can only be sampled from.
            environment: plays the prompts, which are its tasks, and gives the rewards.
            ranks: each has an engine; the leader's verbs call what the followers must do too.
        """
        super().__init__(
            settings,
            policy=policy,
            sampler=sampler,
            grader=grader,
            environment=environment,
            observer=observer,
        )
        self.optimizer = optimizer
        self.policy_version = 0
        self.noise_floor: float | None = None
        self.ranks = ranks
        self._batch: Batch | None = None  # the last one that was measured
        self._snapshot: Snapshot | None = None
        self._writer: CheckpointWriter | None = None
        self._learner: Learner | None = None

    def with_settings(self, settings: Settings, *, grader: Grader | None) -> Engine:
        """Return an engine with other settings on the same policy and sampler, to evaluate."""
        return Engine(
            settings,
            policy=self.subject,
            sampler=self.sampler,
            grader=grader,
            observer=self.observer,
        )

    def calls(self) -> dict[str, Callable[..., Any]]:
        """Return what every rank runs when the leader calls it, by name."""
        return {
            "restore": self._restore,
            "save": self.save,
            "measure": self._measure,
            "logprobs": self._logprobs,
            "noise": self._noise,
            "update": self._follow_update,
            "keep weights": self.keep_weights,
            "exchange weights": self._exchange_weights,
            "fingerprint": self.fingerprint,
            **(self.sampler.calls() if isinstance(self.sampler, RankedSampler) else {}),
        }

    def _everywhere(self, name: str, *args: Any) -> Any:
        """Run a call on every rank; return what it gives here."""
        with self.ranks.call(name, *args):
            return self.calls()[name](*args)

    def resume(self, checkpoint: Path, *, policy_version: int) -> None:
        """Restore the optimiser and the random generators; continue the count of updates.

        Raises:
            CheckpointError: the checkpoint cannot be read, or is of another model.
        """
        self._everywhere("restore", checkpoint, policy_version)
        if self.sampler is not None:
            self.sampler.sync(policy_version=policy_version)

    def _restore(self, checkpoint: Path, policy_version: int) -> None:
        from dgpo_cli.engine.checkpoint import load_trainer

        assert self.optimizer is not None
        load_trainer(checkpoint, optimizer=self.optimizer, ranks=self.ranks)
        self.policy_version = policy_version

    def save(
        self,
        folder: Path,
        *,
        state: TrainerState | None = None,
        texts: Mapping[str, str] | None = None,
    ) -> None:
        """Write a checkpoint to `folder`, or begin to; see CheckpointWriter.save.

        Raises:
            CheckpointError: it, or the one before it, could not be written.
        """
        from dgpo_cli.engine.checkpoint import CheckpointWriter

        with self.ranks.call("save", folder):
            if self._writer is None:
                assert self.optimizer is not None
                self._writer = CheckpointWriter(self.policy, self.optimizer, ranks=self.ranks)
            self._writer.save(folder, state=state, texts=texts)

    @property
    def is_saving(self) -> bool:
        """Whether a checkpoint is being written in the background."""
        return self._writer is not None and self._writer.busy

    def finish_saving(self) -> None:
        """Wait until a checkpoint that was begun is complete.

        Raises:
            CheckpointError: it could not be written.
        """
        if self._writer is not None:
            self._writer.wait()

    def make_batch(
        self,
        groups: Sequence[ScoredGroup],
        *,
        every_distance: bool = False,
        old: Measured | None = None,
        moves: Sequence[Sequence[float]] | None = None,
    ) -> Batch:
        """Pad the completions, compute their token statistics and their credit weights.

        Completions without an advantage do not move the policy: the reference does not run on
        them, their distance stays 0 and all their weights are 1. With a KL term (`loss.kl`) they
        do, and are measured like the others.

        With an optimiser, the forward pass that measures the completions of the first update also
        trains on them: its gradient waits for `update`, if that gets this batch next.

        Args:
            groups: as many completions of each prompt as `rollout.group_size` says, to train.
            every_distance: run the reference on every completion all the same, to record it.
            old: of the completions of the first groups, which earlier weights sampled: measured
                under those, so that their ratio does not start at 1. All other statistics are the
                present policy's.
            moves: what `value_moves` gave; None: it is asked here.
        """
        import torch

        from dgpo_cli.policy.batching import pad_rows, pad_values, pairs_of, with_kept

        moves = self.value_moves(groups) if moves is None else moves
        self.rest()
        with self._watch.phase("statistics"):
            rows = pad_rows(pairs_of(groups), pad_id=self.policy.pad_id)
            if old is not None and old.kept:
                rows = with_kept(rows, old.kept)
            advantages = torch.tensor(
                self.settings.advantage.of_step(
                    groups, mask_truncated=self.settings.loss.mask_truncated
                ),
                dtype=torch.float32,
            )
            options = {
                "every_distance": every_distance,
                "sampling_logprobs": pad_values(
                    [c.sampling_logprobs for g in groups for c in g.completions], mask=rows.filled
                ),
                "counted": self._counted(groups),
                "noise_floor": self.noise_floor,
                "old_logprobs": (
                    pad_values(old.logprobs, mask=rows.filled[: len(old.logprobs)])
                    if old is not None and old.logprobs
                    else None
                ),
                "value_moves": None if moves is None else pad_values(moves, mask=rows.filled),
            }
            batch: Batch = self._everywhere("measure", rows, advantages, options)
            return batch

    def _measure(self, rows: Rows, advantages: torch.Tensor, options: dict[str, Any]) -> Batch:
        self._batch = self._learning.measure(rows, advantages, recipe=self._recipe, **options)
        return self._batch

    def value_moves(self, groups: Sequence[ScoredGroup]) -> list[list[float]] | None:
        """Estimate what each token moves the expected reward by; None if no rule needs it.

        Before the next `sync`: until then the sampler has the weights that sampled.
        """
        from dgpo_cli.engine.values.moves import step_moves

        return step_moves(self, groups)

    def logprobs(self, groups: Sequence[Group | ScoredGroup]) -> Measured:
        """Measure every completion by the present policy, for a batch after an update."""
        from dgpo_cli.policy.batching import pad_rows, pairs_of
        from dgpo_cli.policy.token_pass.kept import kept_text

        self.rest()
        with self._watch.phase("statistics"):
            rows = pad_rows(pairs_of(groups), pad_id=self.policy.pad_id)
            found, kept = self._everywhere("logprobs", rows)
        lengths = rows.lengths.tolist()
        return Measured(
            [tuple(row[:own]) for row, own in zip(found.tolist(), lengths, strict=True)],
            [kept_text(own) for own in kept or () if own is not None],
        )

    def _logprobs(self, rows: Rows) -> tuple[torch.Tensor, Sequence[KeptTokens | None] | None]:
        from dgpo_cli.policy.scoring import StatsTable, token_stats

        recipe = self._recipe
        table = StatsTable(rows, truncated=recipe.truncation is not None)
        token_stats(
            self.policy,
            rows,
            temperature=recipe.temperature,
            micro_batch_size=recipe.micro_batch_size,
            micro_batch_tokens=recipe.micro_batch_tokens,
            with_reference=False,
            truncation=recipe.truncation,
            into=table,
            ranks=self.ranks,
            observer=self.observer,
        )
        return table.stats.old_logprobs, table.kept

    def keep_weights(self) -> None:
        """Keep a copy of the trained weights as they are, in place of the one kept before."""
        from dgpo_cli.engine.optimizers import Snapshot

        with self.ranks.call("keep weights"):
            if self._snapshot is None:
                self._snapshot = Snapshot(self.policy)
            self._snapshot.take()

    @contextmanager
    def kept_weights(self) -> Iterator[None]:
        """Give the policy the kept weights inside the context; afterwards its own, to the bit."""
        self._exchange_weights()
        try:
            yield
        finally:
            self._exchange_weights()

    def _exchange_weights(self) -> None:
        assert self._snapshot is not None
        with self.ranks.call("exchange weights"):
            self._snapshot.exchange()

    def fingerprint(self) -> str:
        """Return a SHA-256 of the trained weights; see `trained_fingerprint`."""
        from dgpo_cli.policy.fingerprint import trained_fingerprint

        with self.ranks.call("fingerprint"):
            return trained_fingerprint(self.policy.trainable())

    def measure_noise(self, groups: Sequence[ScoredGroup], *, number: int) -> StepMetrics:
        """Measure the noise floor of the distance, on a few completions, if it is due.

        It holds for this batch and those after it. A rule that does not use the distance does not
        pay for it.

        number: number of the step, from 1.
        """
        from dgpo_cli.engine.noise import noise_pairs
        from dgpo_cli.policy.batching import pairs_of

        rule = self.settings.credit
        if not isinstance(rule, DgpoCredit | ProportionalCredit):
            return {}
        if not self._learning.runs_reference(self._recipe):
            return {}
        if self.noise_floor is not None and (not rule.noise_every or number % rule.noise_every):
            return {}
        self.rest()
        with self._watch.phase("statistics"):
            found: StepMetrics = self._everywhere("noise", noise_pairs(pairs_of(groups)))
        if math.isfinite(found["noise/floor"]):
            self.noise_floor = found["noise/floor"]
        return found

    def _noise(self, pairs: list[Any]) -> StepMetrics:
        from dgpo_cli.engine.noise import noise_metrics, noise_of_distance

        noise = noise_of_distance(self.policy, pairs, recipe=self._recipe)
        return noise_metrics(noise, dtype=self.policy.computed_dtype)

    def _counted(self, groups: Sequence[ScoredGroup]) -> torch.Tensor | None:
        """Return which completions enter the loss and its normaliser, bool [B]; None: all."""
        import torch

        if not self.settings.loss.mask_truncated:
            return None
        return torch.tensor([not is_truncated(c) for g in groups for c in g.completions])

    def update(self, batch: Batch, *, step: int) -> StepMetrics:
        """Update the policy on a batch; the sampler has the new weights after the next `sync`.

        Args:
            batch: with several ranks, the last that was made: each has its own.
            step: number of the step, from 0; it decides the learning rate.

        Returns:
            What the update was like, by the names of metrics.jsonl. With `credit.refresh` by each
            update also the credit that was trained on, in place of that of `metrics`.
        """
        from dgpo_cli.engine.batch_metrics import off_policy_metrics, update_metrics

        assert self.optimizer is not None
        optim = self.settings.optim
        rate = learning_rate(
            step,
            peak=optim.lr,
            warmup_steps=optim.warmup_steps,
            total_steps=self.settings.train.steps,
            schedule=optim.schedule,
        )
        assert self.ranks.count == 1 or batch is self._batch
        self._batch = batch
        if self.ranks.leads:
            self.rest()
        # Not by _everywhere: a reader comes from here to the optimiser through one function.
        with self._watch.phase("update"), self.ranks.call("update", step):
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            updates = self._learning.update(batch, recipe=self._recipe)
        self.policy_version += sum(update.applied for update in updates)
        metrics = {**update_metrics(updates), "optim/lr": rate}
        if self._recipe.correction.level != "none":
            metrics |= off_policy_metrics(updates)
        if self._recipe.refreshes and self.ranks.leads:
            metrics |= self._credit_metrics(batch)
        return metrics

    def _follow_update(self, step: int) -> None:
        assert self._batch is not None
        self.update(self._batch, step=step)

    def rest(self) -> None:
        """Have the device for the trainer alone: a sampler that shares it rests until it is needed.

        The verbs that compute do so by themselves.

        Raises:
            BackendError: the sampler cannot.
        """
        beside = self.settings.rollout.overlap > 0  # it is always sampling
        if isinstance(self.sampler, RemoteSampler) and not beside:
            with self._watch.phase("sample"):
                self.sampler.rest()

    def sync(self) -> None:
        """Hand the policy's weights to the sampler."""
        if self.sampler is not None:
            # A sampler that uses the policy itself has nothing to copy.
            name = "sync" if isinstance(self.sampler, RemoteSampler) else "update"
            with self._watch.phase(name):
                self.sampler.sync(policy_version=self.policy_version)

    def metrics(
        self,
        groups: Sequence[ScoredGroup],
        *,
        batch: Batch,
        sampled: Sequence[ScoredGroup] | None = None,
    ) -> StepMetrics:
        """Return the metrics of a rollout and its batch, before the update.

        Args:
            groups: those of the batch.
            sampled: all groups that this step drew, for rewards, outcomes and lengths; None: those
                of the batch.
        """
        from dgpo_cli.engine.batch_metrics import (
            lag_metrics,
            layout_metrics,
            sampler_metrics,
            truncation_metrics,
        )

        drawn = groups if sampled is None else sampled
        return {
            **rollout_metrics(drawn, weights=self.settings.reward.weights),
            **split_metrics(drawn, dynamic_sampling=self.settings.rollout.dynamic_sampling),
            **overlong_metrics(drawn, masks=self.settings.loss.mask_truncated),
            **self._credit_metrics(batch),
            **sampler_metrics(groups, batch),
            **truncation_metrics(batch),
            **lag_metrics(groups, batch, policy_version=self.policy_version),
            **layout_metrics(self.policy, batch, recipe=self._recipe),
        }

    def _credit_metrics(self, batch: Batch) -> StepMetrics:
        from dgpo_cli.algo.summary import credit_metrics

        rule, distance = self.settings.credit, self._learning.runs_reference(self._recipe)
        return credit_metrics(
            batch.stats,
            batch.credit,
            batch.mask,
            vocab_size=self.policy.vocab_size,
            has_reference=distance,
            rows=batch.advantages != 0 if distance or rule.needs_values else None,
            weighed=rule.weighs(batch.advantages),
        )

    @property
    def _learning(self) -> Learner:
        # Built on first use: sampling and scoring do not need it.
        from dgpo_cli.engine.learn import Learner

        if self._learner is None:
            self._learner = Learner(
                self.policy,
                self.optimizer,
                ranks=self.ranks,
                observer=self.observer,
                watch=self._watch,
            )
        return self._learner

    @property
    def _recipe(self) -> Recipe:
        from dgpo_cli.engine.piece import Recipe

        return Recipe.of(self.settings)
