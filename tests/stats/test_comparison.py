"""Paired comparisons: p-values against brute force, intervals and power against simulation."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgpo_cli.core.types import Interval, Outcome, ProblemResult
from dgpo_cli.stats import permutation
from dgpo_cli.stats.comparison import (
    compare_runs,
    over_problems,
    rerun_difference,
    smallest_problems,
    smallest_rerun,
)
from dgpo_cli.stats.intervals import student_quantile
from dgpo_cli.stats.permutation import fisher, holm, shuffled_samples, sign_flip

SIZES = st.integers(-6, 6)


def result(name: str, correct: int, *, k: int) -> ProblemResult:
    outcomes: tuple[Outcome, ...] = ("correct",) * correct + ("wrong",) * (k - correct)
    return ProblemResult(name, "1", correct, float(2 * correct > k), outcomes, (5,) * k)


def results(correct: Sequence[int], *, k: int) -> list[ProblemResult]:
    return [result(f"p{at}", c, k=k) for at, c in enumerate(correct)]


@settings(deadline=None)  # lists up to 512 permutations
@given(st.lists(SIZES, min_size=1, max_size=9))
def test_flipped_signs_equal_the_list_of_all_of_them(differences: list[int]) -> None:
    signs = itertools.product((1, -1), repeat=len(differences))
    sums = [abs(sum(s * d for s, d in zip(sign, differences, strict=True))) for sign in signs]
    share = sum(x >= abs(sum(differences)) for x in sums) / len(sums)
    found = sign_flip(differences)
    assert found.exact and found.p == pytest.approx(share, rel=1e-12)


def test_no_difference_has_p_one_exactly() -> None:
    assert sign_flip([0, 0, 0]) == (1.0, True)
    assert sign_flip([3, -3]) == (1.0, True)
    assert shuffled_samples([3, 1], [1, 3], k_before=4, k_after=4) == 1.0


def test_all_problems_better_has_the_least_p_there_is() -> None:
    assert sign_flip([1] * 30).p == 2 / 2**30
    assert sign_flip([-960] * 30).p == 2 / 2**30


def test_drawn_signs_are_near_the_exact_ones_and_never_below_one_in_the_draws() -> None:
    differences = [5, -2, 3, 7, -1, 4, 0, 2, -6, 8, 3, 1]
    exact, drawn = sign_flip(differences), sign_flip(differences, exact_work=0)
    assert exact.exact and not drawn.exact
    error = math.sqrt(exact.p * (1 - exact.p) / permutation.DRAWS)
    assert abs(drawn.p - exact.p) < 4 * error
    assert drawn == sign_flip(differences, exact_work=0)
    assert sign_flip([9] * 40, exact_work=0).p == 1 / (permutation.DRAWS + 1)


def test_many_problems_are_exact_too() -> None:
    rng = np.random.default_rng(0)
    differences = rng.integers(-32, 34, 500).tolist()
    found = sign_flip(differences)
    deviations = abs(sum(differences)) / math.sqrt(sum(d * d for d in differences))
    assert found.exact
    assert found.p == pytest.approx(math.erfc(deviations / math.sqrt(2)), rel=0.02)


@pytest.mark.parametrize(("k_before", "k_after"), [(2, 2), (3, 2), (1, 3)])
def test_exchanged_samples_equal_the_list_of_all_exchanges(k_before: int, k_after: int) -> None:
    pool = k_before + k_after
    for before, after in (((0, 1), (1, k_after)), ((k_before, 0), (0, 1)), ((1, 1), (1, 1))):
        ways = []
        for b, a in zip(before, after, strict=True):
            solved = [1] * (b + a) + [0] * (pool - b - a)
            ways.append([sum(chosen) for chosen in itertools.combinations(solved, k_after)])
        totals = [sum(x) for x in itertools.product(*ways)]
        expected = k_after * (sum(before) + sum(after)) / pool
        observed = abs(sum(after) - expected)
        share = sum(abs(t - expected) >= observed - 1e-9 for t in totals) / len(totals)
        found = shuffled_samples(before, after, k_before=k_before, k_after=k_after)
        assert found == pytest.approx(share, rel=1e-12)


def test_the_test_of_one_problem_equals_the_list_of_all_tables() -> None:
    for k_before, k_after in ((4, 4), (5, 3)):
        for before, after in itertools.product(range(k_before + 1), range(k_after + 1)):
            solved = [1] * (before + after) + [0] * (k_before + k_after - before - after)
            counts = [sum(c) for c in itertools.combinations(solved, k_after)]
            often = {count: counts.count(count) for count in set(counts)}
            share = sum(n for n in often.values() if n <= often[after]) / len(counts)
            found = fisher(before, after, k_before=k_before, k_after=k_after)
            assert found == pytest.approx(share, rel=1e-12)
    # Fisher's tea: 4 cups of each kind, 3 told rightly: 34 / 70
    assert fisher(1, 3, k_before=4, k_after=4) == pytest.approx(34 / 70)


def test_holm_by_hand() -> None:
    # sorted 0.01, 0.02, 0.03, 0.5 times 4, 3, 2, 1, never falling
    assert holm([0.02, 0.5, 0.01, 0.03]) == pytest.approx([0.06, 0.5, 0.04, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_a_comparison_by_hand() -> None:
    found = compare_runs(results([0, 4, 1], k=4), results([2, 1, 2], k=4))
    assert (found.before, found.after) == pytest.approx((5 / 12, 5 / 12))
    assert found.difference == 0.0
    assert found.p_rerun == 1.0 and found.p_problems == 1.0
    # rerun: (0 + 0 + 3/16) / 3 and (4 + 3 + 4) / 16 / 3, together / 3 problems
    assert found.stderr_rerun == pytest.approx(math.sqrt((3 / 16 + 11 / 16) / 3) / 3)
    # differences 2/4, -3/4, 1/4: squares 14/16 over 2, over 3
    assert found.stderr_problems == pytest.approx(math.sqrt(14 / 16 / 2 / 3))
    flipped = {change.id: change.flipped for change in found.changes}
    assert flipped == {"p0": None, "p1": "lost", "p2": None}  # half is no majority
    assert [change.difference for change in found.changes] == [0.5, -0.75, 0.25]
    assert found.changes[1].p == fisher(4, 1, k_before=4, k_after=4)
    assert found.changes[1].p_holm == holm([c.p for c in found.changes])[1]


def test_a_problem_flips_when_the_majority_does_and_half_is_none() -> None:
    found = compare_runs(results([2, 2, 3, 3, 1], k=4), results([0, 3, 2, 4, 3], k=4))
    assert [c.flipped for c in found.changes] == [None, "gained", "lost", None, "gained"]


def test_identical_runs_have_p_one_and_no_change() -> None:
    run = results([0, 3, 8, 5, 8], k=8)
    found = compare_runs(run, run)
    assert (found.difference, found.p_rerun, found.p_problems) == (0.0, 1.0, 1.0)
    assert all(change.p == 1.0 and change.flipped is None for change in found.changes)


def test_a_comparison_mirrors_when_the_runs_change_places() -> None:
    old, new = results([0, 3, 8, 5, 8, 2], k=8), results([2, 6, 7, 8, 8, 3], k=8)
    there, back = compare_runs(old, new), compare_runs(new, old)
    assert there.difference == -back.difference
    assert (there.p_rerun, there.p_problems) == pytest.approx((back.p_rerun, back.p_problems))
    mirrored = (-back.rerun_95.high, -back.rerun_95.low)
    assert (there.rerun_95.low, there.rerun_95.high) == pytest.approx(mirrored)


def test_different_k_are_compared_by_their_shares() -> None:
    found = compare_runs(results([4, 1], k=4), results([6, 3], k=6))
    assert found.difference == pytest.approx((0 + 0.25) / 2)
    assert found.p_problems == 1.0  # one difference, either sign
    assert (found.k_before, found.k_after) == (4, 6)


def test_other_problems_are_refused() -> None:
    with pytest.raises(ValueError, match="same problems"):
        compare_runs(results([1, 2], k=4), results([1], k=4))
    with pytest.raises(ValueError, match="at least one"):
        compare_runs([], [])


def test_one_problem_has_no_error_over_problems() -> None:
    found = compare_runs(results([1], k=4), results([3], k=4))
    unknown = (found.stderr_problems, found.problems_95.low, found.smallest_problems)
    assert all(map(math.isnan, unknown))


def over(before: Sequence[int], after: Sequence[int], *, k: int) -> Interval:
    return compare_runs(results(before, k=k), results(after, k=k)).problems_95


def test_no_change_of_problems_at_an_edge_leaves_open_what_two_more_of_them_may_do() -> None:
    # 30 differences of 0, one of 1 and one of -1: variance 2 / 31, over 32
    half = student_quantile(0.975, freedom=29) * math.sqrt(2 / 31 / 32)
    for correct in ([8] * 30, [0] * 30, [0, 8] * 15):
        found = over(correct, correct, k=8)
        assert (found.low, found.high) == pytest.approx((-half, half))
    # 30 rates below 8.5% are likely to show no change: 0.915^30 is 7%
    assert half > 0.085


def test_a_change_of_all_problems_leaves_open_that_others_do_not_change() -> None:
    found = over([0] * 30, [8] * 30, k=8)
    mean, square = 30 / 32, (30 + 2) / 32
    half = student_quantile(0.975, freedom=29) * math.sqrt((square - mean**2) / 31)
    assert (found.low, found.high) == (pytest.approx(mean - half), 1.0)


def test_over_middling_problems_the_interval_is_that_of_student() -> None:
    # shares of 3/8 and 5/8, so nearly no weight: (1/4)^8
    before, after = [3, 5] * 15, [5, 3, 5, 5, 3, 5] * 5
    differences = [(b - a) / 8 for a, b in zip(before, after, strict=True)]
    half = student_quantile(0.975, freedom=29) * np.std(differences, ddof=1) / math.sqrt(30)
    found = over_problems([c / 8 for c in before], [c / 8 for c in after]).interval()
    ends = np.mean(differences) - half, np.mean(differences) + half
    assert (found.low, found.high) == pytest.approx(ends, abs=1e-4)


def test_equal_changes_keep_the_width_of_a_rerun() -> None:
    found = compare_runs(results([4] * 30, k=16), results([10] * 30, k=16))
    assert found.stderr_problems == 0.0
    assert found.problems_95.low <= found.rerun_95.low < found.difference
    assert found.problems_95.high >= found.rerun_95.high > found.difference


COUNTS = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=2, max_size=20)


@settings(deadline=None)
@given(COUNTS)
def test_the_interval_over_problems_contains_that_of_a_rerun(
    counts: list[tuple[int, int]],
) -> None:
    before, after = zip(*counts, strict=True)
    found = compare_runs(results(before, k=8), results(after, k=8))
    assert found.problems_95.low <= found.rerun_95.low <= found.difference + 1e-12
    assert found.problems_95.high >= found.rerun_95.high >= found.difference - 1e-12


@settings(deadline=None)
@given(COUNTS)
def test_the_interval_over_problems_goes_with_the_sign_test(counts: list[tuple[int, int]]) -> None:
    before, after = zip(*counts, strict=True)
    found = compare_runs(results(before, k=8), results(after, k=8))
    low, high = found.problems_95.low, found.problems_95.high
    rerun = found.rerun_95
    if found.p_problems >= 0.05:
        assert low <= 0 <= high
    else:  # it ends at 0 at the latest, unless a rerun alone goes further
        assert low >= min(0.0, rerun.low) if found.difference > 0 else high <= max(0.0, rerun.high)


def test_many_small_changes_of_one_sign_show_near_an_edge_too() -> None:
    # every problem from 61 to 63 of 64: p is 2 / 2^30, so 0 is not left open
    assert over([61] * 30, [63] * 30, k=64).low > 0.0


@pytest.mark.parametrize("edge", [False, True])
def test_the_rerun_interval_of_the_difference_covers_it(edge: bool) -> None:
    rng = np.random.default_rng(11)
    chances = np.where(np.arange(30) % 2 == 0, 0.01, 0.99) if edge else rng.beta(1.0, 1.5, 30)
    later = np.clip(chances + 0.05, 0.0, 1.0)
    truth = (later - chances).mean()
    runs, k = 1200, 16
    old, new = rng.binomial(k, chances, (runs, 30)), rng.binomial(k, later, (runs, 30))
    found = [
        rerun_difference(a, b, k_before=k, k_after=k)
        for a, b in zip(old.tolist(), new.tolist(), strict=True)
    ]
    covered = np.mean([i.low <= truth <= i.high for i in found])
    assert 0.93 <= covered <= (1.0 if edge else 0.97)


def test_equal_models_are_told_apart_in_one_case_of_twenty() -> None:
    rng = np.random.default_rng(5)
    chances, k, runs = rng.beta(1.0, 1.5, 30), 8, 600
    false = {"rerun": 0, "problems": 0}
    for _ in range(runs):
        old, new = rng.binomial(k, chances).tolist(), rng.binomial(k, chances).tolist()
        false["rerun"] += shuffled_samples(old, new, k_before=k, k_after=k) < 0.05
        differences = [b - a for a, b in zip(old, new, strict=True)]
        false["problems"] += sign_flip(differences).p < 0.05
    for count in false.values():
        assert 0.02 <= count / runs <= 0.065


def test_the_smallest_difference_is_found_in_four_cases_of_five() -> None:
    """The true difference is set to what `smallest_*` says on average; power is then 80%."""
    rng = np.random.default_rng(9)
    chances, k, runs = rng.uniform(0.25, 0.65, 30), 16, 600

    def drawn(shift: float) -> list[tuple[list[int], list[int]]]:
        old = rng.binomial(k, chances, (runs, 30)).tolist()
        new = rng.binomial(k, chances + shift, (runs, 30)).tolist()
        return list(zip(old, new, strict=True))

    shift = float(np.mean([smallest_rerun(rerun_difference(a, b, k_before=k, k_after=k))
                           for a, b in drawn(0.05)]))  # fmt: skip
    found = [shuffled_samples(a, b, k_before=k, k_after=k) < 0.05 for a, b in drawn(shift)]
    assert 0.75 <= np.mean(found) <= 0.85

    def differences(pair: tuple[list[int], list[int]]) -> list[int]:
        return [b - a for a, b in zip(*pair, strict=True)]

    errors = [np.std(differences(pair), ddof=1) / k / math.sqrt(30) for pair in drawn(0.05)]
    shift = float(np.mean([smallest_problems(float(error), n=30) for error in errors]))
    found = [sign_flip(differences(pair)).p < 0.05 for pair in drawn(shift)]
    assert 0.75 <= np.mean(found) <= 0.87


def test_the_smallest_difference_on_other_problems_is_not_below_that_on_these() -> None:
    assert smallest_problems(0.01, n=30, rerun=0.02) == smallest_problems(0.02, n=30)
    assert smallest_problems(0.03, n=30, rerun=math.nan) == smallest_problems(0.03, n=30)
    assert math.isnan(smallest_problems(0.0, n=30))
    assert math.isnan(smallest_problems(0.1, n=1))
    assert smallest_problems(0.2, n=3) == math.inf  # (4.303 + 1.061) * 0.2 is more than 1
