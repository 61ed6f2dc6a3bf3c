"""The four verbs: sample, score, make_batch, update. Every command is a composition of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from dgpo_cli.algo.advantages import scored_group
from dgpo_cli.algo.credit import DgpoCredit, ProportionalCredit
from dgpo_cli.algo.group_split import split_metrics
from dgpo_cli.algo.overlong import is_truncated, overlong_metrics
from dgpo_cli.algo.schedule import learning_rate
from dgpo_cli.algo.summary import rollout_metrics
from dgpo_cli.core.errors import ConfigError
from dgpo_cli.core.events import NOBODY, Observer
from dgpo_cli.core.thinking import ends_in_thought
from dgpo_cli.core.timing import Stopwatch
from dgpo_cli.core.types import (
    Batch,
    Completion,
    Group,
    KeptTokens,
    Prompt,
    ScoredGroup,
    StepMetrics,
    Verdict,
)
from dgpo_cli.engine.stored import StoredPolicy
from dgpo_cli.parallel.ranks import ALONE, Ranks
from dgpo_cli.prompts.templates import encode_prompt
from dgpo_cli.rewards.grader import grade_item
from dgpo_cli.rewards.played import EnvironmentReward
from dgpo_cli.samplers.base import RemoteSampler, SamplingParams
from dgpo_cli.samplers.ranked import RankedSampler

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from dgpo_cli.config.settings import Settings
    from dgpo_cli.core.formats import TrainerState
    from dgpo_cli.engine.checkpoint import CheckpointWriter
    from dgpo_cli.engine.learn import Learner
    from dgpo_cli.engine.piece import Recipe
    from dgpo_cli.engine.snapshot import Snapshot
    from dgpo_cli.engine.turns import Players
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


_PROMPT_END = 256  # tokens in which a chat template opens the assistant's turn
_PROBLEM_END = 64  # characters at the end of the user's last turn that mark where it begins


class Engine:
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
        self.settings = settings
        self.subject = policy
        self.optimizer = optimizer
        self.policy_version = 0
        self.noise_floor: float | None = None
        self.sampler = sampler
        self.grader = grader
        self.ranks = ranks
        self.observer = observer
        self._batch: Batch | None = None  # the last one that was measured
        self._snapshot: Snapshot | None = None
        self._writer: CheckpointWriter | None = None
        self._watch = Stopwatch(_settle(policy))
        self._learner: Learner | None = None
        self._environment = environment
        self._players = None if environment is None else self._played_by(environment)

    def _played_by(self, environment: EnvProcess) -> Players:
        from dgpo_cli.engine.turns import Players

        return Players.of(
            self.settings,
            environment,
            subject=self.subject,
            checked=self._known,
            observer=self.observer,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._environment is not None:
            self._environment.close()
        if self.grader is not None:
            self.grader.close()
        if isinstance(self.sampler, RankedSampler):
            self.sampler.close()
        elif isinstance(self.subject, StoredPolicy):
            # Of this engine alone: the next model may need its device.
            getattr(self.sampler, "close", lambda: None)()

    def with_settings(self, settings: Settings, *, grader: Grader | None) -> Engine:
        """Return an engine with other settings on the same policy and sampler, to evaluate."""
        return Engine(
            settings,
            policy=self.subject,
            sampler=self.sampler,
            grader=grader,
            observer=self.observer,
        )

    @property
    def policy(self) -> Policy:
        """The policy in memory.

        Raises:
            ConfigError: there is none, because vLLM alone has the weights.
        """
        if isinstance(self.subject, StoredPolicy):
            raise ConfigError(
                f"rollout.backend.kind={self.settings.rollout.backend.kind}: this engine only "
                "samples, and its weights are in vLLM alone; set rollout.backend.kind=hf, or use "
                "training_engine"
            )
        return self.subject

    def unknown_weights(self) -> str | None:
        """Return what servers of others serve, if nothing says that it is `model.path`.

        Waits until they are ready.

        Raises:
            BackendError: one is not, or serves another model.
        """
        from dgpo_cli.samplers.vllm.sampler import VllmSampler

        return self.sampler.meet(self.observer) if isinstance(self.sampler, VllmSampler) else None

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

    def prompt_length(self, prompt: Prompt) -> int:
        """Return the number of tokens of a prompt under the policy's template."""
        return len(self.encode(prompt))

    def encode(self, prompt: Prompt) -> tuple[int, ...]:
        """Return the token ids of a prompt under the policy's template.

        Raises:
            ConfigError: the model has no embedding for one of them.
        """
        ids = encode_prompt(
            self.subject.tokenizer, prompt, arguments=self.settings.prompts.chat_template
        )
        return self._known(prompt, ids)

    def _known(self, prompt: Prompt, ids: tuple[int, ...]) -> tuple[int, ...]:
        """Return token ids of a prompt or of what follows it; see `encode`."""
        beyond = next((i for i in ids if i >= self.subject.embeddings), None)
        if beyond is not None:
            token = self.subject.tokenizer.convert_ids_to_tokens(beyond)
            raise ConfigError(
                f"{prompt.source}: prompt {prompt.id!r} has token id {beyond} ({token!r}), but "
                f"the model has {self.subject.embeddings} token embeddings; give a model.path "
                "whose tokenizer and chat template are the model's own"
            )
        return ids

    def sample(self, prompts: Sequence[Prompt], *, seeds: Sequence[Sequence[int]]) -> list[Group]:
        """Sample len(seeds[i]) completions of prompt i from the current policy.

        Args:
            prompts: P of them, which come back as P groups.
            seeds: one for each completion, which depends on nothing but the weights, the prompt,
                the settings of `rollout` and its seed, up to the rounding of the arithmetic.

        Raises:
            ConfigError: the model has no embedding for a token of a prompt.
            BackendError: the sampler failed.
        """
        assert self.sampler is not None
        self.subject.use_device()  # the thread may be one that prefetches
        with self._watch.phase("sample"):
            if self._players is not None:
                return self._play(self._players, prompts, seeds=seeds)
            encoded = [self.encode(prompt) for prompt in prompts]
            sampled = self.sampler.sample(
                encoded,
                seeds=seeds,
                params=SamplingParams.of(self.settings.rollout),
                observer=self.observer,
            )
        return [
            Group(prompt, ids, self._marked(prompt, ids, completions))
            for prompt, ids, completions in zip(prompts, encoded, sampled, strict=True)
        ]

    def _play(
        self, players: Players, prompts: Sequence[Prompt], *, seeds: Sequence[Sequence[int]]
    ) -> list[Group]:
        assert self.sampler is not None
        groups = players.play(
            prompts,
            seeds=seeds,
            sample=self.sampler.sample,
            params=SamplingParams.of(self.settings.rollout),
        )
        return [
            replace(g, completions=self._marked(g.prompt, g.prompt_ids, g.completions))
            for g in groups
        ]

    def _marked(
        self, prompt: Prompt, ids: Sequence[int], completions: tuple[Completion, ...]
    ) -> tuple[Completion, ...]:
        """Mark the completions if their prompt left a thought open."""
        end = self.subject.tokenizer.decode(
            list(ids[-_PROMPT_END - len(prompt.prefix) :]), skip_special_tokens=False
        )
        if not ends_in_thought(str(end), problem=prompt.text.strip()[-_PROBLEM_END:]):
            return completions
        return tuple(replace(each, starts_in_thought=True) for each in completions)

    def score(self, groups: Sequence[Group]) -> list[ScoredGroup]:
        """Check every completion's answer and compute the advantages of each group.

        Raises:
            DataError: an answer is not of the kind that `reward.kind` compares.
        """
        with self._watch.phase("score"):
            verdicts = iter(self._verdicts(groups))
            scored = []
            for group in groups:
                own = tuple(next(verdicts) for _ in group.completions)
                scored.append(
                    scored_group(
                        group,
                        own,
                        advantage=self.settings.advantage,
                        overlong=self.settings.reward.overlong,
                        max_completion_tokens=self.settings.rollout.max_completion_tokens,
                        mask_truncated=self.settings.loss.mask_truncated,
                        weights=self.settings.reward.weights,
                    )
                )
        return scored

    def _verdicts(self, groups: Sequence[Group]) -> list[Verdict]:
        """Return a verdict for each completion: the environment's, or else the grader's."""
        reward = self.settings.reward
        if isinstance(reward, EnvironmentReward):
            return [reward.judged(verdict) for g in groups for verdict in g.verdicts]
        assert self.grader is not None
        return self.grader.grade(
            [
                grade_item(group.prompt, completion, group=number)
                for number, group in enumerate(groups)
                for completion in group.completions
            ]
        )

    def make_batch(
        self,
        groups: Sequence[ScoredGroup],
        *,
        every_distance: bool = False,
        old: Measured | None = None,
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
        """
        import torch

        from dgpo_cli.policy.batching import pad_rows, pad_values, pairs_of, with_kept

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
            }
            batch: Batch = self._everywhere("measure", rows, advantages, options)
            return batch

    def _measure(self, rows: Rows, advantages: torch.Tensor, options: dict[str, Any]) -> Batch:
        self._batch = self._learning.measure(rows, advantages, recipe=self._recipe, **options)
        return self._batch

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
        from dgpo_cli.engine.snapshot import Snapshot

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

        distance = self._learning.runs_reference(self._recipe)
        return credit_metrics(
            batch.stats,
            batch.credit,
            batch.mask,
            vocab_size=self.policy.vocab_size,
            has_reference=distance,
            rows=batch.advantages != 0 if distance else None,
            weighed=self.settings.credit.weighs(batch.advantages),
        )

    def take_times(self) -> StepMetrics:
        """Return the seconds spent in each verb since the last call, as time/<verb>_s."""
        return {f"time/{name}_s": value for name, value in self._watch.take().items()}

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


def _settle(policy: Policy | StoredPolicy) -> Callable[[], None]:
    """Return a function that waits for the policy's device, so that times include its work."""
    if not policy.in_memory or policy.device.type != "cuda":
        return lambda: None
    import torch

    return partial(torch.cuda.synchronize, policy.device)
