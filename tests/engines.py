"""An engine on a tiny policy, with a sampler and a grader that say what they are told to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from dgpo_cli.algo.credit import CreditRule, DgpoCredit
from dgpo_cli.config.settings import OptimSettings, Settings, TrainSettings
from dgpo_cli.core.events import Observer
from dgpo_cli.core.types import Completion, Message, Prompt, ScoredGroup, Verdict
from dgpo_cli.engine.engine import Engine
from dgpo_cli.engine.optimizers import build_adamw
from dgpo_cli.policy.policy import Policy
from dgpo_cli.rewards.grader import GradeItem
from dgpo_cli.samplers.base import SamplingParams
from dgpo_cli.samplers.settings import RolloutSettings
from tests.policy import tiny

G = 3
TEXTS = [["3", "4", "12=3"], ["70", "7", "70"], ["6", "6", "66"], ["8", "0", "81"], ["1", "2", "3"]]
ANSWERS = ["3", "7", "6", "8", "9"]  # the last group has no right completion, so no signal
PROMPTS = [
    Prompt(f"p{i}", (Message("user", f"{i}+{i * 11}?"),), answer, "test")
    for i, answer in enumerate(ANSWERS)
]


def completion_of(text: str, *, seed: int = 0) -> Completion:
    ids = (*tiny.char_tokenizer().encode(text, add_special_tokens=False), tiny.END)
    return Completion(ids, (-0.5,) * len(ids), text, "stop", 0, seed)


class FakeSampler:
    """Gives TEXTS whatever it is asked, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[list[tuple[int, ...]], list[list[int]], SamplingParams]] = []
        self.versions: list[int] = []

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        seeds: Sequence[Sequence[int]],
        params: SamplingParams,
        observer: Observer,
    ) -> list[tuple[Completion, ...]]:
        self.asked.append(([tuple(p) for p in prompts], [list(s) for s in seeds], params))
        return [
            tuple(completion_of(text, seed=seed) for text, seed in zip(texts, own, strict=True))
            for texts, own in zip(TEXTS, seeds, strict=False)
        ]

    def sync(self, *, policy_version: int) -> None:
        self.versions.append(policy_version)


class FakeGrader:
    """A completion is right when its text is the answer."""

    def __init__(self) -> None:
        self.items: list[GradeItem] = []

    def grade(self, items: Sequence[GradeItem]) -> list[Verdict]:
        self.items += items
        return [
            Verdict("correct" if i.text == i.gold else "wrong", i.text, float(i.text == i.gold))
            for i in items
        ]


def make_engine(
    policy: Policy,
    *,
    credit: CreditRule | None = None,
    optim: dict[str, Any] | None = None,
    train: dict[str, Any] | None = None,
    top_p: float = 1.0,
) -> Engine:
    settings = Settings(
        rollout=RolloutSettings(
            prompts_per_step=len(PROMPTS),
            group_size=G,
            temperature=0.8,
            top_p=top_p,
            max_completion_tokens=6,
        ),
        credit=credit or DgpoCredit(tau=0.05),
        optim=OptimSettings(lr=1e-2, micro_batch_size=4, **(optim or {})),
        train=TrainSettings(**(train or {})),
    )
    adamw = build_adamw(policy, lr=1.0, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
    sampler: Any = FakeSampler()
    grader: Any = FakeGrader()
    return Engine(settings, policy=policy, sampler=sampler, grader=grader, optimizer=adamw)


def rollout(engine: Engine) -> list[ScoredGroup]:
    seeds = [[10 * i + j for j in range(G)] for i in range(len(PROMPTS))]
    return engine.score(engine.sample(PROMPTS, seeds=seeds))


def weights_of(policy: Policy) -> list[torch.Tensor]:
    return [p.detach().clone() for _, p in policy.trainable()]


def equal(left: list[torch.Tensor], right: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def sampler_of(engine: Engine) -> Any:
    return engine.sampler
