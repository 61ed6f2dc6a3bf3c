"""Completions of several turns: the sampler's tokens, and between them those of an environment.

All conversations that wait for the model are sampled together, turn by turn. What the model wrote
keeps its token ids; what the environment wrote is tokenised once, as what the chat template puts
between two turns of the assistant.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from dgpo_cli.core.errors import ConfigError, DataError
from dgpo_cli.core.events import Observer, tell
from dgpo_cli.core.seeds import derive_seed
from dgpo_cli.core.types import Completion, FinishReason, Group, Prompt, Verdict
from dgpo_cli.environments.process import EnvProcess, EnvResult
from dgpo_cli.prompts.settings import PlayedPrompts
from dgpo_cli.samplers.base import SamplingParams

if TYPE_CHECKING:
    from dgpo_cli.config.settings import Settings
    from dgpo_cli.engine.stored import StoredPolicy
    from dgpo_cli.policy.policy import Policy

_MARK = "\u2042dgpo\u2042"  # stands for a turn of the assistant in a rendered conversation
Messages = list[dict[str, Any]]
Sample = Callable[..., list[tuple[Completion, ...]]]  # of a sampler


class Renderer:
    """The chat template of a policy, for conversations that go on."""

    def __init__(self, tokenizer: Any, *, arguments: Mapping[str, object] | None = None) -> None:
        """
        Raises:
            ConfigError: the tokenizer has no chat template.
        """
        if not tokenizer.chat_template:
            raise ConfigError(
                "the model has no chat template, which conversations with an environment need; "
                "give a model.path that has one"
            )
        self._tokenizer = tokenizer
        self._arguments = {
            name: list(x) if isinstance(x, tuple) else x for name, x in (arguments or {}).items()
        }
        self.rewrites = False  # whether a template has changed earlier turns

    def opening(self, messages: Messages, tools: list[Any] | None) -> tuple[int, ...]:
        """Return the token ids of a conversation up to the assistant's first turn."""
        return self._encoded(self._text(messages, tools))

    def between(
        self, messages: Messages, new: Messages, tools: list[Any] | None
    ) -> tuple[int, ...]:
        """Return the token ids from the end of the assistant's last turn to its next one.

        They begin with what the template ends a turn with.

        messages: all so far; the last is that turn.
        """
        before = self._text(messages[:-1], tools)
        marked = {**messages[-1], "content": _MARK}
        text = self._text([*messages[:-1], marked, *new], tools)
        start = text.rfind(_MARK)
        if start < 0:
            raise ConfigError(
                "the model's chat template leaves out an earlier turn of the assistant, so a "
                "conversation cannot go on; give a model whose template keeps it"
            )
        self.rewrites |= text[:start] != before
        return self._encoded(text[start + len(_MARK) :])

    def _text(self, messages: Messages, tools: list[Any] | None) -> str:
        from jinja2 import TemplateError

        try:
            text = self._tokenizer.apply_chat_template(
                messages,
                tools=tools or None,
                add_generation_prompt=True,
                tokenize=False,
                **self._arguments,
            )
        except TemplateError as error:
            roles = ", ".join(str(each.get("role")) for each in messages)
            raise ConfigError(
                f"the model's chat template refuses the turns {roles} of an environment ({error})"
            ) from error
        return str(text)

    def _encoded(self, text: str) -> tuple[int, ...]:
        return tuple(map(int, self._tokenizer.encode(text, add_special_tokens=False)))


@dataclass(slots=True)
class Conversation:
    """One completion while it is played."""

    prompt: Prompt
    seed: int
    messages: Messages
    prompt_ids: tuple[int, ...] = ()
    tools: list[Any] | None = None
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    environment: list[tuple[int, int]] = field(default_factory=list)
    between: tuple[int, ...] = ()  # those that come before the next turn
    texts: list[str] = field(default_factory=list)  # of the model's turns
    finish_reason: FinishReason = "stop"
    version: int = 0
    result: EnvResult | None = None

    @property
    def context(self) -> tuple[int, ...]:
        """Everything before the next turn."""
        return (*self.prompt_ids, *self.ids, *self.between)

    @property
    def used(self) -> int:
        """Tokens of the completion before the next turn."""
        return len(self.ids) + len(self.between)

    @property
    def turn_seed(self) -> int:
        """The seed of the next turn; of the first, that of the completion."""
        return derive_seed(self.seed, "turn", self.turns) if self.texts else self.seed

    @property
    def turns(self) -> int:
        return len(self.texts)

    def add(self, turn: Completion) -> None:
        """Add the model's turn, after what the environment wrote."""
        if self.between:
            self.environment.append((len(self.ids), self.used))
            self.logprobs += [0.0] * len(self.between)
            self.ids += self.between
            self.between = ()
        self.ids += turn.token_ids
        self.logprobs += turn.sampling_logprobs
        self.messages.append({"role": "assistant", "content": turn.text})
        self.texts.append(turn.text)
        self.finish_reason, self.version = turn.finish_reason, turn.policy_version


