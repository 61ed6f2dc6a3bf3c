"""What each token of a step's completions moves the expected reward by."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dgpo_cli.core.seeds import derive_seed
from dgpo_cli.engine.values.estimate import estimate, rewards_of

if TYPE_CHECKING:
    from dgpo_cli.algo.credit import CreditRule
    from dgpo_cli.core.types import ScoredGroup
    from dgpo_cli.engine.sampling import SamplingEngine
    from dgpo_cli.samplers.base import Row


def step_moves(engine: SamplingEngine, groups: Sequence[ScoredGroup]) -> list[list[float]] | None:
    """Return the moves of every completion's tokens, in order; None if the rule needs none.

    They add up to what the advantage is of, the reward less the mean of the group, whatever the
    continuations say of V_0. Completions that the rule does not weigh, or that have no advantage,
    are not estimated: their moves are 0.

    Raises:
        BackendError: the sampler failed.
    """
    rule = engine.settings.credit
    if not rule.needs_values:
        return None
    wanted = _wanted(rule, groups)
    curves = {}
    if wanted:
        # The seeds of a step are its completions': a run that resumes has them again.
        seed = derive_seed(engine.settings.seed, "values", groups[0].completions[0].seed)
        count = getattr(rule, "continuations", 0)
        curves = estimate(engine, groups, of=wanted, continuations=count, seed=seed, shared=True)
    found = []
    for i, group in enumerate(groups):
        baseline = _mean_reward(group)
        for j, completion in enumerate(group.completions):
            curve = curves.get((i, j))
            moves = [0.0] * len(completion.token_ids) if curve is None else curve.moves()
            if curve is not None:
                moves[0] += curve.points[0].value - baseline
            found.append(moves)
    return found


def _wanted(rule: CreditRule, groups: Sequence[ScoredGroup]) -> list[Row]:
    """Return the completions whose weights matter."""
    import torch

    rows = []
    for i, group in enumerate(groups):
        weighed = rule.weighs(torch.tensor(group.advantages, dtype=torch.float64)).tolist()
        rows += [(i, j) for j, a in enumerate(group.advantages) if a != 0.0 and weighed[j]]
    return rows


def _mean_reward(group: ScoredGroup) -> float:
    """Return the mean reward of the scored completions; NaN of none."""
    rewards = [reward for reward in rewards_of(group) if not math.isnan(reward)]
    return statistics.fmean(rewards) if rewards else math.nan
