"""Moves of the expected reward reach the weights of every row that learns, whatever the step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from dgpo_cli.algo.credit import UniformCredit, ValueCredit
from dgpo_cli.config.load import resolve
from dgpo_cli.core.formats import Position
from dgpo_cli.core.types import ScoredGroup, Verdict
from dgpo_cli.engine.engine import Engine
from dgpo_cli.engine.setup import training_engine
from dgpo_cli.engine.values import moves as moves_module
from dgpo_cli.policy.policy import Policy
from dgpo_cli.prompts.datasets import SumsStream
from tests.engines import make_engine, rollout

SIBLINGS = ValueCredit(continuations=0)
THIRD = 1 / 3


def test_siblings_alone_give_credit_where_completions_part(policy: Policy) -> None:
    """TEXTS of tests.engines, a token a character and the end; V_0 is 1/3 in each of these."""
    engine = make_engine(policy, credit=SIBLINGS)
    batch = engine.make_batch(rollout(engine))
    weights = [
        row[: int(length)]
        for row, length in zip(batch.credit.weights.tolist(), batch.lengths, strict=True)
    ]
    assert batch.stats.value_moves is not None
    moves = batch.stats.value_moves.tolist()
    # 3 is right, 4 and 12=3 are not: the first token of each decides.
    assert moves[0][:2] == pytest.approx([2 * THIRD, 0.0])
    assert moves[1][:2] == pytest.approx([-THIRD, 0.0])
    assert weights[:3] == [
        pytest.approx([2, 0]),
        pytest.approx([2, 0]),
        pytest.approx([5, *[0] * 4]),
    ]
    # 70, 7, 70 with 7 right: all begin with 7, and the second token decides.
    assert weights[3:6] == [pytest.approx(own) for own in ([0, 3, 0], [0, 2], [0, 3, 0])]
    # Nobody is right in the last group: no moves, and weights of exactly 1.
    assert not any(map(any, moves[12:]))
    assert weights[12:] == [[1.0, 1.0]] * 3


def unscored(group: ScoredGroup, number: int) -> ScoredGroup:
    verdicts = list(group.verdicts)
    verdicts[number] = Verdict("error", None, math.nan)
    return replace(group, verdicts=tuple(verdicts))


def test_an_unscored_completion_is_no_sibling_and_has_no_moves(policy: Policy) -> None:
    engine = make_engine(policy, credit=SIBLINGS)
    group = unscored(rollout(engine)[1], 0)  # of 70, 7, 70
    group = replace(group, advantages=engine.settings.advantage.advantages(group.rewards))
    first, second, third = engine.value_moves([group]) or []
    assert first == [0.0, 0.0, 0.0]
    assert second == pytest.approx([0.0, 0.5])  # V_0 is that of two
    assert third == pytest.approx([0.0, -0.5, 0.0])


@pytest.mark.parametrize(("sign", "weighed"), [("positive", {0}), ("negative", {1, 2})])
def test_completions_that_the_rule_does_not_weigh_are_not_estimated(
    policy: Policy, sign: Any, weighed: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int]] = []

    def estimate(*args: Any, of: Sequence[tuple[int, int]], **rest: Any) -> dict[Any, Any]:
        asked.extend(of)
        return {}

    monkeypatch.setattr(moves_module, "estimate", estimate)
    engine = make_engine(policy, credit=ValueCredit(continuations=0, sign=sign))
    groups = rollout(engine)
    engine.value_moves([groups[0], groups[4]])  # the last has no advantage
    assert set(asked) == {(0, j) for j in weighed}


def test_another_rule_asks_for_no_moves(policy: Policy) -> None:
    engine = make_engine(policy, credit=UniformCredit())
    batch = engine.make_batch(rollout(engine))
    assert batch.stats.value_moves is None
    assert "values/moved" not in engine.metrics(rollout(engine), batch=batch)


def tiny_engine(*overrides: str) -> Engine:
    common = ("credit.rule=value", "credit.continuations=2", "rollout.group_size=4")
    own = ("model.device=cpu", "rollout.prompts_per_step=4", "reward.workers=1")
    return training_engine(resolve(preset="tiny", overrides=[*common, *own, *overrides]).settings)


def sampled(engine: Engine, *, first: int = 0) -> list[ScoredGroup]:
    stream = SumsStream(engine.settings.prompts, seed=3)  # type: ignore[arg-type]
    seeds = [[first + 10 * i + j for j in range(4)] for i in range(4)]
    return engine.score(engine.sample(stream.take(Position(), count=4), seeds=seeds))


@pytest.mark.parametrize("lora", [(), ("adapter.kind=lora", "adapter.rank=4", "rollout.top_p=0.9")])
def test_the_weights_of_a_step_are_its_moves_through_updates_and_measuring_again(
    lora: tuple[str, ...],
) -> None:
    """The moves of a row add up to its reward less the mean of its group."""
    twice = ("optim.updates_per_step=2", "credit.refresh=update")
    with tiny_engine(*twice, *lora) as engine:
        groups = sampled(engine)
        batch = engine.make_batch(groups)
        moves = batch.stats.value_moves
        assert moves is not None
        rewards = torch.tensor([group.rewards for group in groups])
        expected = (rewards - rewards.mean(1, keepdim=True)).flatten()
        torch.testing.assert_close(moves.sum(1), expected, rtol=1e-5, atol=1e-6)
        learnt = batch.advantages != 0
        assert int(learnt.sum()) >= 4 and bool((moves != 0).any(1)[learnt].all())
        weights = batch.credit.weights[learnt]
        by_hand = moves * (batch.lengths / moves.sum(1)).unsqueeze(1)
        torch.testing.assert_close(weights, by_hand[learnt], rtol=1e-4, atol=1e-5)
        assert bool((weights < 0).any())
        metrics = engine.metrics(groups, batch=batch)
        large = (moves.abs() > 0.15)[learnt].sum() / batch.lengths[learnt].sum()
        assert metrics["values/moved"] == pytest.approx(float(large))
        before, entropy = batch.credit.weights.clone(), batch.stats.entropy.clone()
        engine.update(batch, step=0)
        assert torch.equal(batch.credit.weights, before)
        assert not torch.equal(batch.stats.entropy, entropy)  # measured again


def test_moves_are_of_the_reward_with_its_penalty_and_0_where_the_loss_masks_a_row() -> None:
    """They count in the mean of their group all the same."""
    short = ("rollout.max_completion_tokens=31", "reward.overlong.buffer_tokens=8")
    with tiny_engine(*short, "loss.mask_truncated=true") as engine:
        groups = sampled(engine)
        batch = engine.make_batch(groups)
    assert batch.stats.value_moves is not None
    found = batch.stats.value_moves.sum(1).tolist()
    cut = 0
    for i, group in enumerate(groups):
        totals = [r + p for r, p in zip(group.rewards, group.penalties, strict=True)]
        for j, completion in enumerate(group.completions):
            masked = completion.finish_reason == "length" or len(set(totals)) == 1
            cut += completion.finish_reason == "length"
            expected = 0.0 if masked else totals[j] - sum(totals) / len(totals)
            assert found[4 * i + j] == pytest.approx(expected, abs=1e-6)
    assert 0 < cut < 12 and min(min(group.penalties) for group in groups) < 0


def test_the_moves_of_a_step_come_again_and_those_of_another_do_not() -> None:
    with tiny_engine() as engine:
        groups = sampled(engine)
        found = engine.value_moves(groups)
        assert found == engine.value_moves(groups)
        first = groups[0].completions[0]
        later = replace(first, seed=first.seed + 1)  # the step is known by it
        moved = replace(groups[0], completions=(later, *groups[0].completions[1:]))
        assert engine.value_moves([moved, *groups[1:]]) != found
