"""The verbs that need no trainer: sample and score."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Self

from dgpo_cli.algo.advantages import scored_group
from dgpo_cli.core.errors import ConfigError
from dgpo_cli.core.events import NOBODY, Observer
from dgpo_cli.core.thinking import ends_in_thought
from dgpo_cli.core.timing import Stopwatch
from dgpo_cli.core.types import Completion, Group, Prompt, ScoredGroup, StepMetrics, Verdict
from dgpo_cli.engine.stored import StoredPolicy
from dgpo_cli.prompts.templates import encode_prompt
from dgpo_cli.rewards.grader import grade_item
from dgpo_cli.rewards.played import EnvironmentReward
from dgpo_cli.samplers.base import SamplingParams
from dgpo_cli.samplers.ranked import RankedSampler

if TYPE_CHECKING:
    from dgpo_cli.config.settings import Settings
    from dgpo_cli.engine.turns import Players
    from dgpo_cli.environments.process import EnvProcess
    from dgpo_cli.policy.policy import Policy
    from dgpo_cli.rewards.grader import Grader
    from dgpo_cli.samplers.base import Sampler

_PROMPT_END = 256  # tokens in which a chat template opens the assistant's turn
_PROBLEM_END = 64  # characters at the end of the user's last turn that mark where it begins


class SamplingEngine:
    """What samples from a policy and scores the completions; the base of Engine."""

    def __init__(
        self,
        settings: Settings,
        *,
        policy: Policy | StoredPolicy,
        sampler: Sampler | None,
        grader: Grader | None,
        environment: EnvProcess | None,
        observer: Observer = NOBODY,
    ) -> None:
        """See Engine."""
        self.settings = settings
        self.subject = policy
        self.sampler = sampler
        self.grader = grader
        self.observer = observer
        self._watch = Stopwatch(_settle(policy))
        self._continued = (0, 0)  # continuations and their tokens since the last look
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

    @property
    def plays(self) -> bool:
        """Whether the prompts are tasks of an environment."""
        return self._players is not None

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

    def complete(
        self,
        prefixes: Sequence[Sequence[int]],
        *,
        seeds: Sequence[Sequence[int]],
        max_total_tokens: int,
        observer: Observer,
    ) -> list[tuple[Completion, ...]]:
        """Sample len(seeds[i]) times what follows token ids i, which begin with a prompt.

        max_total_tokens: the most that the ids and what follows them may have.

        Raises:
            BackendError: the sampler failed.
        """
        assert self.sampler is not None
        params = SamplingParams.of(self.settings.rollout)
        self.subject.use_device()
        with self._watch.phase("values"):
            found = self.sampler.sample(
                prefixes,
                seeds=seeds,
                params=replace(params, max_total_tokens=max_total_tokens),
                observer=observer,
            )
        lengths = [len(each.token_ids) for own in found for each in own]
        count, tokens = self._continued
        self._continued = count + len(lengths), tokens + sum(lengths)
        return found

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

    def rewards(self, groups: Sequence[Group]) -> list[tuple[float, ...]]:
        """Return the reward of every completion with its penalty for length; NaN: unscored.

        Raises:
            DataError: an answer is not of the kind that `reward.kind` compares.
        """
        limit = self.settings.rollout.max_completion_tokens
        with self._watch.phase("values"):
            verdicts = iter(self._verdicts(groups))
            found = []
            for group in groups:
                lengths = [completion.length for completion in group.completions]
                penalties = self.settings.reward.overlong.penalties(lengths, limit=limit)
                found.append(tuple(next(verdicts).reward + penalty for penalty in penalties))
        return found

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

    def take_continued(self) -> StepMetrics:
        """Return how many continuations were sampled since the last call, and their tokens; nothing
        if the credit rule needs none."""
        (count, tokens), self._continued = self._continued, (0, 0)
        if not self.settings.credit.needs_values:
            return {}
        return {"values/continuations": float(count), "values/tokens": float(tokens)}

    def take_times(self) -> StepMetrics:
        """Return the seconds spent in each verb since the last call, as time/<verb>_s."""
        return {f"time/{name}_s": value for name, value in self._watch.take().items()}


def _settle(policy: Policy | StoredPolicy) -> Callable[[], None]:
    """Return a function that waits for the policy's device, so that times include its work."""
    if not policy.in_memory or policy.device.type != "cuda":
        return lambda: None
    import torch

    return partial(torch.cuda.synchronize, policy.device)
