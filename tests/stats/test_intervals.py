"""The intervals of Avg@k: their quantiles, what they say at the edges, and what they cover."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgpo_cli.core.types import Interval
from dgpo_cli.stats.intervals import (
    NORMAL_95,
    mean_interval,
    problems_interval,
    rerun_interval,
    student_cdf,
    student_quantile,
    wilson,
)

RUNS = 1500  # 0.95 has a standard error of 0.0056 then


@pytest.mark.parametrize(
    ("freedom", "upper", "power"),  # printed tables of Student's t
    [(1, 12.706, 1.376), (2, 4.303, 1.061), (3, 3.182, 0.978), (10, 2.228, 0.879),
     (29, 2.045, 0.854), (30, 2.042, 0.854), (120, 1.980, 0.845), (5000, 1.9604, 0.8417)],
)  # fmt: skip
def test_quantiles_of_student_are_those_of_the_tables(
    freedom: int, upper: float, power: float
) -> None:
    assert student_quantile(0.975, freedom=freedom) == pytest.approx(upper, abs=6e-4)
    assert student_quantile(0.8, freedom=freedom) == pytest.approx(power, abs=6e-4)


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 7, 12, 29])
def test_the_distribution_of_student_is_the_integral_of_its_density(freedom: int) -> None:
    value = 1.7
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2))
    scale /= math.sqrt(freedom * math.pi)
    x = np.linspace(0.0, value, 20_001)
    density = scale * (1 + x * x / freedom) ** (-(freedom + 1) / 2)
    area = float(np.trapezoid(density, x))
    assert student_cdf(value, freedom=freedom) == pytest.approx(0.5 + area, abs=1e-8)
    assert student_cdf(-value, freedom=freedom) == pytest.approx(0.5 - area, abs=1e-8)


def test_student_refuses_what_it_does_not_know() -> None:
    for share, freedom in ((0.5, 3), (1.0, 3), (0.9, 0)):
        with pytest.raises(ValueError, match=f"freedom={freedom}"):
            student_quantile(share, freedom=freedom)


def test_wilson_ends_are_where_the_score_test_is_at_its_limit() -> None:
    for share, size in ((0.3, 40), (0.02, 50), (0.5, 7)):
        interval = wilson(share, size=size)
        for end in (interval.low, interval.high):
            score = abs(share - end) / math.sqrt(end * (1 - end) / size)
            assert score == pytest.approx(NORMAL_95, rel=1e-9)


def test_all_wrong_and_all_right_keep_the_width_that_so_many_samples_allow() -> None:
    square = NORMAL_95**2
    for k in (1, 32):
        high = square / (30 * k + square)  # Wilson's end for 0 of n k
        assert rerun_interval([0] * 30, k=k) == Interval(0.0, pytest.approx(high))
        assert rerun_interval([k] * 30, k=k) == Interval(pytest.approx(1 - high), 1.0)
        square_t = student_quantile(0.975, freedom=29) ** 2
        high = square_t / (30 + square_t)  # for 0 of n: a problem is one observation
        assert problems_interval([0] * 30, k=k) == Interval(0.0, pytest.approx(high))
        assert problems_interval([k] * 30, k=k) == Interval(pytest.approx(1 - high), 1.0)


def test_one_problem_says_nothing_of_others_and_no_problem_nothing_at_all() -> None:
    assert problems_interval([5], k=8) == Interval(0.0, 1.0)
    assert rerun_interval([5], k=8) == wilson(5 / 8, size=8)
    for none in (rerun_interval([], k=8), problems_interval([], k=8)):
        assert math.isnan(none.low) and math.isnan(none.high)


def test_one_sample_each_has_the_interval_of_so_many_coins() -> None:
    assert rerun_interval([1] * 12 + [0] * 18, k=1) == wilson(0.4, size=30)


def test_problems_solved_always_or_never_do_not_make_the_score_certain() -> None:
    # none of 32 in 15 problems, all of 32 in the others: up to about z^2 samples may be due
    interval = rerun_interval([0] * 15 + [32] * 15, k=32)
    assert interval.high - 0.5 == pytest.approx(0.5 - interval.low)
    assert 2 / 960 < interval.high - 0.5 < 4 / 960


@pytest.mark.parametrize("correct", [[16] * 30, [1] * 30, [31, 32] * 15, [0, 32] * 15, [0] * 30])
def test_the_error_of_a_rerun_is_contained_in_that_of_the_problems(correct: list[int]) -> None:
    rerun, problems = rerun_interval(correct, k=32), problems_interval(correct, k=32)
    assert problems.low <= rerun.low <= sum(correct) / 960 <= rerun.high <= problems.high


@given(st.integers(1, 40), st.data())
def test_the_interval_over_problems_contains_that_of_a_rerun(k: int, data: st.DataObject) -> None:
    correct = data.draw(st.lists(st.integers(0, k), min_size=1, max_size=40))
    rerun, problems = rerun_interval(correct, k=k), problems_interval(correct, k=k)
    assert problems.low <= rerun.low + 1e-12 and rerun.high <= problems.high + 1e-12


def test_intervals_mirror_when_right_and_wrong_change_places() -> None:
    correct = [0, 3, 8, 8, 1, 7]
    for interval in (rerun_interval, problems_interval):
        there = interval(correct, k=8)
        back = interval([8 - c for c in correct], k=8)
        assert (1 - back.high, 1 - back.low) == pytest.approx((there.low, there.high))


def fixed(name: str, n: int) -> np.ndarray:
    """Chances of n fixed problems."""
    at = np.arange(n)
    return {
        "even": np.full(n, 0.5),
        "spread": np.quantile(np.random.default_rng(3).beta(0.5, 0.7, 4000), (at + 0.5) / n),
        "rare": np.full(n, 0.01),
        "mixed": np.where(at % 3 == 0, 0.1, 1.0),
        "never or nearly": np.where(at % 2 == 0, 1.0, 0.01),
    }[name]


@pytest.mark.parametrize(
    ("n", "k", "name"),
    [(30, 32, "even"), (30, 32, "spread"), (30, 32, "rare"), (30, 32, "mixed"),
     (30, 32, "never or nearly"), (30, 8, "spread"), (30, 8, "rare"), (30, 4, "spread"),
     (30, 4, "mixed"), (30, 2, "even"), (30, 2, "spread"), (30, 1, "even"), (30, 1, "spread"),
     (5, 32, "spread"), (1, 32, "even"), (100, 4, "spread"), (100, 4, "never or nearly")],
)  # fmt: skip
def test_the_rerun_interval_covers_the_score_of_endless_samples(n: int, k: int, name: str) -> None:
    """At least 93% everywhere: counts are whole, so no interval has exactly 95%."""
    chances = fixed(name, n)
    rng = np.random.default_rng(n * 100 + k)
    counts = rng.binomial(k, chances, size=(RUNS, n)).tolist()
    found = [rerun_interval(correct, k=k) for correct in counts]
    covered = np.mean([i.low <= chances.mean() <= i.high for i in found])
    assert covered >= 0.93
    if k >= 8 and name in ("even", "spread"):
        assert covered <= 0.97  # and no wider than it has to be


def population(name: str, rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Chances of problems drawn from all problems of a kind."""
    if name == "spread":
        return rng.beta(1.0, 1.5, shape)
    if name == "hard":
        return rng.beta(0.2, 0.8, shape)
    if name == "very hard":
        return rng.beta(0.1, 2.0, shape)
    if name == "alike":
        return np.full(shape, 0.5)
    if name == "rarely solved":
        return np.where(rng.random(shape) < 0.1, 1.0, 0.0)
    assert name == "rarely failed"
    return np.where(rng.random(shape) < 0.03, 0.0, 0.95)


