"""Settings with a list of tables, for tests: [[reward.terms]] of three kinds."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from dgpo_cli.config.settings import Settings
from dgpo_cli.core.schema import Frozen, JsonTable
from dgpo_cli.rewards.settings import IntegerReward, MathReward


class Part(Frozen):
    """What every kind has."""

    name: str = Field("", description="Name in metrics.")
    weight: float = Field(1.0, ge=0, description="Factor in the sum.")


class LengthPart(Part):
    """The length of a completion."""

    kind: Literal["length"] = "length"
    limit: int = Field(100, ge=1, description="Tokens without penalty.")
    shape: Literal["linear", "cosine"] = Field("linear", description="Form of the penalty.")


class FormatPart(Part):
    """The form of a completion."""

    kind: Literal["format"] = "format"
    pattern: str = Field(min_length=1, description="Regular expression.")
    whole: bool = Field(False, description="Whether all of the text must match.")
    extra: JsonTable = Field(None, description="Anything.")


class TermsReward(IntegerReward):
    """A sum of terms."""

    kind: Literal["terms"] = "terms"  # type: ignore[assignment]
    terms: tuple[Annotated[LengthPart | FormatPart, Field(discriminator="kind")], ...] = Field(
        (), description="What is added up."
    )


class Listed(Settings):
    """Settings whose reward may have terms."""

    reward: Annotated[IntegerReward | MathReward | TermsReward, Field(discriminator="kind")] = (
        Field(  # type: ignore[assignment]
            IntegerReward(), description="The reward."
        )
    )
