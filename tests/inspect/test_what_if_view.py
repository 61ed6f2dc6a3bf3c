"""The difference that another credit makes is told in true numbers."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from dgpo_cli.core.types import InspectedCompletion, StoredCredit
from dgpo_cli.inspect.views.what_if import largest_changes, moved, rank_correlation, render
from tests.samples import (
    SGR,
    SYSTEMS,
    check_snapshot,
    hostile,
    inspection,
    printed,
    solution,
)


def against(shown: InspectedCompletion, other: InspectedCompletion) -> InspectedCompletion:
    """`shown` as a what-if, `other` the credit that trained."""
    stored = StoredCredit(
        rule="dgpo",
        parameters={"tau": other.tau, "kappa": 1.0},
        tau=other.tau,
        effective_fraction=other.effective_fraction,
        weights=tuple(token.weight for token in other.tokens),
    )
    return replace(shown, stored=stored)


def drawn(
    shown: InspectedCompletion, *, width: int = 80, color: str = "none", encoding: str = "utf-8"
) -> str:
    own = inspection(shown, tau=shown.tau, parameters={"tau": shown.tau, "kappa": 1.0})
    return printed(
        render(shown, inspection=own, width=width, top=5, color=color),  # type: ignore[arg-type]
        width=width,
        color=color,
        encoding=encoding,
    )


@pytest.mark.parametrize("width", [40, 80])
@pytest.mark.parametrize("color", SYSTEMS)
def test_the_difference_looks_like_its_snapshot(width: int, color: str) -> None:
    output = drawn(against(solution(tau=0.02), solution(tau=0.5)), width=width, color=color)
    assert all(cell_len(line) <= width for line in SGR.sub("", output).splitlines())
    check_snapshot(f"what-if-{color}-{width}.txt", output)


def test_the_difference_in_ascii_looks_like_its_snapshot() -> None:
    shown = against(hostile(), replace(hostile(), tokens=hostile().tokens[::-1]))
    check_snapshot("what-if-ascii.txt", drawn(shown, encoding="ascii"))


def test_the_same_weights_are_said_to_be_the_same() -> None:
    output = drawn(against(solution(), solution()))
    assert "The weights are the same." in output and "Largest changes" not in output


@pytest.mark.parametrize("width", [24, 40, 80])
def test_hostile_text_is_shown_and_fits(width: int) -> None:
    other = hostile()
    even = replace(other, tokens=tuple(replace(t, weight=1.0) for t in other.tokens), tau=9.0)
    output = drawn(against(even, other), width=width)
    assert all(char.isprintable() or char == "\n" for char in output)
    assert all(cell_len(line) <= width for line in output.splitlines())


def test_credit_that_moves_is_what_one_side_loses() -> None:
    assert moved([1.0, 1.0, 1.0, 1.0], [4.0, 0.0, 0.0, 0.0]) == 0.75
    assert moved([2.0, 0.0], [2.0, 0.0]) == 0.0


def test_the_largest_changes_come_first_and_no_rounding_is_one() -> None:
    stored, shown = [1.0, 1.0, 1.0, 1.0], [1.0, 0.5, 1.75, 0.75]
    assert largest_changes(stored, shown, top=9) == [2, 1, 3]
    assert largest_changes(stored, shown, top=1) == [2]
    assert largest_changes(stored, [w + 1e-8 for w in stored], top=9) == []


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=2, max_size=30))
def test_rank_correlation_is_that_of_ranks_written_out(pairs: list[tuple[int, int]]) -> None:
    def ranks(values: list[int]) -> list[float]:
        return [
            sum(other < value for other in values)
            + (sum(other == value for other in values) - 1) / 2
            for value in values
        ]

    one, other = [a for a, _ in pairs], [b for _, b in pairs]
    found = rank_correlation([float(a) for a in one], [float(b) for b in other])
    x, y = ranks(one), ranks(other)
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    size = math.sqrt(sum((a - mean_x) ** 2 for a in x) * sum((b - mean_y) ** 2 for b in y))
    if size == 0:
        assert math.isnan(found)
    else:
        total = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
        assert found == pytest.approx(total / size, abs=1e-12)
