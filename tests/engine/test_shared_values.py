"""Continuations shared along completions: as right as those of each prefix, and far fewer."""

from __future__ import annotations

import math
from typing import Any

import pytest

from dgpo_cli.core.types import ValueCurve
from dgpo_cli.engine.values.estimate import estimate
from tests.engine.chain import chain_engine, exact_values, groups_of, spelled
from tests.engine.test_values import KINDS

SURE = {  # only the first letter is open
    "": {"a": 0.5, "b": 0.5},
    "a": {"b": 1.0},
    "b": {"c": 1.0},
    "c": {"a": 1.0},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("siblings", [False, True])
def test_shared_values_are_unbiased_at_every_depth(kind: str, siblings: bool) -> None:
    engine = chain_engine(**KINDS[kind])
    value = exact_values(**KINDS[kind])
    groups = groups_of(engine, count=250, size=4, seed=1)
    curves = estimate(engine, groups, continuations=3, seed=5, shared=True, siblings=siblings)
    at_depth: dict[int, list[float]] = {}
    for (number, row), curve in curves.items():
        text = spelled(groups[number].completions[row].token_ids)
        assert [point.at for point in curve.points] == [*range(len(text) + 1)]
        for point in curve.points[:-1]:
            at_depth.setdefault(point.at, []).append(point.value - value(text[: point.at]))
    for errors in at_depth.values():
        mean = math.fsum(errors) / len(errors)
        # Four rows of a group are not independent: at most four times the variance.
        deviation = 2 * math.sqrt(math.fsum(e * e for e in errors)) / len(errors)
        assert abs(mean) < 3 * deviation


def spread_of_moves(curves: dict[Any, ValueCurve], groups: Any, value: Any) -> float:
    """The mean squared error of the moves, over all tokens but the last of a completion."""
    errors = []
    for (number, row), curve in curves.items():
        text = spelled(groups[number].completions[row].token_ids)
        exact = [value(text[:at]) for at in range(len(text) + 1)]
        for at, move in enumerate(curve.moves()[:-1]):
            errors.append((move - exact[at + 1] + exact[at]) ** 2)
    return math.fsum(errors) / len(errors)


def test_sharing_samples_less_and_moves_less_by_chance() -> None:
    value = exact_values()
    found = {}
    for shared in (False, True):
        engine = chain_engine()
        groups = groups_of(engine, count=60, size=4, seed=2)
        curves = estimate(engine, groups, continuations=8, seed=1, siblings=False, shared=shared)
        found[shared] = sum(engine.sampler.rounds), spread_of_moves(curves, groups, value)
    assert found[True][0] < 0.75 * found[False][0]
    assert found[True][1] < 0.9 * found[False][1]


def test_where_the_policy_is_sure_nothing_is_sampled_and_nothing_moves() -> None:
    engine = chain_engine(chances=SURE, reward=lambda text, finish: float(text[0] == "a"))
    groups = groups_of(engine, count=20, size=4, seed=2)
    curves = estimate(engine, groups, continuations=8, seed=1, siblings=False, shared=True)
    for (number, row), curve in curves.items():
        first = curve.moves()[0]
        assert first == pytest.approx(groups[number].rewards[row] - curve.points[0].value)
        assert curve.moves()[1:] == [0.0] * 5
    # Eight for each prompt; then, after each first letter, those that did not begin with it.
    first, second = engine.sampler.rounds
    assert first == 8 * len(groups) >= second > 0


def test_a_prefix_has_as_many_continuations_as_were_asked_for_whoever_shares_it() -> None:
    engine = chain_engine()
    groups = groups_of(engine, count=10, size=4, seed=3)
    whole = estimate(engine, groups, continuations=5, seed=1, siblings=False, shared=True)
    assert {p.count for curve in whole.values() for p in curve.points[:-1]} == {5}
    some = [row for row in whole if row[1] != 2]
    again = estimate(
        engine, groups, of=reversed(some), continuations=5, seed=1, siblings=False, shared=True
    )
    assert again == {row: whole[row] for row in some}
