"""The table of many evaluations: which model is marked as best, and what a mean says."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.intervals import strong
from dgpo_cli.core.types import Interval
from dgpo_cli.evals.matrix.table import MEAN, Attempt, Table, make_table, mean_interval
from tests.evals.tables import attempt, shown_table
from tests.samples import card, evaluation


def best(table: Table, bench: str = "sums") -> list[str | None]:
    cells = table.means if bench == MEAN else table.column(bench)
    return [cell.best for cell in cells]


def counts(model: str, correct: list[int], *, bench: str = "sums", k: int = 8) -> Attempt:
    found = replace(evaluation(tuple(correct), k=k), bench=bench)
    return Attempt(model, bench, found, card(bench=bench))


def test_a_model_far_ahead_of_all_others_is_marked() -> None:
    table = make_table([attempt("a", "sums", 0.3), attempt("b", "sums", 0.8)])
    assert best(table) == [None, "all"]


def test_a_model_ahead_on_these_problems_alone_is_not_said_to_be_ahead_on_others() -> None:
    # Two problems of 30 decide: certain for these, chance for others.
    same = [8] * 14 + [0] * 14
    table = make_table([counts("a", [*same, 0, 0]), counts("b", [*same, 8, 8])])
    assert best(table) == [None, "these"]


def test_ties_and_close_calls_are_not_marked() -> None:
    assert best(make_table([counts("a", [4] * 30), counts("b", [4] * 30)])) == [None, None]
    near = make_table([counts("a", [4] * 30), counts("b", [*([4] * 29), 5])])
    assert best(near) == [None, None]


def test_the_best_must_be_ahead_of_every_other_model() -> None:
    two = [attempt("a", "sums", 0.3), attempt("b", "sums", 0.8)]
    rival = attempt("c", "sums", 0.79, seed=1)
    assert best(make_table([*two, rival])) == [None, None, None]


def test_nothing_is_marked_where_a_model_is_missing_or_not_comparable() -> None:
    two = [attempt("a", "sums", 0.3), attempt("b", "sums", 0.8)]
    failed = Attempt("c", "sums", failure="no such model")
    assert best(make_table([*two, failed])) == [None, None, None]
    hotter = replace(two[1], card=card(bench="sums", temperature=1.0))
    table = make_table([two[0], hotter])
    assert best(table) == [None, None]
    (note,) = table.notes
    assert note == ("sums: no model is marked, a and b differ in protocol.temperature: 0.6 -> 1.0")
    alone = make_table(two[:1])
    assert best(alone) == [None] and alone.notes == ()


def test_models_that_are_equally_good_are_rarely_marked() -> None:
    """Of the columns of three equal models at most 5% have a mark: no need to adjust for rows."""
    rng = np.random.default_rng(0)
    marked = 0
    for _ in range(400):
        chances = strong(rng, 30)
        rows = [counts(name, rng.binomial(8, chances).tolist()) for name in "abc"]
        marked += any(best(make_table(rows)))
    assert marked <= 400 * 0.05


def test_a_greedy_evaluation_has_no_error_and_its_lead_counts_for_other_problems_only() -> None:
    low, high = counts("a", [0] * 20 + [1] * 10, k=1), counts("b", [0] * 2 + [1] * 28, k=1)
    greedy = [
        replace(each, evaluation=replace(each.evaluation, greedy=True)) for each in (low, high)
    ]
    table = make_table(greedy)
    assert best(table) == [None, "all"]
    for cell in table.cells:
        assert math.isnan(cell.margin) and math.isnan(cell.stderr_rerun)
        assert math.isfinite(cell.problems_95.low)
    # Two problems more would be certain to come again, but say nothing of others.
    near = replace(counts("b", [0] * 18 + [1] * 12, k=1))
    near = replace(near, evaluation=replace(near.evaluation, greedy=True))
    assert best(make_table([greedy[0], near])) == [None, None]


def test_a_mean_is_of_benchmarks_and_its_error_that_of_independent_scores() -> None:
    table = make_table([attempt("a", "sums", 0.3), attempt("a", "more", 0.8)])
    (mean,) = table.means
    scores = [cell.avg_at_k for cell in table.cells]
    errors = [cell.stderr_rerun for cell in table.cells]
    assert mean.avg_at_k == pytest.approx(sum(scores) / 2)
    assert mean.stderr_rerun == pytest.approx(math.sqrt(errors[0] ** 2 + errors[1] ** 2) / 2)
    assert mean.rerun_95.low < mean.avg_at_k < mean.rerun_95.high
    assert mean.margin < min(cell.margin for cell in table.cells)


def test_the_interval_of_a_mean_adds_distances_as_squares() -> None:
    found = mean_interval([0.2, 0.6], [Interval(0.17, 0.26), Interval(0.56, 0.68)])
    assert found.low == pytest.approx(0.4 - math.hypot(0.03, 0.04) / 2)
    assert found.high == pytest.approx(0.4 + math.hypot(0.06, 0.08) / 2)
    assert math.isnan(mean_interval([0.2, 0.6], [found, Interval(math.nan, math.nan)]).low)


def test_a_model_that_lacks_a_benchmark_has_no_mean() -> None:
    found = [attempt("a", "sums", 0.3), attempt("a", "more", 0.8), attempt("b", "sums", 0.4)]
    with_mean, without = make_table(found).means
    assert with_mean.known and not without.known
    assert without.failure == "not evaluated on every benchmark"


def test_the_best_mean_is_marked_by_the_differences_of_all_benchmarks() -> None:
    # Neither benchmark alone tells the two apart.
    def rows(at: int) -> list[Attempt]:
        low, high = [3 + at % 2] * 8, [4 + at % 2] * 8
        return [counts("a", low, bench=f"b{at}", k=8), counts("b", high, bench=f"b{at}", k=8)]

    attempts = [each for at in range(6) for each in rows(at)]
    table = make_table(attempts)
    assert {cell.best for cell in table.cells} == {None}
    assert best(table, MEAN) == [None, "all"]
    # What one gains and the other loses cancels.
    back = [counts("a", [5] * 8, bench="back"), counts("b", [1] * 8, bench="back")]
    assert best(make_table([*attempts[:4], *back]), MEAN) == [None, None]


def test_pass_at_j_is_for_the_smallest_k_of_the_table() -> None:
    table = make_table([counts("a", [2, 4], k=4), counts("b", [2, 8], k=8)])
    assert table.pass_j == 4
    first, second = table.column("sums")
    assert first.pass_at_j == 1.0
    # 1 - C(6, 4) / C(8, 4) = 1 - 15 / 70, and 1.
    assert second.pass_at_j == pytest.approx((1 - 15 / 70 + 1) / 2)


def test_models_and_benchmarks_keep_their_order() -> None:
    table = shown_table()
    assert table.models == ("tiny", "DeepSeek-R1-Distill-Qwen-7B", "tiny_[2]&")
    assert table.benchmarks == ("sums", "a|b.jsonl")
    assert [cell.model for cell in table.column("sums")] == list(table.models)
