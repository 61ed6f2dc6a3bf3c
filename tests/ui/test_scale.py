"""The scale is centred on 1, symmetric, and its numbers are true."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgpo_cli.ui.scale import Scale, spread

WEIGHTS = st.lists(st.floats(1e-9, 1e4), min_size=1, max_size=30)


@pytest.mark.parametrize(
    ("weights", "factor"),
    [
        ([1.0, 1.0], 1.0),
        ([0.999, 1.004], 1.005),
        ([0.9, 1.1], 1.15),  # 1 / 0.9 = 1.111 is further from 1 than 1.1
        ([0.6, 1.4], 1.7),
        ([0.57, 5.43], 7.0),
        ([0.5, 54.0], 70.0),
        ([1e-30, 2.0], 5.0),  # a weight near 0 does not flatten the rest
        ([0.0, 1.01], 5.0),
        ([math.nan, 1.0], 1.0),
    ],
)
def test_the_ends_are_the_next_round_numbers(weights: list[float], factor: float) -> None:
    assert Scale.of(weights, steps=12, fit=True).factor == pytest.approx(factor)


@given(WEIGHTS, st.integers(1, 12), st.booleans())
def test_levels_grow_with_the_weight_and_are_symmetric_about_one(
    weights: list[float], steps: int, fit: bool
) -> None:
    scale = Scale.of(weights, steps=steps, fit=fit)
    found = [scale.level(weight) for weight in sorted(weights)]
    assert found == sorted(found)
    assert all(-steps <= level <= steps for level in found)
    assert scale.level(1.0) == 0
    assert all(scale.level(weight) >= 0 for weight in weights if weight >= 1.0)
    if not scale.is_uniform:
        assert scale.level(scale.factor) == steps
        assert scale.level(1.0 / scale.factor) == -steps


@given(WEIGHTS, WEIGHTS)
def test_a_weight_has_one_level_whatever_the_other_weights_are(
    some: list[float], others: list[float]
) -> None:
    one, other = Scale.of([0.5, *some], steps=12), Scale.of([0.5, *others], steps=12)
    assert [one.level(weight) for weight in some] == [other.level(weight) for weight in some]


@pytest.mark.parametrize("steps", [1, 3, 5, 12])
def test_weights_near_one_have_no_colour_and_twice_or_half_has_the_strongest(steps: int) -> None:
    scale = Scale.of([0.1, 8.0], steps=steps)
    assert {scale.level(weight) for weight in (0.8, 0.86, 1.0, 1.0012, 1.25)} == {0}
    assert scale.level(1.26) == 1 and scale.level(0.79) == -1
    assert {scale.level(weight) for weight in (2.0, 8.0, math.inf)} == {steps, 0}  # inf: unknown
    assert {scale.level(weight) for weight in (0.5, 0.1, 0.0)} == {-steps}
    assert scale.clips_low and scale.clips_high


@given(WEIGHTS)
def test_no_weight_lies_above_a_fitted_scale(weights: list[float]) -> None:
    scale = Scale.of(weights, steps=12, fit=True)
    assert max(weights) <= scale.factor * (1.0 + 2e-6)
    assert scale.clips_low or min(weights) >= (1.0 - 2e-6) / scale.factor


@pytest.mark.parametrize("fit", [True, False])
def test_levels_are_equally_wide_from_the_neutral_band_to_the_end(fit: bool) -> None:
    scale = Scale.of([0.5, 8.0], steps=3, fit=fit)
    factor, neutral = (10.0, 10 ** (0.5 / 3)) if fit else (2.0, 1.25)
    assert (scale.factor, scale.neutral) == pytest.approx((factor, neutral))
    assert scale.start_of(1) == pytest.approx(neutral)
    assert scale.start_of(-3) == pytest.approx(1 / (neutral ** (1 / 3) * factor ** (2 / 3)))
    for level in (1, 2, 3):
        assert scale.level(scale.start_of(level) * 1.001) == level
        assert scale.level(scale.start_of(level) * 0.999) == level - 1
        assert scale.level(scale.start_of(-level) * 0.999) == -level


def test_numbers_have_the_digits_that_tell_them_from_one() -> None:
    near = Scale.of([0.9994, 1.0039], steps=12)
    assert near.number(1.0039) == "1.0039"
    assert near.number(1.005, short=True) == "1.005"
    wide = Scale.of([0.5, 5.43], steps=12)
    assert [wide.number(w) for w in (5.4321, 0.0123, 123.4, 0.00001)] == [
        "5.43",
        "0.012",
        "123",
        "1.0e-05",
    ]


def test_weights_below_zero_are_beyond_the_lower_end_and_keep_their_sign() -> None:
    weights = [-12.5, 40.0, 0.0, -0.004, -0.0004, -130.7]
    for fit in (True, False):
        scale = Scale.of(weights, steps=12, fit=fit)
        assert [scale.level(w) for w in weights] == [-12, 12, -12, -12, -12, -12]
        assert scale.clips_low and scale.low == -130.7
        texts = ["-12.50", "40.00", "0.00", "-0.004", "-4.0e-04", "-131"]
        assert [scale.number(w) for w in weights] == texts


def test_float32_rounding_is_no_spread_and_one_percent_is_near() -> None:
    assert Scale.of([1.0 - 1e-7, 1.0 + 1e-7], steps=12).is_uniform
    assert Scale.of([0.999, 1.004], steps=12).is_nearly_uniform
    assert not Scale.of([0.98, 1.02], steps=12).is_nearly_uniform


def test_spread_is_the_largest_distance_in_logarithms() -> None:
    assert spread([0.5, 1.0, 1.5]) == pytest.approx(math.log(2.0))
    assert spread([]) == 0.0
