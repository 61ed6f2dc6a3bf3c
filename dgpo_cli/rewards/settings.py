"""Settings of the answer checkers; one class a checker, chosen by `kind`. No torch, no sympy."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from dgpo_cli.schema import Frozen

Extract = Literal["boxed", "answer-line", "boxed-or-answer-line", "last-number"]


class RewardValues(Frozen):
    """What every checker shares: the rewards, the deadline and the workers."""

    extract: Extract = Field(
        "boxed-or-answer-line", description="Where the answer stands in the completion."
    )
    correct: float = Field(1.0, description="Reward of a correct answer.")
    wrong: float = Field(0.0, description="Reward of every other outcome.")
    timeout_s: float = Field(
        5.0, gt=0, le=600, description="Hard deadline of one verdict; then its worker is killed."
    )
    workers: int = Field(2, ge=1, le=256, description="Worker processes that check answers.")


class IntegerReward(RewardValues):
    """Exact integers, as in AIME."""

    kind: Literal["integer"] = "integer"
    minimum: int | None = Field(None, description="Smallest answer that is in range.")
    maximum: int | None = Field(None, description="Largest answer that is in range.")


class MathReward(RewardValues):
    """General mathematical answers, compared by math-verify."""

    kind: Literal["math"] = "math"


RewardSettings = Annotated[IntegerReward | MathReward, Field(discriminator="kind")]
