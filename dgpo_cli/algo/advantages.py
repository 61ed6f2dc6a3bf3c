"""Group advantages: GRPO's, Dr. GRPO's and leave-one-out, from the rewards of one group."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from dgpo_cli.schema import Frozen


class AdvantageSettings(Frozen):
    """How the rewards of a group become advantages."""

    baseline: Literal["group-mean", "leave-one-out"] = Field(
        "group-mean", description="What is subtracted: the group's mean, or that of the others."
    )
    std: Literal["group", "none"] = Field(
        "group", description="group: divide by the group's standard deviation. none: Dr. GRPO's."
    )
