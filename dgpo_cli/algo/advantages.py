"""Group advantages: GRPO's, Dr. GRPO's and leave-one-out, from the rewards of one group."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from dgpo_cli.core.schema import Frozen

# Added to the standard deviation, as in GRPO; far below that of any group of distinct rewards.
STD_EPS = 1e-6


class AdvantageSettings(Frozen):
    """How the rewards of a group become advantages."""

    baseline: Literal["group-mean", "leave-one-out"] = Field(
        "group-mean", description="What is subtracted: the group's mean, or that of the others."
    )
    std: Literal["group", "none"] = Field(
        "group", description="group: divide by the group's standard deviation. none: Dr. GRPO's."
    )

    def advantages(self, rewards: Sequence[float]) -> tuple[float, ...]:
        """Return the advantage of each completion of one group, in float64.

        A group whose rewards are all equal, a single completion included, has exactly 0. The
        standard deviation has Bessel's correction and is the whole group's with either baseline,
        so that leave-one-out is G / (G - 1) times the group-mean advantage with `std` group or
        none alike.

        Source: GRPO, arXiv 2402.03300; std none: Dr. GRPO, arXiv 2503.20783; leave-one-out:
        RLOO, arXiv 2402.14740.
        """
        size = len(rewards)
        if all(reward == rewards[0] for reward in rewards):
            return (0.0,) * size
        mean = math.fsum(rewards) / size
        centred = [reward - mean for reward in rewards]
        if self.std == "group":
            variance = math.fsum(value * value for value in centred) / (size - 1)
            scale = 1.0 / (math.sqrt(variance) + STD_EPS)
        else:
            scale = 1.0
        if self.baseline == "leave-one-out":
            # r_i - mean of the others = G / (G - 1) * (r_i - mean of all)
            scale *= size / (size - 1)
        return tuple(value * scale for value in centred)
