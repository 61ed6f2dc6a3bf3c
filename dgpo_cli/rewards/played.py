"""The reward of an environment, which judges what it has played."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import ClassVar, Literal, NoReturn

from pydantic import Field

from dgpo_cli.algo.overlong import OverlongSettings
from dgpo_cli.core.errors import ConfigError
from dgpo_cli.core.schema import Frozen
from dgpo_cli.core.types import Verdict
from dgpo_cli.rewards.terms.base import RewardTerm


class EnvironmentReward(Frozen):
    """What the environment of the prompts returns. No answer is checked."""

    kind: Literal["environment"] = "environment"
    correct_at: float | None = Field(
        None,
        description="A reward from here on is a correct answer, a smaller one a wrong one; unset: "
        "where the environment does not say, neither.",
    )
    overlong: OverlongSettings = Field(
        OverlongSettings(), description="Penalty for completions close to the limit of tokens."
    )

    # It has no answers, no workers and no code of its own.
    workers: ClassVar[int] = 1
    processes: ClassVar[int] = 1
    wants_columns: ClassVar[bool] = False
    needs_answer: ClassVar[bool] = False
    weights: ClassVar[dict[str, float]] = {}
    extract: ClassVar[Literal["boxed-or-answer-line"]] = "boxed-or-answer-line"
    timeout_s: ClassVar[float] = 5.0
    answer_timeout_s: ClassVar[float] = 5.0

    def judged(self, verdict: Verdict) -> Verdict:
        """Return the environment's verdict, as correct or wrong where it leaves that open."""
        if verdict.outcome != "scored" or self.correct_at is None or math.isnan(verdict.reward):
            return verdict
        right = verdict.reward >= self.correct_at
        return replace(verdict, outcome="correct" if right else "wrong")

    def every_term(self) -> tuple[RewardTerm, ...]:
        """It is not added up here."""
        return ()

    def fault_of(self, gold: str) -> str | None:
        """No answer is unusable."""
        return None

    def judges(self, part: str) -> bool:
        """Whether problems of the source `part` have a reward."""
        return True

    def fault_for(self, part: str, gold: str) -> str | None:
        """No answer is unusable."""
        return None

    def judge(self) -> NoReturn:
        """Raise ConfigError: no evaluation plays an environment."""
        raise ConfigError(
            "reward.kind=environment: an evaluation plays no environment; set the reward.kind that "
            "judges its answers (integer, math or choice), or name a --protocol"
        )

    def code(self) -> tuple[str, ...]:
        return ()
