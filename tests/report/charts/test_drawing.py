"""A drawing holds every known point inside its plot, breaks at gaps and obeys no text."""

from __future__ import annotations

import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dgpo_cli.report.charts.drawing import Chart, Level, Line, frame, polyline, spread, stacked, svg
from tests.samples import HOSTILE

NUMBER = r"-?(?:\d+\.?\d*|\.\d+)"
SIZE = {"width": 384.0, "height": 224.0}
YS = st.lists(st.none() | st.floats(-1e9, 1e9), min_size=1, max_size=30)


def line(*ys: float | None, label: str = "a", look: int = 1) -> Line:
    return Line(label, look, list(range(1, len(ys) + 1)), ys)


def strokes(data: str) -> list[list[tuple[float, float]]]:
    """The points of each stroke of a path: after "l" they are written by how far they are."""
    found = []
    for stroke in data.split("M")[1:]:
        x = y = 0.0
        points = []
        for across, down in re.findall(rf"({NUMBER})[ ,]?({NUMBER})", stroke):
            before = (x, y) if "l" in stroke else (0.0, 0.0)
            x, y = before[0] + float(across), before[1] + float(down)
            points.append((x, y))
        found.append(points)
    return found


def points(data: str) -> list[tuple[float, float]]:
    return [point for stroke in strokes(data) for point in stroke]


def paths(drawing: str, kind: str) -> list[str]:
    return re.findall(rf'<path class="{kind}"[^>]* d="([^"]*)"', drawing)


@given(YS, st.booleans())
@example([0.0, 5e-324], False)
@example([5e-324], True)
def test_every_known_point_lies_inside_the_plot(ys: list[float | None], log: bool) -> None:
    chart = Chart("t", [line(*ys), line(*reversed(ys), label="b", look=2)], log=log)
    place = frame(chart, **SIZE)
    drawing = svg(chart, **SIZE)
    ElementTree.fromstring(drawing)
    assert "nan" not in drawing and "inf" not in drawing
    for data in paths(drawing, "line"):
        for x, y in points(data):
            assert place.x.start - 0.06 <= x <= place.x.end + 0.06
            assert place.y.end - 0.06 <= y <= place.y.start + 0.06


def test_a_line_is_broken_where_a_value_is_missing() -> None:
    chart = Chart("t", [line(1.0, 2.0, None, 3.0, 4.0, 5.0)])
    (data,) = paths(svg(chart, **SIZE), "line")
    assert [len(stroke) for stroke in strokes(data)] == [2, 3]


def test_a_point_between_gaps_is_a_dot() -> None:
    chart = Chart("t", [line(1.0, None, 2.0, None, 3.0)])
    drawing = svg(chart, **SIZE)
    assert [len(stroke) for data in paths(drawing, "line") for stroke in strokes(data)] == [1] * 3
    assert drawing.count('class="dot"') == 3


def test_higher_values_stand_higher_and_later_ones_further_right() -> None:
    chart = Chart("t", [line(1.0, 2.0, 8.0)])
    found = points(polyline([1, 2, 3], [1.0, 2.0, 8.0], place=frame(chart, **SIZE))[0])
    assert all(a[0] < b[0] and a[1] > b[1] for a, b in pairwise(found))


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=300), st.booleans())
def test_a_path_of_differences_ends_where_its_last_point_is(ys: list[float], live: bool) -> None:
    chart = Chart("t", [line(*ys)])
    place = frame(chart, **SIZE, live=live)
    (found,) = strokes(polyline(chart.lines[0].xs, ys, place=place)[0])
    expected = [(place.x.at(x), place.y.at(y)) for x, y in enumerate(ys, start=1)]
    assert [each for point in found for each in point] == pytest.approx(
        [each for point in expected for each in point], abs=0.051
    )


def test_the_axis_without_a_curve_is_that_of_a_chart_without_it() -> None:
    lines = [line(0.01, 0.02), line(5.0, 90.0, label="b"), line(-3.0, 1.0, label="c")]
    for log in (False, True):
        place = frame(Chart("t", lines, log=log), **SIZE, live=True)
        for hidden in range(7):
            seen = [each for at, each in enumerate(lines) if not hidden >> at & 1]
            (found,) = (y for y, sets in place.ys if f"{hidden}" in sets)
            assert found == frame(Chart("t", seen, log=log), **SIZE).y
    stack = Chart("t", lines[:2], stacked=True)
    (without,) = (y for y, sets in frame(stack, **SIZE, live=True).ys if "2" in sets)
    assert without == frame(Chart("t", lines[:1], stacked=True), **SIZE).y


