"""When sampling stops: after the first whole round with an error small enough, and not before."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.intervals import STOPPED, measure_stopping
from dgpo_cli.stats.intervals import rerun_interval
from dgpo_cli.stats.stopping import LEAST_ROUNDS, is_enough, stopping_round

ROUNDS = st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=1, max_size=40)


@given(ROUNDS, st.floats(0.02, 0.4))
def test_sampling_stops_after_the_first_round_that_is_enough(
    rounds: list[list[bool]], margin: float
) -> None:
    def half_width(k: int) -> float:
        return rerun_interval(np.sum(rounds[:k], axis=0).tolist(), k=k).half_width

    enough = [k for k in range(4, len(rounds) + 1) if half_width(k) <= margin]
    assert stopping_round(rounds, margin=margin) == (enough[0] if enough else None)


@given(ROUNDS, ROUNDS, st.floats(0.02, 0.4))
def test_what_was_drawn_beyond_the_last_round_changes_nothing(
    rounds: list[list[bool]], more: list[list[bool]], margin: float
) -> None:
    k = stopping_round(rounds, margin=margin)
    if k is not None:
        assert stopping_round(rounds[:k], margin=margin) == k
        assert stopping_round([*rounds[:k], *more], margin=margin) == k


def test_fewer_rounds_than_the_least_are_never_enough() -> None:
    assert LEAST_ROUNDS == 4
    always = [[True] * 1000] * 9
    assert stopping_round(always, margin=0.4) == 4
    assert stopping_round(always[:3], margin=0.4) is None
    assert not is_enough([3] * 1000, k=3, margin=0.4)


@pytest.mark.parametrize("margin", [0.015, 0.03])
@pytest.mark.parametrize("population", STOPPED)
def test_stopping_keeps_the_coverage_and_adds_little_bias(population: str, margin: float) -> None:
    found = measure_stopping(
        STOPPED[population], n=30, margin=margin, least=LEAST_ROUNDS, most=40, runs=500, seed=7
    )
    assert found.coverage >= 0.93
    assert abs(found.bias) <= margin / 6 + 3 * found.stderr
