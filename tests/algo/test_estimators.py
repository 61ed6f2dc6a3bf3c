"""Avg@k, its errors, pass@j and maj@k against enumeration and simulation."""

import itertools
import math
import random
from statistics import fmean, stdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgpo_cli.algo.estimators import (
    ProblemSamples,
    avg_at_k,
    majority_correct,
    pass_at,
    pass_levels,
    stderr_problems,
    stderr_rerun,
    summarise,
)
from dgpo_cli.types import Outcome, ProblemResult, Verdict


def verdict(outcome: Outcome, extracted: str | None = None) -> Verdict:
    return Verdict(outcome=outcome, extracted=extracted, reward=float(outcome == "correct"))


def votes(*answers: str | None, right: str = "4") -> list[Verdict]:
    return [
        verdict("no_answer") if a is None else verdict("correct" if a == right else "wrong", a)
        for a in answers
    ]


def test_pass_at_equals_counting_all_subsets() -> None:
    for k in range(1, 8):
        for correct in range(k + 1):
            samples = [i < correct for i in range(k)]
            for j in range(1, k + 1):
                subsets = list(itertools.combinations(samples, j))
                share = sum(any(subset) for subset in subsets) / len(subsets)
                assert pass_at(j, correct=correct, k=k) == pytest.approx(share, rel=1e-12)


@given(st.integers(1, 300), st.data())
def test_pass_at_one_is_the_share_and_pass_at_k_asks_for_any(k: int, data: st.DataObject) -> None:
    correct = data.draw(st.integers(0, k))
    assert pass_at(1, correct=correct, k=k) == pytest.approx(correct / k, rel=1e-12)
    assert pass_at(k, correct=correct, k=k) == float(correct > 0)


def test_pass_at_survives_many_samples() -> None:
    # 1 - (1 - 1/4096)...: one correct of 4096 is among 2048 drawn half of the time
    assert pass_at(2048, correct=1, k=4096) == 0.5


@pytest.mark.parametrize("j", [0, 5, -1])
def test_pass_at_refuses_more_than_was_sampled(j: int) -> None:
    with pytest.raises(ValueError, match="k=4"):
        pass_at(j, correct=1, k=4)


def test_pass_levels_are_powers_of_two_and_k() -> None:
    assert pass_levels(1) == (1,)
    assert pass_levels(8) == (1, 2, 4, 8)
    assert pass_levels(12) == (1, 2, 4, 8, 12)
    assert pass_levels(32) == (1, 2, 4, 8, 16, 32)


def test_errors_by_hand() -> None:
    # k = 4; p = 1/2 and 1/4: (1/4 + 3/16) / 3 = 7/48 is the sum of the variances
    assert avg_at_k([2, 1], k=4) == 0.375
    assert stderr_rerun([2, 1], k=4) == pytest.approx(math.sqrt(7 / 48) / 2)
    assert stderr_problems([2, 1], k=4) == pytest.approx((0.25 / math.sqrt(2)) / math.sqrt(2))


@given(st.integers(1, 40).flatmap(lambda k: st.tuples(
    st.just(k), st.lists(st.integers(0, k), min_size=2, max_size=20)
)))  # fmt: skip
def test_error_over_problems_is_the_sample_deviation_of_their_means(
    drawn: tuple[int, list[int]],
) -> None:
    k, correct = drawn
    means = [c / k for c in correct]
    expected = stdev(means) / math.sqrt(len(means))
    assert stderr_problems(correct, k=k) == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert avg_at_k(correct, k=k) == pytest.approx(fmean(means))


def test_what_cannot_be_known_is_nan() -> None:
    assert math.isnan(stderr_rerun([1, 0, 1], k=1))
    assert math.isnan(stderr_problems([3], k=4))


