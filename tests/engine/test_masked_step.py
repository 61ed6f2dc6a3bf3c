"""A step that leaves truncated completions out, from the sampler's answer to the gradient."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from dgpo_cli.algo.credit import UniformCredit
from dgpo_cli.algo.losses import ClipLoss
from dgpo_cli.core.types import Group
from dgpo_cli.engine.engine import Engine
from dgpo_cli.policy.policy import Policy
from tests import engines
from tests.engine import updates
from tests.policy import twins


def cut(groups: list[Group], *, rows: set[int]) -> list[Group]:
    """Mark the completions `rows`, counted over all groups, as cut off by the limit."""
    size = engines.G
    return [
        replace(
            group,
            completions=tuple(
                replace(c, finish_reason="length") if size * i + j in rows else c
                for j, c in enumerate(group.completions)
            ),
        )
        for i, group in enumerate(groups)
    ]


def masking(engine: Engine, *, aggregation: Any) -> Engine:
    loss = ClipLoss(aggregation=aggregation, mask_truncated=True)
    engine.settings = engine.settings.model_copy(update={"loss": loss})
    return engine


@pytest.mark.parametrize("aggregation", ["token-mean", "sequence-mean", "constant"])
def test_the_gradient_is_a_slow_twins_that_has_not_seen_them(
    policy: Policy, aggregation: str
) -> None:
    # No clipping by the norm: it would hide a wrong normaliser.
    plain = engines.make_engine(policy, credit=UniformCredit(), optim={"max_grad_norm": 0.0})
    engine = masking(plain, aggregation=aggregation)
    capture = updates.Capture(policy)
    engine.optimizer = capture
    seeds = [[10 * i + j for j in range(engines.G)] for i in range(len(engines.PROMPTS))]
    left_out = {1, 5, 12, 13}
    groups = cut(engine.sample(engines.PROMPTS, seeds=seeds), rows=left_out)
    scored = engine.score(groups)
    batch = engine.make_batch(scored)
    assert batch.counted is not None
    assert {row for row, counts in enumerate(batch.counted.tolist()) if not counts} == left_out
    metrics = engine.update(batch, step=0)
    pairs = [(g.prompt_ids, c.token_ids) for g in scored for c in g.completions]
    advantages = [a for g in scored for a in g.advantages]
    kept = [row for row in range(len(pairs)) if row not in left_out]
    loss, gradient = twins.update_gradient(
        twins.widened(policy.model),
        twins.widened(policy.model),  # equal to the policy: even weights
        [pairs[row] for row in kept],
        advantages=[advantages[row] for row in kept],
        shifts=[[0.0] * len(pairs[row][1]) for row in kept],
        rule=twins.TwinUpdate(
            temperature=0.8,
            tau=1.0,
            kappa=0.0,
            clip_low=0.2,
            clip_high=0.28,
            aggregation=aggregation,
            max_tokens=6,
        ),
    )
    assert metrics["loss/value"] == pytest.approx(loss, rel=1e-5, abs=1e-7)
    updates.assert_same_gradient(capture.gradients, gradient)


def test_without_the_setting_every_row_counts(policy: Policy) -> None:
    engine = engines.make_engine(policy)
    assert engine.make_batch(engines.rollout(engine)).counted is None
