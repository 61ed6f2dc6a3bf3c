"""Group advantages, from rewards and lengths: GRPO's, Dr. GRPO's, leave-one-out and GDPO's.

A completion without a reward (NaN), because a reward of the user's failed, has an advantage of 0
and no part in its group's baseline and spread.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Literal, Self

from pydantic import Field, model_validator

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
    normalize: Literal["sum", "each"] = Field(
        "sum",
        description="sum: the terms of the reward are added up, then normalised. each: GDPO; each "
        "term is normalised in its group before they are added up, then the step is.",
    )

    @model_validator(mode="after")
    def _each_needs_a_spread(self) -> Self:
        if self.normalize == "each" and self.std == "none":
            raise ValueError(
                "normalize='each' divides each term by its standard deviation, which std='none' "
                "does not; set advantage.std=group, or advantage.normalize=sum"
            )
        return self

    def advantages(self, rewards: Sequence[float]) -> tuple[float, ...]:
        """Return the advantage of each completion of one group, in float64.

        Equal rewards, or a single completion, give exactly 0; so does a reward of NaN, which is
        left out of the others' baseline and spread. The standard deviation has Bessel's
        correction and is the whole group's with either baseline, so leave-one-out is G / (G - 1)
        times the group-mean advantage, with `std` group and none alike.

        Source: GRPO, arXiv 2402.03300; std none: Dr. GRPO, arXiv 2503.20783; leave-one-out:
        RLOO, arXiv 2402.14740.
        """
        known = [reward for reward in rewards if not math.isnan(reward)]
        if len(known) < len(rewards):
            own = iter(self.advantages(known))
            return tuple(0.0 if math.isnan(reward) else next(own) for reward in rewards)
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

    def of_verdicts(
        self,
        verdicts: Sequence[Verdict],
        penalties: Sequence[float],
        *,
        weights: Mapping[str, float],
    ) -> tuple[float, ...]:
        """Return the advantages of one group's rewards plus penalties.

        With `normalize` each, every term has advantages of its own, which are multiplied by its
        weight and added up; the penalties are one more term. `of_step` then scales a whole step.

        weights: of the reward's terms, by name; empty: the reward is the only one.
        """
        if self.normalize == "sum" or not weights:
            pairs = zip(verdicts, penalties, strict=True)
            return self.advantages([verdict.reward + penalty for verdict, penalty in pairs])
        rows = [dict(verdict.terms) for verdict in verdicts]
        scored = [verdict.is_scored for verdict in verdicts]
        columns = {name: [row[name] for row in rows] for name in weights}
        parts = [(weight, columns[name]) for name, weight in weights.items()]
        parts.append((1.0, list(penalties)))
        scaled = [
            [
                weight * advantage
                for advantage in self.advantages(
                    [
                        value if known else math.nan
                        for value, known in zip(values, scored, strict=True)
                    ]
                )
            ]
            for weight, values in parts
        ]
        return tuple(math.fsum(row) for row in zip(*scaled, strict=True))

    def of_step(self, groups: Sequence[ScoredGroup], *, mask_truncated: bool) -> list[float]:
        """Return the advantages that a step trains with, of all completions in order.

        With `normalize` each, those of the groups are divided by their standard deviation over
        the step (Bessel's correction): of scored completions, without truncated ones if the loss
        masks these. Their mean is 0 already. Otherwise they are the groups' own.

        Source: GDPO, arXiv 2601.05242, section 3.
        """
        every = [advantage for group in groups for advantage in group.advantages]
        if self.normalize == "sum":
            return every
        counted = [
            advantage
            for group in groups
            for advantage, verdict, completion in zip(
                group.advantages, group.verdicts, group.completions, strict=True
            )
            if verdict.is_scored and not (mask_truncated and is_truncated(completion))
        ]
        if len(counted) < 2:
            return every
        mean = math.fsum(counted) / len(counted)
        variance = math.fsum((value - mean) ** 2 for value in counted) / (len(counted) - 1)
        return [advantage / (math.sqrt(variance) + STD_EPS) for advantage in every]


def scored_group(
    group: Group,
    verdicts: tuple[Verdict, ...],
    *,
    advantage: AdvantageSettings,
    overlong: OverlongSettings,
    max_completion_tokens: int,
    mask_truncated: bool,
    weights: Mapping[str, float] = MappingProxyType({}),
) -> ScoredGroup:
    """Return the group with the advantages of its rewards plus the penalties for length.

    A truncated completion that the loss leaves out has an advantage of 0, but still counts in its
    group: the others are compared with it.

    weights: of the reward's terms, by name.

    Source: overlong filtering and soft overlong punishment, DAPO, arXiv 2503.14476, section 3.4.
    """
    penalties = overlong.penalties(
        [completion.length for completion in group.completions],
        limit=max_completion_tokens,
    )
    advantages = advantage.of_verdicts(verdicts, penalties, weights=weights)
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
