"""Paired differences over seeds: against tables, written arithmetic and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgpo_cli.stats.paired import (
    adjusted,
    area_mean,
    last_mean,
    mean_over_seeds,
    paired_difference,
    power_of,
    seeds_needed,
    steps_to,
    whole_curve,
)

NAN = math.nan
# The additional hours of sleep of ten patients, by two drugs: Student, Biometrika 6 (1908), 20.
FIRST = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
SECOND = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]


def by_seed(values: list[float]) -> dict[int, float]:
    return dict(enumerate(values))


def test_the_difference_of_students_own_data_is_the_published_one() -> None:
    """t = 4.0621, p = 0.002833, interval 0.7001 to 2.4599, as R's t.test(paired) gives them."""
    found = paired_difference(by_seed(FIRST), by_seed(SECOND))
    assert found.seeds == 10
    assert found.mean == pytest.approx(1.58)
    assert found.mean / found.stderr == pytest.approx(4.0621, abs=5e-5)
    assert found.p == pytest.approx(0.002833, abs=5e-7)
    assert found.interval_95.low == pytest.approx(0.7001142, abs=5e-7)
    assert found.interval_95.high == pytest.approx(2.4598858, abs=5e-7)
    assert found.excludes_zero


def test_only_seeds_of_both_are_paired_and_the_others_are_told() -> None:
    old = {0: 1.0, 1: 2.0, 2: 3.0, 7: 9.0, 8: NAN}
    new = {0: 1.5, 1: 2.1, 2: NAN, 8: 1.0, 9: 5.0}
    found = paired_difference(old, new)
    assert (found.seeds, found.left_out) == (2, (2, 7, 8, 9))
    assert found.mean == pytest.approx(0.3)


def test_one_pair_has_a_difference_and_no_interval() -> None:
    found = paired_difference({3: 0.5}, {3: 0.75})
    assert found.mean == 0.25
    assert all(map(math.isnan, (found.stderr, found.p, *ends(found)))) and not found.excludes_zero
    assert found.seeds_for_point is None
    none = paired_difference({3: 0.5}, {4: 0.75})
    assert none.seeds == 0 and math.isnan(none.mean)


def ends(found) -> tuple[float, float]:
    return found.interval_95.low, found.interval_95.high


def test_equal_differences_show_no_spread_and_equal_variants_no_difference() -> None:
    lifted = paired_difference(by_seed([0.1, 0.2, 0.7]), by_seed([0.4, 0.5, 1.0]))
    assert lifted.mean == pytest.approx(0.3)
    assert math.isnan(lifted.p) and math.isnan(lifted.interval_95.low)
    same = paired_difference(by_seed([0.1, 0.2, 0.7]), by_seed([0.1, 0.2, 0.7]))
    assert (same.mean, same.p, ends(same)) == (0.0, 1.0, (0.0, 0.0))
    assert not same.excludes_zero


def test_the_mean_over_seeds_has_the_error_over_seeds() -> None:
    found = mean_over_seeds({0: 1.0, 1: 2.0, 2: 6.0, 3: NAN})
    assert (found.seeds, found.mean) == (3, 3.0)
    assert found.stderr == pytest.approx(math.sqrt(7) / math.sqrt(3))
    assert found.interval_95.half_width == pytest.approx(4.30265 * found.stderr, rel=1e-5)
    assert math.isnan(mean_over_seeds({}).mean)


@pytest.mark.parametrize("seeds", [2, 3, 6, 10])
def test_the_interval_holds_the_truth_as_often_as_it_says(seeds: int) -> None:
    """The pairs share most of their noise; 1,000 studies have a standard error of 0.7%."""
    rng, held, studies = np.random.default_rng(seeds), 0, 1000
    for _ in range(studies):
        shared = rng.normal(0.6, 0.05, seeds)
        old = shared + rng.normal(0, 0.003, seeds)
        new = shared + 0.002 + rng.normal(0, 0.006, seeds)
        low, high = ends(paired_difference(by_seed(list(old)), by_seed(list(new))))
        held += low <= 0.002 <= high
    assert 0.93 <= held / studies <= 0.97


