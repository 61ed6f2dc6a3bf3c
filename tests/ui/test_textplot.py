"""A plot puts every value at its height, and no line of it is longer than asked for."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgpo_cli.ui.textplot import TextAxis, _Canvas, growing_end, nice_axis, plot, sparkline

finite = st.floats(-1e6, 1e6, allow_nan=False)
UNIT = TextAxis(0.0, 1.0, 1.0)


def heights(lines: list[str]) -> dict[int, set[int]]:
    """The dots of a braille plot by column, counted from below."""
    rows = [line.partition("┤")[2] or line.partition("│")[2] for line in lines[:-1]]
    found: dict[int, set[int]] = {}
    for above, row in enumerate(reversed(rows)):
        for cell, char in enumerate(row):
            bits = ord(char) - 0x2800 if char != " " else 0
            for bit, (side, level) in enumerate(
                [(0, 3), (0, 2), (0, 1), (1, 3), (1, 2), (1, 1), (0, 0), (1, 0)]
            ):
                if bits >> bit & 1:
                    found.setdefault(2 * cell + side, set()).add(4 * above + level)
    return found


def test_values_stand_at_their_heights() -> None:
    points = [(0.0, 0.0), (4.0, 1.0), (8.0, 0.5)]
    lines = plot(points, width=22, height=6, x_end=8, axis=UNIT)
    columns = 2 * (22 - 1 - 1)
    dots = heights(lines)
    assert min(dots[0]) == 0
    assert max(dots[round(0.5 * (columns - 1))]) == 5 * 4 - 1
    assert 10 in dots[columns - 1] or 9 in dots[columns - 1]
    assert set(dots) == set(range(columns))  # joined without a gap


def test_points_of_one_column_are_averaged() -> None:
    points = [(float(x), float(x % 2)) for x in range(1000)]
    dots = heights(plot(points, width=12, height=5, x_end=999, axis=UNIT))
    assert {dot for column in dots.values() for dot in column} <= {7, 8}


def test_a_steep_curve_has_no_gaps() -> None:
    dots = heights(
        plot([(0.0, 0.0), (1.0, 1.0), (2.0, 0.0)], width=8, height=9, x_end=2, axis=UNIT)
    )
    for column in range(max(dots)):
        here, there = dots[column], dots[column + 1]
        assert min(abs(a - b) for a in here for b in there) <= 1


@given(
    st.lists(st.tuples(st.floats(0, 500), finite | st.just(math.nan)), max_size=60),
    st.integers(8, 60),
    st.integers(3, 12),
    st.booleans(),
)
def test_any_plot_has_its_size(
    points: list[tuple[float, float]], width: int, height: int, ascii_only: bool
) -> None:
    lines = plot(points, width=width, height=height, x_end=500, ascii_only=ascii_only)
    assert len(lines) == height
    widest = max(len(line) for line in lines)
    labels = max(len(line.partition("|" if ascii_only else "┤")[0]) for line in lines[:-1])
    assert widest <= max(width, labels + 3)
    assert not ascii_only or all(line.isascii() for line in lines)


@given(finite, finite)
def test_an_axis_holds_its_values_with_round_ends(one: float, other: float) -> None:
    low, high = min(one, other), max(one, other)
    axis = nice_axis(low, high)
    slack = 1e-6 * max(1.0, abs(low), abs(high))
    assert axis.low <= low + slack and high <= axis.high + slack
    assert round((axis.high - axis.low) / axis.step) <= 6
    assert math.isclose(axis.low / axis.step, round(axis.low / axis.step), abs_tol=1e-6)


def test_the_labels_are_the_ends_of_the_axis() -> None:
    lines = plot([(0, 0.48), (10, 0.97)], width=30, height=7, x_end=10)
    assert lines[0].startswith("1.0┤")
    assert lines[-2].startswith("0.4┤")
    assert lines[-1].strip().startswith("0└") and lines[-1].endswith(" 10")


def test_the_end_of_the_steps_moves_seldom() -> None:
    ends = [growing_end(step, total=1000) for step in range(1, 1001)]
    assert ends[-1] == 1000
    assert all(end >= step for step, end in enumerate(ends, start=1))
    assert len(set(ends)) <= 7
    assert growing_end(3, total=12) == 12


def test_a_sparkline_rises_with_its_values() -> None:
    assert sparkline([1, 2, 3, 4, 5, 6, 7, 8], width=20) == "▁▂▃▄▅▆▇█"
    assert sparkline([5.0, 5.0], width=20) == "▄▄"
    assert sparkline([], width=20) == ""
    assert sparkline([math.nan, 1.0, 2.0], width=20) == "▁█"
    assert len(sparkline(list(range(1000)), width=20)) == 20
    assert sparkline([0.0, 1.0], width=9, ascii_only=True) == "_#"


@pytest.mark.parametrize("step", [0.1, 0.02, 5.0, 1e-6, 200000.0])
def test_labels_of_neighbours_differ(step: float) -> None:
    axis = TextAxis(0.0, 5 * step, step)
    labels = [axis.label(part * step) for part in range(6)]
    assert len(set(labels)) == 6


def test_a_cell_shows_which_of_its_dots_are_set() -> None:
    ascii_cells = []
    for bits in range(8):
        canvas = _Canvas(1, 1, ascii_only=True)
        canvas._dots[0] = {level for level in range(3) if bits >> level & 1}
        ascii_cells += canvas.rows()
    assert ascii_cells == [" ", ".", "-", ":", "'", ":", ":", "|"]
    canvas = _Canvas(2, 2, ascii_only=False)
    canvas._dots[:] = [{0}, {3}, {4, 5, 6, 7}, {7}]  # of each column, from the foot
    # By the Unicode standard: dots 1 2 3 7 are the left column from the top, 4 5 6 8 the right.
    assert canvas.rows() == [" " + chr(0x2800 + 0x01 + 0x02 + 0x04 + 0x40 + 0x08), "\u2848 "]
