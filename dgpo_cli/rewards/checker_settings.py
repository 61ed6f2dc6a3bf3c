"""What a checker of answers is, without workers: how it reads, judges and pays; no torch, no sympy.

A whole reward (rewards/settings.py) and a term of one (rewards/terms/checked.py) derive from these.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from dgpo_cli.core.schema import Frozen
from dgpo_cli.rewards.gold import SHOWN_CHARS
from dgpo_cli.rewards.protocol import Check, ChoiceExtract
from dgpo_cli.rewards.protocol import Extract as Extract


class AnswerChecker(Frozen):
    """The settings of every checker: the form of answers, and what they earn."""

    extract: Extract = Field(
        "boxed-or-answer-line", description="Form of the answer in the completion."
    )
    correct: float = Field(1.0, description="Reward of a correct answer.")
    wrong: float = Field(0.0, description="Reward of every other outcome.")

    def check(self) -> Check:
        """Return the check that workers run."""
        raise NotImplementedError

    def fault_of(self, gold: str) -> str | None:
        """Return why no answer can be compared with `gold`, without naming it, or None."""
        raise NotImplementedError

    def problem_with(self, gold: str) -> str | None:
        """Return why no answer can be compared with `gold`, which it names, or None."""
        fault = self.fault_of(gold)
        return None if fault is None else f"{shown_gold(gold)} {fault}"


def shown_gold(gold: str) -> str:
    """Return a gold answer as an error names it."""
    shown = gold if len(gold) <= SHOWN_CHARS else f"{gold[:SHOWN_CHARS]}…"
    return f"answer={shown!r}"


class IntegerChecker(AnswerChecker):
    """Exact integers, as in AIME."""

    kind: Literal["integer"] = "integer"
    minimum: int | None = Field(None, description="Smallest answer in range.")
    maximum: int | None = Field(None, description="Largest answer in range.")

    @model_validator(mode="after")
    def _range_is_not_empty(self) -> Self:
        if self.minimum is not None and self.maximum is not None and self.minimum > self.maximum:
            raise ValueError(
                f"minimum={self.minimum} is above maximum={self.maximum}: no answer is in range"
            )
        return self

    def check(self) -> Check:
        """Return the check that workers run."""
        options = {"where": self.extract, "minimum": self.minimum, "maximum": self.maximum}
        return Check("dgpo_cli.rewards.answer:check_integer", options)

    def fault_of(self, gold: str) -> str | None:
        """Return why no answer can be compared with `gold`, without naming it, or None."""
        from dgpo_cli.rewards.integer import read_integer
        from dgpo_cli.rewards.reading.options import letter_of

        if read_integer(gold) is not None:
            return None
        kind = "math" if letter_of(gold) is None else "choice"
        return f"is not an integer; fix the data or set reward.kind = '{kind}'"


class MathChecker(AnswerChecker):
    """General mathematical answers, compared by meaning."""

    kind: Literal["math"] = "math"

    def check(self) -> Check:
        """Return the check that workers run."""
        return Check("dgpo_cli.rewards.math:check_math", {"where": self.extract}, chunk_tasks=8)

    def fault_of(self, gold: str) -> str | None:
        """Return why no answer can be compared with `gold`, without naming it, or None."""
        from dgpo_cli.rewards.gold import why_unusable

        fault = why_unusable(gold)
        return None if fault is None else f"{fault}; fix the data"


class ChoiceChecker(AnswerChecker):
    """The letter of an option, as in GPQA."""

    kind: Literal["choice"] = "choice"
    extract: ChoiceExtract = Field(
        "boxed-or-answer-line", description="Form of the answer in the completion."
    )
    choices: int = Field(4, ge=2, le=26, description="Number of options; their letters begin at A.")

    def check(self) -> Check:
        """Return the check that workers run."""
        options = {"where": self.extract, "choices": self.choices}
        return Check("dgpo_cli.rewards.choice:check_choice", options)

    def fault_of(self, gold: str) -> str | None:
        """Return why no answer can be compared with `gold`, without naming it, or None."""
        from dgpo_cli.rewards.reading.options import LETTERS, letter_of

        letter = letter_of(gold)
        if letter is None:
            return "is not the letter of an option; fix the data or set reward.kind = 'math'"
        if letter not in LETTERS[: self.choices]:
            return (
                f"is beyond the options A to {LETTERS[self.choices - 1]}; raise reward.choices, or "
                "fix the data"
            )
        return None
