"""An engine whose policy is a Markov chain over letters: every value is known exactly."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from dgpo_cli.config.settings import Settings
from dgpo_cli.core.events import Observer
from dgpo_cli.core.types import Completion, FinishReason, Group, Message, Prompt, ScoredGroup
from dgpo_cli.core.types import Verdict as Verdict
from dgpo_cli.engine.sampling import SamplingEngine
from dgpo_cli.rewards.grader import GradeItem
from dgpo_cli.samplers.base import SamplingParams
from dgpo_cli.samplers.settings import RolloutSettings

LETTERS = "|abc. B"  # "|" ends a completion; its id is 0
CHANCES = {  # of the next letter, by the last
    "": {"a": 0.4, "b": 0.3, "c": 0.3},
    "a": {"a": 0.3, "b": 0.3, "c": 0.2, "|": 0.2},
    "b": {"a": 0.5, "c": 0.4, "|": 0.1},
    "c": {"b": 0.6, "c": 0.1, "a": 0.1, "|": 0.2},
}
PROMPTS = ((7, 8, 9), (7, 8, 9, 9, 9), (8,))  # their ids, which are no letters
Reward = Callable[[str, FinishReason], float]


def even(text: str, finish: FinishReason) -> float:
    """1 for an even number of a in a completion that ended by itself."""
    return float(finish == "stop" and text.count("a") % 2 == 0)


def spelled(ids: Sequence[int]) -> str:
    return "".join(LETTERS[each] for each in ids)


class Chain:
    """The policy, as an engine needs it to sample and judge."""

    in_memory = False
    stop_ids = frozenset({0})
    spell = staticmethod(spelled)
    decode = staticmethod(spelled)

    def use_device(self) -> None:
        pass


class ChainSampler:
    """Draws from the chain; a stop string is looked for in what it draws."""

    def __init__(self, chances: dict[str, dict[str, float]] = CHANCES) -> None:
        self.asked: list[tuple[tuple[int, ...], list[int]]] = []
        self.rounds: list[int] = []
        self.chances = chances

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        seeds: Sequence[Sequence[int]],
        params: SamplingParams,
        observer: Observer,
    ) -> list[tuple[Completion, ...]]:
        self.asked += [(tuple(p), list(own)) for p, own in zip(prompts, seeds, strict=True)]
        self.rounds.append(sum(map(len, seeds)))
        return [
            tuple(self._completion(prompt, seed, params) for seed in own)
            for prompt, own in zip(prompts, seeds, strict=True)
        ]

    def _completion(self, prompt: Sequence[int], seed: int, params: SamplingParams) -> Completion:
        rng = random.Random(seed)
        begun = spelled([each for each in prompt if each < len(LETTERS)])
        text, finish = "", "length"
        while len(text) < params.room(prompt) and finish == "length":
            chances = self.chances[(begun + text)[-1:]]
            text += rng.choices(list(chances), weights=list(chances.values()))[0]
            if text.endswith("|") or any(string in text for string in params.stop):
                finish = "stop"
        ids = tuple(map(LETTERS.index, text))
        reason: FinishReason = "stop" if finish == "stop" else "length"
        return Completion(ids, (-1.0,) * len(ids), text.removesuffix("|"), reason, 0, seed)


class ChainGrader:
    def __init__(self, reward: Reward) -> None:
        self.reward = reward
        self.items: list[GradeItem] = []

    def grade(self, items: Sequence[GradeItem]) -> list[Verdict]:
        self.items += items
        return [verdict_of(self.reward(item.text, item.finish_reason)) for item in items]


def verdict_of(reward: float) -> Verdict:
    if math.isnan(reward):
        return Verdict("error", None, reward)
    return Verdict("correct" if reward == 1.0 else "wrong", None, reward)


def chain_engine(
    *,
    limit: int = 6,
    stop: tuple[str, ...] = (),
    reward: Reward = even,
    chances: dict[str, dict[str, float]] = CHANCES,
) -> Any:
    settings = Settings(rollout=RolloutSettings(max_completion_tokens=limit, stop=stop))
    chain: Any = Chain()
    grader: Any = ChainGrader(reward)
    return SamplingEngine(
        settings, policy=chain, sampler=ChainSampler(chances), grader=grader, environment=None
    )


def groups_of(engine: Any, *, count: int, size: int, seed: int = 0) -> list[ScoredGroup]:
    """Groups of whole completions, drawn from the chain."""
    prompts = [Prompt(f"p{i}", (Message("user", str(i)),), str(i), "test") for i in range(count)]
    ids = [PROMPTS[i % len(PROMPTS)] for i in range(count)]
    rollout = engine.settings.rollout
    drawn = engine.sampler.sample(
        ids,
        seeds=[[seed * 10**6 + i * size + j for j in range(size)] for i in range(count)],
        params=SamplingParams.of(rollout),
        observer=engine.observer,
    )
    engine.sampler.asked.clear()
    engine.sampler.rounds.clear()
    scored: list[ScoredGroup] = engine.score(
        [Group(*own) for own in zip(prompts, ids, drawn, strict=True)]
    )
    return scored


def exact_values(
    *,
    limit: int = 6,
    stop: tuple[str, ...] = (),
    reward: Reward = even,
    chances: dict[str, dict[str, float]] = CHANCES,
) -> Callable[[str], float]:
    """Return the exact value of a prefix, by enumeration."""

    @cache
    def value(text: str) -> float:
        if text.endswith("|"):
            return reward(text[:-1], "stop")
        if any(string in text for string in stop):
            return reward(text, "stop")
        if len(text) == limit:
            return reward(text, "length")
        own = chances[text[-1:]]
        return math.fsum(p * value(text + letter) for letter, p in own.items())

    return value
