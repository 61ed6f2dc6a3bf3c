"""What a search tries, for how long, and what it keeps."""

from __future__ import annotations

import math

import pytest

from dgpo_cli.study.search import Rung, Search, Space, Span, at_edge, best, rungs, trials_of

RATES = Space({"optim.lr": (1e-4, 2e-4), "optim.beta2": (0.9, 0.99)})


def search(**values: object) -> Search:
    return Search.model_validate({"seeds": [1000], **values})


def test_a_grid_has_every_combination_once() -> None:
    assert trials_of(search(), RATES) == [
        {"optim.lr": 1e-4, "optim.beta2": 0.9},
        {"optim.lr": 1e-4, "optim.beta2": 0.99},
        {"optim.lr": 2e-4, "optim.beta2": 0.9},
        {"optim.lr": 2e-4, "optim.beta2": 0.99},
    ]


def test_random_trials_are_always_the_same_and_each_different() -> None:
    space = Space({"optim.lr": Span(low=1e-5, high=1e-3, log=True)})
    asked = search(kind="random", trials=200)
    drawn = [each["optim.lr"] for each in trials_of(asked, space)]
    assert drawn == [each["optim.lr"] for each in trials_of(asked, space)]
    assert len(set(drawn)) == 200 and all(1e-5 <= each <= 1e-3 for each in drawn)
    # Even on a logarithmic scale: half of 200 is below 1e-4, give or take 4 standard errors.
    assert abs(sum(each < 1e-4 for each in drawn) - 100) < 4 * math.sqrt(200 / 4)


def test_a_small_space_ends_a_random_search() -> None:
    found = trials_of(search(kind="random", trials=9), Space({"optim.lr": (1e-4, 2e-4)}))
    assert sorted(each["optim.lr"] for each in found) == [1e-4, 2e-4]


@pytest.mark.parametrize(
    ("trials", "halving", "expected"),
    [
        (4, None, [(4, 60)]),
        (4, 2, [(4, 30), (2, 60)]),
        (9, 3, [(9, 20), (3, 60)]),
        (8, 2, [(8, 15), (4, 30), (2, 60)]),
        (3, 3, [(3, 60)]),
        (1, 2, [(1, 60)]),
    ],
)
def test_fewer_trials_go_on_for_more_steps(
    trials: int, halving: int | None, expected: list[tuple[int, int]]
) -> None:
    found = rungs(search(halving=halving), trials=trials, steps=60)
    assert found == [Rung(*each) for each in expected]


def test_halving_costs_less_than_the_grid() -> None:
    def steps(halving: int | None) -> int:
        """Steps in all: a trial that goes on has its earlier steps."""
        rounds = rungs(search(halving=halving), trials=16, steps=80)
        done = 0
        total = 0
        for each in rounds:
            total += each.trials * (each.steps - done)
            done = each.steps
        return total

    # Of 16 trials 8 go on from step 10, 4 from 20 and 2 from 40.
    assert steps(2) == 16 * 10 + 8 * 10 + 4 * 20 + 2 * 40
    assert steps(None) == 16 * 80


def test_trials_may_be_shorter_than_the_runs() -> None:
    assert rungs(search(steps=20), trials=2, steps=60) == [Rung(2, 20)]
    assert rungs(search(steps=90), trials=2, steps=60) == [Rung(2, 60)]


def test_the_highest_scores_are_kept_and_a_failed_trial_is_the_last() -> None:
    scores = [0.5, math.nan, 0.7, 0.7, 0.1]
    assert best(scores, keep=5) == [2, 3, 0, 4, 1]
    assert best(scores, keep=2) == [2, 3]


def test_a_best_value_at_the_edge_of_what_was_tried_is_told() -> None:
    tried = [{"optim.lr": rate, "loss.kind": "clip"} for rate in (1e-4, 2e-4, 4e-4)]
    assert at_edge(tried[0], tried) == "optim.lr is the smallest tried"
    assert at_edge(tried[1], tried) == ""
    assert at_edge(tried[2], tried) == "optim.lr is the largest tried"
    assert at_edge(tried[0], tried[:1]) == ""
