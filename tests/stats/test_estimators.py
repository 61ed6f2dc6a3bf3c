"""Avg@k, its errors, pass@j and maj@k against enumeration and simulation."""

import itertools
import math
from statistics import fmean, stdev

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgpo_cli.core.types import Disagreement, Interval, Outcome, ProblemResult, Verdict
from dgpo_cli.stats.estimators import (
    ProblemSamples,
    avg_at_k,
    length_summary,
    majority_correct,
    pass_at,
    pass_curve,
    stderr_problems,
    stderr_rerun,
    summarise,
)
from dgpo_cli.stats.intervals import problems_interval, rerun_interval


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


def test_one_of_32_is_enough_for_pass_at_32_and_the_curve_has_every_j() -> None:
    curve = pass_curve([1], k=32)
    assert list(curve) == list(range(1, 33))
    assert curve[32] == 1.0 and curve[16] == 0.5 and curve[1] == 1 / 32


def test_the_curve_is_the_mean_over_problems() -> None:
    counts = [0, 3, 3, 7, 8]
    for j, value in pass_curve(counts, k=8).items():
        expected = fmean(pass_at(j, correct=c, k=8) for c in counts)
        assert value == pytest.approx(expected, rel=1e-12)


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


def test_rerun_error_is_unbiased() -> None:
    """Reruns of fixed problems: the mean squared error is the true variance."""
    rng = np.random.default_rng(20260504)
    chances, k, runs = rng.beta(1.0, 1.5, 30), 16, 2000
    true_variance = float((chances * (1 - chances) / k).sum()) / 30**2
    counts = rng.binomial(k, chances, size=(runs, 30))
    squares = [stderr_rerun(correct, k=k) ** 2 for correct in counts.tolist()]
    assert fmean(squares) == pytest.approx(true_variance, rel=0.02)
    assert (counts.mean(axis=1) / k).var() == pytest.approx(true_variance, rel=0.1)


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


@given(st.lists(st.sampled_from("4567"), min_size=1, max_size=9))
def test_majority_is_the_share_of_the_tied_answers_that_are_right(answers: list[str]) -> None:
    most = max(answers.count(answer) for answer in answers)
    tied = [answer for answer in "4567" if answers.count(answer) == most]
    assert majority_correct(votes(*answers)) == pytest.approx(tied.count("4") / len(tied))


def test_answers_that_were_judged_right_are_one_answer_however_written() -> None:
    split = [verdict("correct", "1/2"), verdict("correct", "0.5"), *votes("3", "3")]
    assert majority_correct(split) == 0.5  # two against two


@given(st.permutations(["4", "4", "7", "7", "x y", "x  y", None]))
def test_majority_does_not_depend_on_the_order(answers: list[str | None]) -> None:
    assert majority_correct(votes(*answers)) == pytest.approx(1 / 3)


def test_summary_by_hand() -> None:
    report = summarise(
        "sums",
        [
            ProblemSamples("a", "4", votes("4", "4", "5", None), [10, 20, 30, 40]),
            ProblemSamples("b", "4", [*votes("5", "4", "5"), verdict("truncated")], [1, 1, 1, 97]),
        ],
    )
    assert (report.bench, report.k, report.n_problems) == ("sums", 4, 2)
    assert report.avg_at_k == 0.375
    assert report.stderr_rerun == pytest.approx(math.sqrt(7 / 48) / 2)
    assert report.stderr_problems == pytest.approx(0.125)
    # pass@2 of 2 in 4: 1 - 1/6; of 1 in 4: 1 - 3/6
    # pass@3: 1 and 1 - 1/4
    expected = {1: 0.375, 2: pytest.approx((5 / 6 + 1 / 2) / 2), 3: 0.875, 4: 1.0}
    assert report.pass_at_k == expected
    assert report.rerun_95 == rerun_interval([2, 1], k=4)
    assert report.problems_95 == problems_interval([2, 1], k=4)
    assert report.maj_at_k == 0.5
    assert report.truncated == 0.125
    assert report.if_truncated == Interval(0.375, 0.5)
    assert report.no_answer == 0.125
    assert (report.out_of_range, report.unjudged, report.duplicates) == (0.0, 0.0, 0)
    assert report.lengths == length_summary([10, 20, 30, 40, 1, 1, 1, 97])
    assert report.lengths_right == length_summary([10, 20, 1])
    assert report.lengths_wrong == length_summary([30, 40, 1, 1, 97])
    assert math.isnan(report.tokens_per_s)
    first, second = report.problems
    assert first == ProblemResult(
        "a", "4", 2, 1.0, ("correct", "correct", "wrong", "no_answer"), (10, 20, 30, 40)
    )
    assert (second.correct, second.majority, second.lengths) == (1, 0.0, (1, 1, 1, 97))


def test_summary_counts_what_was_not_judged_and_keeps_what_it_is_told() -> None:
    verdicts = [verdict(o) for o in ("timeout", "crash", "out_of_range", "correct")]
    odd = Disagreement("a", 2, "4", "5", "out_of_range", "correct")
    report = summarise(
        "sums",
        [ProblemSamples("a", "4", verdicts, [1, 2, 3, 4])],
        sampled_tokens=300,
        sampling_s=1.5,
        duplicates=2,
        disagreements=[odd],
    )
    assert (report.unjudged, report.out_of_range, report.avg_at_k) == (0.5, 0.25, 0.25)
    assert (report.tokens_per_s, report.duplicates) == (200.0, 2)
    assert report.disagreements == (odd,)


@given(st.lists(st.integers(1, 40_000), min_size=1, max_size=60))
def test_quantiles_of_lengths_are_those_of_numpy(lengths: list[int]) -> None:
    found = length_summary(lengths)
    expected = np.quantile(lengths, [0.1, 0.5, 0.9])
    assert [found.p10, found.p50, found.p90] == pytest.approx(expected.tolist(), rel=1e-12)
    assert (found.count, found.max) == (len(lengths), max(lengths))
    assert found.mean == pytest.approx(fmean(lengths))


def test_no_lengths_have_no_mean() -> None:
    found = length_summary([])
    assert found.count == 0
    assert all(math.isnan(x) for x in (found.mean, found.p10, found.p50, found.p90, found.max))


def test_summary_refuses_what_it_cannot_compare() -> None:
    with pytest.raises(ValueError, match="sums"):
        summarise("sums", [])
    with pytest.raises(ValueError, match="equally many"):
        summarise(
            "sums",
            [
                ProblemSamples("a", "4", votes("4"), [1]),
                ProblemSamples("b", "4", votes("4", "4"), [1, 1]),
            ],
        )
    with pytest.raises(ValueError, match="equally many"):
        summarise("sums", [ProblemSamples("a", "4", [], [])])
