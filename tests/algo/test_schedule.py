"""The learning rate of every step, by arithmetic."""

from __future__ import annotations

import math
from typing import Literal

import pytest

from dgpo_cli.algo.schedule import learning_rate

Schedule = Literal["constant", "linear", "cosine"]
ALL: tuple[Schedule, ...] = ("constant", "linear", "cosine")


def rates(schedule: Schedule, *, warmup: int, total: int, peak: float = 2e-6) -> list[float]:
    return [
        learning_rate(step, peak=peak, warmup_steps=warmup, total_steps=total, schedule=schedule)
        for step in range(total)
    ]


def test_a_constant_rate_is_the_peak_from_the_first_step() -> None:
    assert rates("constant", warmup=0, total=5) == [2e-6] * 5


@pytest.mark.parametrize("schedule", ALL)
def test_the_warm_up_rises_in_equal_parts_to_the_peak(schedule: Schedule) -> None:
    found = rates(schedule, warmup=4, total=10)
    assert found[:4] == pytest.approx([0.5e-6, 1e-6, 1.5e-6, 2e-6])
    assert found[4] == pytest.approx(2e-6)  # the schedule itself begins at the peak


def test_a_linear_rate_falls_in_equal_parts() -> None:
    found = rates("linear", warmup=2, total=6, peak=1.0)
    assert found == pytest.approx([0.5, 1.0, 1.0, 0.75, 0.5, 0.25])


def test_a_cosine_rate_is_half_a_wave() -> None:
    found = rates("cosine", warmup=0, total=4, peak=1.0)
    half = math.sqrt(0.5)
    assert found == pytest.approx([1.0, (1 + half) / 2, 0.5, (1 - half) / 2])


@pytest.mark.parametrize("schedule", ALL)
@pytest.mark.parametrize(("warmup", "total"), [(0, 1), (1, 1), (3, 3), (5, 3), (0, 7), (2, 7)])
def test_no_step_of_a_run_has_a_rate_of_zero_or_above_the_peak(
    schedule: Schedule, warmup: int, total: int
) -> None:
    """A warm-up as long as the run, or longer, is allowed too."""
    assert all(0 < rate <= 2e-6 for rate in rates(schedule, warmup=warmup, total=total))


@pytest.mark.parametrize(
    ("schedule", "left"), [("constant", 1.0), ("linear", 0.0), ("cosine", 0.0)]
)
def test_steps_after_the_end_stay_at_the_end(schedule: Schedule, left: float) -> None:
    for step in (10, 11, 1000):
        rate = learning_rate(step, peak=1.0, warmup_steps=2, total_steps=10, schedule=schedule)
        assert rate == pytest.approx(left, abs=1e-15)
