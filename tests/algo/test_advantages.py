"""Group advantages against loops and arithmetic written out."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgpo_cli.algo.advantages import AdvantageSettings
from tests.algo import twins

REWARDS = st.lists(st.floats(-5, 5), min_size=2, max_size=32).filter(
    lambda r: max(r) - min(r) > 1e-3
)
GRPO = AdvantageSettings(baseline="group-mean", std="group")
DR_GRPO = AdvantageSettings(baseline="group-mean", std="none")
RLOO = AdvantageSettings(baseline="leave-one-out", std="none")
RLOO_STD = AdvantageSettings(baseline="leave-one-out", std="group")
ALL = pytest.mark.parametrize("rule", [GRPO, DR_GRPO, RLOO, RLOO_STD])


def test_grpo_by_hand() -> None:
    # mean 1/4, variance (9/16 + 3/16) / 3 = 1/4
    got = GRPO.advantages([1.0, 0.0, 0.0, 0.0])
    assert got == pytest.approx([0.75 / 0.500001] + [-0.25 / 0.500001] * 3, rel=1e-12)


def test_dr_grpo_by_hand() -> None:
    assert DR_GRPO.advantages([1.0, 0.0, 0.0, 0.0]) == (0.75, -0.25, -0.25, -0.25)


def test_leave_one_out_by_hand() -> None:
    assert RLOO.advantages([1.0, 0.0, 0.0, 1.0]) == pytest.approx([2 / 3, -2 / 3, -2 / 3, 2 / 3])


@ALL
@given(REWARDS)
def test_advantages_equal_the_slow_twin(rule: AdvantageSettings, rewards: list[float]) -> None:
    expected = twins.advantages(rewards, baseline=rule.baseline, std=rule.std)
    assert rule.advantages(rewards) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@ALL
@given(REWARDS)
def test_advantages_of_a_group_sum_to_zero(rule: AdvantageSettings, rewards: list[float]) -> None:
    assert math.fsum(rule.advantages(rewards)) == pytest.approx(0.0, abs=1e-9)


@ALL
@given(st.floats(-1e6, 1e6), st.integers(0, 40))
def test_equal_rewards_give_exactly_zero(rule: AdvantageSettings, value: float, size: int) -> None:
    assert rule.advantages([value] * size) == (0.0,) * size


@ALL
@given(REWARDS, st.randoms(use_true_random=False))
def test_order_of_the_group_does_not_matter(rule: AdvantageSettings, rewards, random) -> None:  # type: ignore[no-untyped-def]
    order = list(range(len(rewards)))
    random.shuffle(order)
    plain = rule.advantages(rewards)
    mixed = rule.advantages([rewards[i] for i in order])
    assert mixed == pytest.approx([plain[i] for i in order], rel=1e-12)


@given(REWARDS, st.floats(0.5, 100))
def test_scale_of_the_rewards_cancels_under_std(rewards: list[float], factor: float) -> None:
    # exact but for the 1e-6 beside the deviation
    got = GRPO.advantages([factor * r for r in rewards])
    assert got == pytest.approx(GRPO.advantages(rewards), rel=0.02)
