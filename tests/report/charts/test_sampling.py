"""Long curves lose no extreme, smoothing looks only back, gaps stay gaps."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgpo_cli.report.charts.sampling import Buckets, column, runs_of, smoothed, usual_span

VALUES = st.lists(st.none() | st.floats(-1e6, 1e6), min_size=1, max_size=200)


@given(VALUES, st.integers(1, 50))
def test_fewer_points_keep_every_extreme_and_the_mean(
    values: list[float | None], at_most: int
) -> None:
    buckets = Buckets.of(len(values), at_most=at_most)
    found = column(values, buckets=buckets)
    assert len(found.mean) == len(list(buckets)) <= at_most
    known = [value for value in values if value is not None]
    if buckets.size == 1:
        assert list(found.mean) == values
        return
    low = [value for value in found.low if value is not None]
    high = [value for value in found.high if value is not None]
    assert min(low, default=None) == min(known, default=None)
    assert max(high, default=None) == max(known, default=None)
    for (start, stop), mean in zip(buckets, found.mean, strict=True):
        part = [value for value in values[start:stop] if value is not None]
        assert (mean is None) == (not part)
        if part:
            assert mean == pytest.approx(sum(part) / len(part), abs=1e-6)


def test_every_step_is_in_exactly_one_point() -> None:
    for count in (1, 7, 500, 501, 9_999):
        steps = [at for start, stop in Buckets.of(count, at_most=500) for at in range(start, stop)]
        assert steps == list(range(count))


@given(VALUES, st.floats(1.0, 100.0))
def test_smoothing_is_the_weighted_mean_of_what_came_before(
    values: list[float | None], span: float
) -> None:
    keep = 1 - 2 / (span + 1)
    found = smoothed(values, span=span)
    for at, value in enumerate(found):
        assert (value is None) == (values[at] is None)
        if value is not None:
            before = [each for each in values[: at + 1] if each is not None]
            weights = [keep ** (len(before) - 1 - place) for place in range(len(before))]
            slow = math.fsum(w * v for w, v in zip(weights, before, strict=True)) / sum(weights)
            assert value == pytest.approx(slow, rel=1e-6, abs=1e-4)


def test_a_span_of_one_smooths_nothing() -> None:
    assert smoothed([1.0, None, 5.0, -2.0], span=1) == [1.0, None, 5.0, -2.0]
    assert usual_span(19) == 1
    assert usual_span(500) == 20


def test_stretches_lie_between_the_gaps() -> None:
    assert list(runs_of([None, 1.0, 2.0, None, 3.0])) == [(1, 3), (4, 5)]
    assert list(runs_of([])) == []