@pytest.mark.parametrize("effects", [(0.0,) * 7, (0.02, 0.01, 0.0, 0.0, 0.0, 0.0, 0.0)])
def test_holm_rarely_shows_any_difference_that_is_not_there(effects: tuple[float, ...]) -> None:
    """All variants share the baseline, so their tests depend on each other."""
    rng, wrong, uncorrected, studies = np.random.default_rng(1), 0, 0, 400
    for _ in range(studies):
        base = rng.normal(0, 0.005, 6)
        found = adjusted(
            [
                paired_difference(by_seed(list(base)), by_seed(list(rng.normal(e, 0.005, 6))))
                for e in effects
            ]
        )
        null = [each for each, effect in zip(found, effects, strict=True) if effect == 0.0]
        wrong += any(each.shown for each in null)
        uncorrected += any(each.p < 0.05 for each in null)
    assert wrong / studies <= 0.08
    assert uncorrected / studies > 0.12  # what is measured here can fail


def test_unknown_p_values_do_not_count_among_those_that_are_compared() -> None:
    known = paired_difference(by_seed(FIRST), by_seed(SECOND))
    alone = paired_difference({0: 1.0}, {0: 2.0})
    first, missing, last = adjusted([known, alone, known])
    assert first.p_holm == last.p_holm == 2 * known.p
    assert math.isnan(missing.p_holm) and not missing.shown


# Pairs that a two-sided t test at 5% needs for power 0.8: G*Power 3.1, means of matched pairs.
@pytest.mark.parametrize(("effect", "pairs"), [(0.2, 199), (0.5, 34), (0.8, 15), (1.0, 10)])
def test_seeds_needed_are_those_of_the_tables(effect: float, pairs: int) -> None:
    assert seeds_needed(0.01 / effect) == pairs
    assert power_of(effect, seeds=pairs) >= 0.8 > power_of(effect, seeds=pairs - 1)


def test_power_without_an_effect_is_the_level_of_the_test() -> None:
    for seeds in (2, 3, 10, 200):
        assert power_of(0.0, seeds=seeds) == pytest.approx(0.05, abs=1e-6)


def test_as_many_seeds_as_needed_find_the_difference_as_often_as_planned() -> None:
    spread, rng, studies = 0.009, np.random.default_rng(5), 1000
    seeds = seeds_needed(spread)
    assert seeds is not None
    pairs = rng.normal(0.01, spread, (studies, seeds))
    zero = by_seed([0.0] * seeds)
    shown = sum(paired_difference(zero, by_seed(list(row))).p < 0.05 for row in pairs)
    assert shown / studies == pytest.approx(power_of(0.01 / spread, seeds=seeds), abs=0.04)


def test_seeds_needed_grow_with_the_square_of_the_spread() -> None:
    assert seeds_needed(0.0) == 2
    assert seeds_needed(NAN) is None
    near, far = seeds_needed(0.1599), seeds_needed(0.1601)  # on both sides of the normal limit
    assert near is not None and far is not None and 0 <= far - near <= 8
    assert seeds_needed(10.0) == pytest.approx(7.849e6, rel=1e-3)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_a_curve_without_gaps_is_itself(values: list[float]) -> None:
    points = list(enumerate(values, start=1))
    assert whole_curve(points, steps=len(values)) == values


def test_gaps_are_bridged_and_a_curve_of_gaps_is_none() -> None:
    points: list[tuple[float, float | None]] = [(at, float(at)) for at in range(1, 21)]
    points[4] = (5, None)
    points[0] = (1, NAN)
    assert whole_curve(points, steps=20) == [2.0, *map(float, range(2, 21))]
    assert whole_curve(points[:19], steps=20) is None  # three are missing
    assert whole_curve([], steps=3) is None
    assert whole_curve([(2, 1.0), (1, 3.0), (2, 5.0), (9, 7.0)], steps=2) == [3.0, 5.0]


def test_the_area_and_the_end_of_a_curve_are_means() -> None:
    curve = [0.0, 0.5, 1.0, 0.7]
    assert area_mean(curve) == pytest.approx(0.55)
    assert last_mean(curve, window=2) == pytest.approx(0.85)
    assert last_mean(curve, window=10) == pytest.approx(0.55)


def test_a_level_is_reached_when_the_mean_of_the_window_is() -> None:
    curve = [0.0, 1.0, 0.0, 0.5, 0.6, 0.7]
    assert steps_to(0.5, curve, window=2) == 2
    assert steps_to(0.55, curve, window=2) == 5
    assert steps_to(0.55, curve, window=3) == 6
    assert steps_to(0.7, curve, window=2) is None
    assert steps_to(area_mean(curve), curve, window=10) == 6  # the whole run is its only window
