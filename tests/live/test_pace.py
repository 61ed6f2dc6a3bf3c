"""The end of a run as expected, against arithmetic written out."""

from __future__ import annotations

import pytest

from dgpo_cli.live.pace import Pace


def test_before_the_first_step_nothing_is_known() -> None:
    pace = Pace(total=10, eval_every=0)
    assert pace.left(now=5.0) is None


def test_even_steps_give_their_number_times_their_length() -> None:
    pace = Pace(total=10, eval_every=0)
    for step in range(1, 4):
        pace.step(step, seconds=2.0, now=2.0 * step)
    assert pace.left(now=6.0) == pytest.approx(7 * 2.0)
    assert pace.left(now=7.5) == pytest.approx(7 * 2.0 - 1.5)  # it counts down within a step
    assert pace.left(now=60.0) == pytest.approx(6 * 2.0)  # but not past the step that is late


def test_one_slow_step_moves_nothing() -> None:
    pace, now = Pace(total=100, eval_every=0), 0.0
    for step in range(1, 11):
        seconds = 500.0 if step == 5 else 1.0
        now += seconds
        pace.step(step, seconds=seconds, now=now)
    assert pace.left(now=now) == pytest.approx(90.0)


def test_evaluations_that_are_left_are_counted() -> None:
    pace = Pace(total=10, eval_every=4)
    assert pace.due(0)
    pace.evaluation(0, since=0.0, now=30.0)
    assert not pace.due(0)
    pace.step(1, seconds=1.0, now=31.0)
    # 9 steps, and evaluations after 4, 8 and 10.
    assert pace.left(now=31.0) == pytest.approx(9 * 1.0 + 3 * 30.0)
    for step in (2, 3, 4):
        pace.step(step, seconds=1.0, now=30.0 + step)
    assert pace.due(4)
    assert pace.left(now=34.0) == pytest.approx(6 * 1.0 + 3 * 30.0)
    pace.evaluation(4, since=0.0, now=64.0)
    assert pace.left(now=64.0) == pytest.approx(6 * 1.0 + 2 * 30.0)


def test_what_lies_between_steps_is_spread_over_all() -> None:
    pace = Pace(total=10, eval_every=0)
    for step, now in ((1, 1.0), (2, 2.0), (3, 6.0), (4, 7.0)):  # 3 seconds before the third
        pace.step(step, seconds=1.0, now=now)
    assert pace.left(now=7.0) == pytest.approx(6 * (1.0 + 3.0 / 4))


def test_at_the_end_nothing_is_left() -> None:
    pace = Pace(total=2, eval_every=0)
    pace.step(2, seconds=3.0, now=3.0)
    assert pace.left(now=3.0) == 0.0