MEANS = {"spread": 0.4, "hard": 0.2, "very hard": 0.1 / 2.1, "alike": 0.5, "rarely solved": 0.1,
         "rarely failed": 0.97 * 0.95}  # fmt: skip


@pytest.mark.parametrize(
    ("n", "k", "name"),
    [(30, 32, name) for name in MEANS] + [(30, 1, name) for name in MEANS]
    + [(5, 32, "spread"), (10, 8, "hard"), (10, 8, "very hard"), (100, 8, "spread")],
)  # fmt: skip
def test_the_interval_over_problems_covers_the_mean_of_all_problems(
    n: int, k: int, name: str
) -> None:
    """At least 93%; where problems are far from the edges and many, at most 97%."""
    rng = np.random.default_rng(n * 100 + k)
    counts = rng.binomial(k, population(name, rng, (RUNS, n))).tolist()
    found = [problems_interval(correct, k=k) for correct in counts]
    covered = np.mean([i.low <= MEANS[name] <= i.high for i in found])
    assert covered >= 0.93
    if n >= 30 and name in ("spread", "alike"):
        assert covered <= 0.97


def test_the_interval_of_a_mean_of_two_values_is_wilsons_between_them() -> None:
    found = mean_interval([-1.0, 3.0, 3.0, 3.0], ends=(-1.0, 3.0))
    share = wilson(0.75, size=4)
    assert found.low == pytest.approx(-1.0 + 4.0 * share.low)
    assert found.high == pytest.approx(-1.0 + 4.0 * share.high)
    assert mean_interval([0.0, 0.0], ends=(0.0, 1.0)) == wilson(0.0, size=2)


def test_the_interval_of_a_mean_of_any_values_is_students() -> None:
    found = mean_interval([0.25, 1.5, 0.5])
    # Mean 0.75, variance (0.25 + 0.5625 + 0.0625) / 2; t of 2 degrees of freedom is 4.30265.
    half = 4.30265 * math.sqrt(0.4375 / 3)
    assert found.low == pytest.approx(0.75 - half, abs=1e-5)
    assert found.high == pytest.approx(0.75 + half, abs=1e-5)
    assert math.isnan(mean_interval([0.25]).low)