def test_a_curve_that_is_small_beside_another_is_drawn_finely_enough_to_be_seen_alone() -> None:
    small = line(*(0.001 * (at % 7) for at in range(50)))
    chart = Chart("t", [line(*(50.0 + at for at in range(50)), label="b"), small])
    place = frame(chart, **SIZE, live=True)
    (alone,) = (y for y, sets in place.ys if "1" in sets)
    (found,) = strokes(polyline(small.xs, small.ys, place=place)[0])
    share = [(place.y.start - y) / (place.y.start - place.y.end) for _, y in found]
    drawn = [place.y.low + each * (place.y.high - place.y.low) for each in share]
    heights = [alone.at(value) for value in drawn]
    assert heights == pytest.approx([alone.at(y) for y in small.ys if y is not None], abs=0.5)


def test_layers_stand_on_each_other_and_add_up() -> None:
    lines = [line(0.5, 0.25), line(0.25, 0.25), line(0.25, 0.5)]
    layers = stacked(lines)
    assert list(layers[0][0]) == [0.0, 0.0]
    for (_, above), (below, _) in pairwise(layers):
        assert list(above) == list(below)
    assert list(layers[-1][1]) == [1.0, 1.0]


def test_a_stack_has_a_gap_where_a_part_is_unknown() -> None:
    layers = stacked([line(0.5, None, 0.5), line(0.5, 0.5, 0.5)])
    assert all(edge[1] is None for layer in layers for edge in layer)


def test_whiskers_reach_to_both_intervals() -> None:
    whiskers = [(0.4, 0.6, 0.3, 0.7)]
    chart = Chart("t", [Line("a", 1, [0], [0.5], whiskers=whiskers)])
    place = frame(chart, **SIZE)
    drawing = svg(chart, **SIZE)
    for kind, low, high in (("inner", 0.4, 0.6), ("outer", 0.3, 0.7)):
        (data,) = paths(drawing, kind)
        ys = [float(y) for _, y in re.findall(r"M(-?[\d.]+),(-?[\d.]+)h6", data)]
        assert ys == pytest.approx([place.y.at(high), place.y.at(low)], abs=0.06)


@given(st.lists(st.floats(0, 200), max_size=8))
def test_labels_are_moved_apart_and_keep_their_order(heights: list[float]) -> None:
    moved = spread(heights, gap=12.0, low=10.0, high=200.0)
    order = sorted(range(len(heights)), key=lambda at: heights[at])
    assert all(moved[b] - moved[a] >= 12.0 - 1e-9 for a, b in pairwise(order))
    assert all(10.0 - 1e-9 <= each <= 200.0 + 1e-9 for each in moved)


@pytest.mark.parametrize("text", HOSTILE)
def test_text_in_a_drawing_stays_text(text: str) -> None:
    lines = [line(1.0, 2.0, label=text), line(2.0, 1.0, label=text, look=2)]
    drawing = svg(Chart(text, lines, levels=[Level(text, 1.5)]), **SIZE)
    tree = ElementTree.fromstring(drawing)
    assert {element.tag for element in tree.iter()} == {
        "svg",
        "g",
        "line",
        "path",
        "text",
        "circle",
    }
    assert not any(name.startswith("on") for each in tree.iter() for name in each.attrib)


def test_the_same_chart_gives_the_same_bytes() -> None:
    chart = Chart("t", [line(1.0, None, 3.0), line(2.0, 2.0, 2.0)], levels=[Level("l", 2.5)])
    assert svg(chart, **SIZE) == svg(chart, **SIZE)


def test_long_numbers_of_the_y_axis_have_room() -> None:
    place = frame(Chart("c", [line(0.99999, 1.0)]), width=300, height=200)
    longest = max(map(len, place.y.labels))
    assert longest >= 7
    assert place.x.start - 6 >= 6.1 * longest  # a digit of 11 px in a common sans serif


def test_grey_curves_without_room_for_their_names_have_spare_ones() -> None:
    def classes(count: int) -> list[str | None]:
        looks = [1] + [0] * (count - 1)
        lines = [Line(f"n{at}", look, (0, 1), (0.0, at)) for at, look in enumerate(looks)]
        tree = ElementTree.fromstring(svg(Chart("t", lines), width=384, height=224))
        return [each.get("class") for each in tree.iter("text") if "name" in each.get("class", "")]

    assert classes(16) == ["name"] * 16  # 12 units each, of 190
    assert classes(20) == ["name"] + ["name spare"] * 19