@dataclass(frozen=True, slots=True)
class Limits:
    """What bounds a conversation. tokens: of the whole completion, the environment's too."""

    turns: int
    tokens: int
    turn_tokens: int

    def room(self, conversation: Conversation) -> int:
        """Return the most tokens of the next turn; 0 or less: none comes."""
        if conversation.turns >= self.turns:
            return 0
        return min(self.turn_tokens, self.tokens - conversation.used)


class Players:
    """An environment that is played by a sampler."""

    def __init__(
        self,
        process: EnvProcess,
        *,
        renderer: Renderer,
        limits: Limits,
        stop_ids: frozenset[int],
        spell: Callable[[Sequence[int]], str],
        checked: Callable[[Prompt, tuple[int, ...]], tuple[int, ...]],
        observer: Observer,
    ) -> None:
        """
        Args:
            stop_ids: token ids that end a turn.
            spell: the text of token ids, special tokens included.
            checked: returns the ids of a prompt, or raises that the model does not have one.
        """
        self._process, self._renderer, self._limits = process, renderer, limits
        self._stop_ids, self._spell, self._checked = stop_ids, spell, checked
        self._observer = observer
        self._told = False

    @classmethod
    def of(
        cls,
        settings: Settings,
        process: EnvProcess,
        *,
        subject: Policy | StoredPolicy,
        checked: Callable[[Prompt, tuple[int, ...]], tuple[int, ...]],
        observer: Observer,
    ) -> Players:
        """Return those of the settings and of a policy, which has the tokenizer."""
        prompts = settings.prompts
        assert isinstance(prompts, PlayedPrompts)
        tokens = settings.rollout.max_completion_tokens
        return cls(
            process,
            renderer=Renderer(subject.tokenizer, arguments=prompts.chat_template),
            limits=Limits(prompts.max_turns, tokens, prompts.max_turn_tokens or tokens),
            stop_ids=subject.stop_ids,
            spell=subject.spell,
            checked=checked,
            observer=observer,
        )

    def play(
        self,
        prompts: Sequence[Prompt],
        *,
        seeds: Sequence[Sequence[int]],
        sample: Sample,
        params: SamplingParams,
    ) -> list[Group]:
        """Return a group for each prompt, with the environment's verdicts.

        sample: of the sampler, with an observer.

        Raises:
            DataError: the conversations of a task begin in different ways.
        """
        rows = [
            Conversation(prompt, seed, _as_dicts(prompt))
            for prompt, own in zip(prompts, seeds, strict=True)
            for seed in own
        ]
        table = dict(enumerate(rows))
        self._process.play(
            {n: (row.prompt.id, derive_seed(row.seed, "environment")) for n, row in table.items()}
        )
        live = dict(table)
        while live:
            self._hear(live)
            self._sample(live, sample=sample, params=params)
            live = {number: row for number, row in live.items() if row.result is None}
        if self._renderer.rewrites and not self._told:
            self._told = True
            tell(
                self._observer,
                "the chat template changes earlier turns when a conversation goes on (it may drop "
                "thoughts); the model sees its turns as it wrote them",
            )
        found = iter(rows)
        return [
            self._group(prompt, [next(found) for _ in own])
            for prompt, own in zip(prompts, seeds, strict=True)
        ]

    def _hear(self, live: Mapping[int, Conversation]) -> None:
        """Take what the environment says in each conversation.

        One that ends before its first turn gets it all the same, and begins as the others of its
        task do: a completion has tokens.
        """
        openings: dict[str, tuple[int, ...]] = {}
        for number, answer in self._process.answers(live).items():
            row = live[number]
            if isinstance(answer, EnvResult):
                row.result = answer
            elif row.turns:
                row.between = self._after(row, answer.messages)
                row.messages += answer.messages
            else:
                row.messages, row.tools = list(answer.messages), answer.tools
                row.prompt_ids = openings[row.prompt.id] = self._opened(row)
        for row in live.values():
            if not row.prompt_ids:
                row.prompt_ids = openings.get(row.prompt.id) or self._opened(row)

    def _opened(self, row: Conversation) -> tuple[int, ...]:
        return self._checked(row.prompt, self._renderer.opening(row.messages, row.tools))

    def _after(self, row: Conversation, new: Messages) -> tuple[int, ...]:
        """Return the tokens between the model's last turn and its next."""
        ids = self._renderer.between(row.messages, new, row.tools)
        ended = row.ids[-1] in self._stop_ids
        ids = ids[1:] if ended and ids[:1] == (row.ids[-1],) else ids
        if not ids:
            raise ConfigError("the model's chat template writes nothing between two turns")
        return self._checked(row.prompt, ids)

    def _sample(
        self,
        live: Mapping[int, Conversation],
        *,
        sample: Sample,
        params: SamplingParams,
    ) -> None:
        """Sample the next turn of all conversations that wait, and say it."""
        by_limit: dict[int, list[int]] = defaultdict(list)
        said: dict[int, dict[str, Any]] = {}
        for number, row in live.items():
            if row.result is None or not row.turns:
                by_limit[self._limits.room(row)].append(number)
        for limit in sorted(by_limit, reverse=True):
            if limit <= 0:
                over = {"text": "", "finish_reason": "length", "over": True}
                said |= dict.fromkeys(by_limit[limit], over)
                for number in by_limit[limit]:
                    live[number].between = ()
                    live[number].finish_reason = "length"
                continue
            said |= self._turns(
                {number: live[number] for number in by_limit[limit]},
                sample=sample,
                params=replace(params, max_completion_tokens=limit),
            )
        self._process.say({n: turn for n, turn in said.items() if live[n].result is None})

    def _turns(
        self,
        rows: Mapping[int, Conversation],
        *,
        sample: Sample,
        params: SamplingParams,
    ) -> dict[int, dict[str, Any]]:
        """Sample a turn of each; conversations of one context share it."""
        contexts: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for number, row in rows.items():
            contexts[row.context].append(number)
        drawn = sample(
            list(contexts),
            seeds=[[rows[n].turn_seed for n in numbers] for numbers in contexts.values()],
            params=params,
            observer=self._observer,
        )
        said = {}
        for numbers, turns in zip(contexts.values(), drawn, strict=True):
            for number, turn in zip(numbers, turns, strict=True):
                rows[number].add(turn)
                said[number] = {"text": turn.text, "finish_reason": turn.finish_reason}
        return said

    def _group(self, prompt: Prompt, rows: Sequence[Conversation]) -> Group:
        openings = {row.prompt_ids for row in rows}
        if len(openings) > 1:
            raise DataError(
                f"{prompt.source}: task {prompt.id!r} begins in {len(openings)} ways; "
                "conversations of a task must begin alike, and may differ after the first turn"
            )
        return Group(
            prompt,
            rows[0].prompt_ids,
            tuple(self._completion(row) for row in rows),
            tuple(_verdict(row) for row in rows),
        )

    def _completion(self, row: Conversation) -> Completion:
        ids = row.ids[:-1] if row.ids[-1] in self._stop_ids else row.ids
        return Completion(
            token_ids=tuple(row.ids),
            sampling_logprobs=tuple(row.logprobs),
            # Of one turn, what a sampler gives; of several, with the marks between them.
            text=self._spell(ids) if row.environment else row.texts[0],
            finish_reason=row.finish_reason,
            policy_version=row.version,
            seed=row.seed,
            environment=tuple(row.environment),
        )


def _verdict(row: Conversation) -> Verdict:
    """Return the environment's verdict; reward NaN if it failed."""
    result = row.result
    assert result is not None
    reward = math.nan if result.reward is None else result.reward
    terms = tuple(
        (name, math.nan if value is None else value) for name, value in result.terms.items()
    )
    return Verdict(result.outcome or "scored", None, reward, result.note, terms)


def _as_dicts(prompt: Prompt) -> Messages:
    return [{"role": turn.role, "content": turn.content} for turn in prompt.messages]
