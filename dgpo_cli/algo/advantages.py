"""Group advantages, from rewards and lengths: GRPO's, Dr. GRPO's and leave-one-out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from dgpo_cli.algo.overlong import OverlongSettings, is_truncated
from dgpo_cli.core.schema import Frozen
from dgpo_cli.core.types import Group, ScoredGroup, Verdict

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

        Equal rewards, or a single completion, give exactly 0. The standard deviation has Bessel's
        correction and is the whole group's with either baseline, so leave-one-out is G / (G - 1)
        times the group-mean advantage, with `std` group and none alike.

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


def scored_group(
    group: Group,
    verdicts: tuple[Verdict, ...],
    *,
    advantage: AdvantageSettings,
    overlong: OverlongSettings,
    max_completion_tokens: int,
    mask_truncated: bool,
) -> ScoredGroup:
    """Return the group with the advantages of its rewards plus the penalties for length.

    A truncated completion that the loss leaves out has an advantage of 0, but still counts in its
    group: the others are compared with it.

    Source: overlong filtering and soft overlong punishment, DAPO, arXiv 2503.14476, section 3.4.
    """
    penalties = overlong.penalties(
        [completion.length for completion in group.completions],
        limit=max_completion_tokens,
    )
    advantages = advantage.advantages(
        [verdict.reward + penalty for verdict, penalty in zip(verdicts, penalties, strict=True)]
    )
    if mask_truncated:
        pairs = zip(advantages, group.completions, strict=True)
        advantages = tuple(0.0 if is_truncated(each) else value for value, each in pairs)
    return ScoredGroup(
        prompt=group.prompt,
        prompt_ids=group.prompt_ids,
        completions=group.completions,
        verdicts=verdicts,
        advantages=advantages,
        penalties=penalties,
    )