def test_rerun_error_is_unbiased_and_covers_the_truth() -> None:
    """Reruns of fixed problems: the mean squared error is the true variance, 95 % is covered."""
    rng = random.Random(20260504)
    chances, k = [rng.betavariate(1.0, 1.5) for _ in range(30)], 16
    truth = fmean(chances)
    true_variance = sum(p * (1 - p) / k for p in chances) / len(chances) ** 2
    squares, covered, runs = 0.0, 0, 2000
    for _ in range(runs):
        correct = [sum(rng.random() < p for _ in range(k)) for p in chances]
        error = stderr_rerun(correct, k=k)
        squares += error**2
        covered += abs(avg_at_k(correct, k=k) - truth) <= 1.96 * error
    assert squares / runs == pytest.approx(true_variance, rel=0.02)
    assert 0.935 <= covered / runs <= 0.965


def test_problem_error_covers_the_mean_of_all_problems() -> None:
    rng = random.Random(7)
    truth, covered, runs, k = 1.0 / 2.5, 0, 1500, 8
    for _ in range(runs):
        chances = [rng.betavariate(1.0, 1.5) for _ in range(30)]
        correct = [sum(rng.random() < p for _ in range(k)) for p in chances]
        covered += abs(avg_at_k(correct, k=k) - truth) <= 2.045 * stderr_problems(correct, k=k)
    assert 0.93 <= covered / runs <= 0.97  # 2.045: Student's t with 29 degrees of freedom


def test_majority_by_hand() -> None:
    assert majority_correct(votes("4", "4", "5")) == 1.0
    assert majority_correct(votes("5", "5", "4")) == 0.0
    assert majority_correct(votes("4", "5")) == 0.5
    assert majority_correct(votes("4", "5", "6")) == pytest.approx(1 / 3)
    assert majority_correct(votes("4", None, None, None)) == 1.0
    assert majority_correct(votes(None, None)) == 0.0


def test_majority_counts_one_number_however_it_is_written() -> None:
    assert majority_correct(
        [verdict("correct", "4"), verdict("correct", " +04 "), verdict("wrong", "5")]
    ) == 1.0  # fmt: skip
    split = [verdict("wrong", "-04"), verdict("wrong", "-4"), verdict("correct", "4")]
    assert majority_correct(split) == 0.0


@given(st.permutations(["4", "4", "7", "7", "x y", "x  y", None]))
def test_majority_does_not_depend_on_the_order(answers: list[str | None]) -> None:
    assert majority_correct(votes(*answers)) == pytest.approx(1 / 3)


def test_summary_by_hand() -> None:
    report = summarise(
        "sums",
        [
            ("a", "4", votes("4", "4", "5", None), [10, 20, 30, 40]),
            ProblemSamples("b", "4", [*votes("5", "4", "5"), verdict("truncated")], [1, 1, 1, 97]),
        ],
    )
    assert (report.bench, report.k, report.n_problems) == ("sums", 4, 2)
    assert report.avg_at_k == 0.375
    assert report.stderr_rerun == pytest.approx(math.sqrt(7 / 48) / 2)
    assert report.stderr_problems == pytest.approx(0.125)
    # pass@2 of 2 in 4: 1 - 1/6; of 1 in 4: 1 - 3/6
    assert report.pass_at_k == {1: 0.375, 2: pytest.approx((5 / 6 + 1 / 2) / 2), 4: 1.0}
    assert report.maj_at_k == 0.5
    assert report.truncated == 0.125
    assert report.no_answer == 0.125
    assert report.mean_tokens == 25.0
    assert report.problems == (ProblemResult("a", "4", 2), ProblemResult("b", "4", 1))


def test_summary_refuses_what_it_cannot_compare() -> None:
    with pytest.raises(ValueError, match="sums"):
        summarise("sums", [])
    with pytest.raises(ValueError, match="equally many"):
        summarise("sums", [("a", "4", votes("4"), [1]), ("b", "4", votes("4", "4"), [1, 1])])
    with pytest.raises(ValueError, match="equally many"):
        summarise("sums", [("a", "4", [], [])])
