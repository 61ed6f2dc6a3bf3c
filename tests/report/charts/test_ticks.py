"""Axes hold their numbers, ticks are round, labels tell them apart."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgpo_cli.report.charts.ticks import axis, tick_labels

NUMBERS = st.floats(-1e12, 1e12).filter(lambda x: x == 0 or abs(x) > 1e-9)


@given(st.lists(NUMBERS, min_size=1, max_size=20))
def test_ticks_cover_the_range_and_are_few(values: list[float]) -> None:
    found = axis(values, start=0.0, end=100.0)
    room = 1e-9 * max(1e-12, *(abs(value) for value in values))
    assert found.low <= min(values) + room
    assert found.high >= max(values) - room
    assert found.ticks[0] == pytest.approx(found.low, abs=1e-9 * (found.high - found.low))
    assert found.ticks[-1] == pytest.approx(found.high, abs=1e-9 * (found.high - found.low))
    assert 2 <= len(found.ticks) <= 8


@given(st.lists(NUMBERS, min_size=1, max_size=20), st.booleans())
def test_every_number_stands_inside_and_in_order(values: list[float], log: bool) -> None:
    found = axis(values, start=230.0, end=8.0, log=log)
    places = [found.at(value) for value in sorted(values)]
    assert all(8.0 <= place <= 230.0 for place in places)
    assert all(a >= b for a, b in pairwise(places))


def test_steps_of_ticks_are_1_2_25_or_5_times_a_power_of_ten() -> None:
    for high in (0.013, 0.7, 1.0, 3.3, 9.99, 47.0, 12345.0):
        ticks = axis([0.0, high], start=0.0, end=1.0).ticks
        step = ticks[1] - ticks[0]
        digits = step / 10.0 ** math.floor(math.log10(step) + 1e-9)
        assert any(digits == pytest.approx(nice) for nice in (1.0, 2.0, 2.5, 5.0))


@given(st.lists(st.floats(1e-30, 1e9), min_size=1, max_size=20))
def test_a_logarithmic_axis_goes_from_power_to_power(values: list[float]) -> None:
    found = axis([*values, 0.0, -1.0], start=0.0, end=1.0, log=True)
    for end in (found.low, found.high):
        assert math.log10(end) == pytest.approx(round(math.log10(end)), abs=1e-9)
    assert found.high >= max(values) * (1 - 1e-9)
    assert found.low <= min(values) * (1 + 1e-9) or found.high / found.low >= 1e11
    # What is not positive, or too far down, stands at the foot.
    assert found.at(0.0) == found.at(-1.0) == 0.0


def test_equal_steps_on_a_logarithmic_axis_are_equal_ratios() -> None:
    found = axis([1e-4, 1.0], start=0.0, end=80.0, log=True)
    assert [found.at(10.0**power) for power in range(-4, 1)] == pytest.approx([0, 20, 40, 60, 80])


def test_an_axis_of_one_number_or_of_none_has_a_width() -> None:
    for values in ([], [0.0], [5.0], [-2.0, -2.0]):
        found = axis(values, start=0.0, end=1.0)
        assert found.high > found.low
    assert axis([0.0], start=0.0, end=1.0, floor=0.0).low == 0.0


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 9, 12, 30, 101])
def test_an_axis_of_steps_has_whole_ticks(steps: int) -> None:
    for first in (1, 7):
        numbers = [float(first), float(first + steps - 1)]
        found = axis(numbers, start=0.0, end=1.0, tight=True, whole=True)
        assert all(tick.is_integer() for tick in found.ticks)
        assert 1 <= len(found.ticks) <= 6
        assert all(label.isdigit() for label in found.labels)


def test_shares_that_add_up_to_a_little_more_than_1_end_at_1() -> None:
    for total in (0.999, 1.0, 1.0 + 1e-6):
        found = axis([0.0, total], start=0.0, end=1.0, floor=0.0, ceiling=1.0)
        assert (found.low, found.high) == (0.0, 1.0)
    assert axis([0.0, 1.2], start=0.0, end=1.0, floor=0.0, ceiling=1.0).high >= 1.2


def test_labels_tell_ticks_apart_in_few_digits() -> None:
    assert tick_labels([0.0, 0.25, 0.5]) == ("0", "0.25", "0.50")
    assert tick_labels([0.9996, 0.9998, 1.0]) == ("0.9996", "0.9998", "1.0000")
    assert tick_labels([0.0, 5000.0, 10000.0]) == ("0", "5k", "10k")
    assert tick_labels([0.0, 0.00005, 0.0001, 0.00015]) == ("0", "0.5e-04", "1e-04", "1.5e-04")
    assert tick_labels([1e-9, 1e-7, 1e-5, 1e-3, 0.1], log=True)[0] == "1e-09"
