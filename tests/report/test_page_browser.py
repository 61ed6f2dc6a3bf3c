"""The page of a run in headless Chromium: the script moves what Python drew, and answers."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

import pytest

from dgpo_cli.core.types import RunRecord
from dgpo_cli.report.charts.drawing import Chart, frame, stacked, svg
from dgpo_cli.report.curves import draw, draw_evals
from dgpo_cli.report.panels import GROUPS, REWARD
from dgpo_cli.report.run_page import HEIGHT, WIDE, WIDTH, all_series, report_page
from tests.browser import Visit
from tests.report.charts.test_drawing import strokes
from tests.report.records import evaluation, line, record

Open = Callable[..., Visit]
# 235 and 21 of 256: with the five digits of the data their shares add up to more than 1.
SHARES = {"outcome_correct": 235 / 256, "outcome_wrong": 21 / 256}
GAPS = [
    line(at, reward_mean=None if at in (7, 8, 20) else at / 40, **SHARES if at == 9 else {})
    for at in range(1, 41)
]
GAPS[11]["completion/length_mean"] = None  # its band goes on
READ = "document.querySelector('[data-chart=reward] .readout').textContent"
SEEN = (
    "(key) => [...document.querySelectorAll(`[data-chart=${key}] .plot`)].map((svg) =>"
    " [...svg.querySelectorAll('.series:not([hidden]) > *')].map((each) => [each.tagName,"
    " each.getAttribute('class'), each.getAttribute('d'), each.getAttribute('transform'),"
    " each.getAttribute('y')]))"
)
TICKS = (
    "(key) => [...document.querySelectorAll(`[data-chart=${key}] .plot`)].map((svg) =>"
    " [...svg.querySelectorAll('.y:not([hidden]) text, .x:not([hidden]) text')].map((each) =>"
    " [each.textContent, Number(each.getAttribute('x')), Number(each.getAttribute('y'))]))"
)
Shape = tuple[str, str, list[float]]


def quiet(found: Visit) -> bool:
    """Nothing on the console, and nothing asked for but the page itself."""
    return found.complaints == [] and len(found.requests) == 1


def shape(tag: str, look: str, data: str, transform: str, y: str) -> Shape:
    """An element of a drawing with its coordinates."""
    places = [each for stroke in strokes(data or "") for point in stroke for each in point]
    if look in ("dot", "inner", "outer"):
        places = [float(each) for each in re.findall(r"-?[\d.]+", data)]
    moved = [float(each) for each in re.findall(r"-?[\d.]+", transform or "")]
    return tag, look, [*places, *moved[:1], *moved[1:2] * (look == "dot"), *map(float, y.split())]


def expected(chart: Chart, *, width: float, height: float) -> tuple[list[Shape], list[Any]]:
    """The elements of the curves, and the ticks, of what Python draws of a chart."""
    tree = ElementTree.fromstring(svg(chart, width=width, height=height))
    shapes = [
        shape(each.tag, *(each.get(name, "") for name in ("class", "d", "transform", "y")))
        for group in tree.iter("g")
        if "series" in str(group.get("class"))
        for each in group
    ]
    groups = [each for each in tree if each.get("class") in ("y", "x ticks")]
    texts = [text for each in groups if each.get("hidden") is None for text in each.iter("text")]
    return shapes, [(each.text, float(each.get("x", 0)), float(each.get("y", 0))) for each in texts]


def agrees(found: Visit, key: str, chart: Chart) -> None:
    """What is seen of a chart, also of one that is not in sight, is what Python draws of this."""
    found("charts.forEach(draw)")
    sizes = [(WIDE, HEIGHT + 40), (WIDTH, HEIGHT)] if key == "reward" else [(WIDTH, HEIGHT)]
    for (width, height), seen, ticks in zip(
        sizes, found(SEEN, key), found(TICKS, key), strict=True
    ):
        shapes, texts = expected(chart, width=width, height=height)
        drawn = [shape(*(each or "" for each in element)) for element in seen]
        # A curve as it is and nothing faint behind it: either has a path for what is faint.
        drawn, shapes = ([s for s in each if s[1:] != ("raw", [])] for each in (drawn, shapes))
        assert [each[:2] for each in drawn] == [each[:2] for each in shapes]
        for one, other in zip(drawn, shapes, strict=True):
            assert one[2] == pytest.approx(other[2], abs=0.21), one[:2]
        assert [text for text, *_ in ticks] == [text for text, *_ in texts]
        for (_, *one), (_, *other) in zip(ticks, texts, strict=True):
            assert one == pytest.approx(other, abs=0.11)


def charts(records: Sequence[RunRecord]) -> dict[str, Chart]:
    runs = all_series(records)
    panels = [REWARD, *(panel for group in GROUPS for panel in group.panels)]
    drawn = [draw(panel, runs) for panel in panels] + [draw_evals(runs)]
    return {each.panel.key: each.chart for each in drawn if each is not None}


SEVERAL = [record(GAPS), record(700, name="b", total=700)]
each_page = pytest.mark.parametrize(
    "records",
    [[record(GAPS)], SEVERAL, [record(1)], [record(3)]],
    ids=["one", "several", "a step", "three steps"],
)


@each_page
def test_the_script_leaves_the_drawing_as_python_made_it(
    visit: Open, records: list[RunRecord]
) -> None:
    found = visit(report_page(records))
    for key, chart in charts(records).items():
        agrees(found, key, chart)
    assert quiet(found)


@each_page
def test_on_another_x_axis_the_curves_are_where_python_draws_them(
    visit: Open, records: list[RunRecord]
) -> None:
    found = visit(report_page(records))
    found.page.locator("input[value=tokens]").check()
    for key, chart in charts(records).items():
        lines = [replace(line, xs=line.costs[1]) for line in chart.lines]
        agrees(found, key, replace(chart, lines=lines))
    assert quiet(found)


@pytest.mark.parametrize(
    "records", [[record(GAPS)], SEVERAL, [record(10)]], ids=["one", "several", "ten steps"]
)
def test_the_script_smooths_as_python_does(visit: Open, records: list[RunRecord]) -> None:
    found = visit(report_page(records))
    sizes = {run.letter: run.size for run in all_series(records)}
    for span in (1, 9):
        found(f"state.span = {span}; charts.forEach(draw)")
        for key, chart in charts(records).items():
            if key == "distance":  # on a logarithmic axis 0 counts as the foot of it
                continue
            spans = [max(1.0, span / sizes[line.points[0]]) for line in chart.lines]
            lines = [
                line if line.whiskers else replace(line, span=each)
                for line, each in zip(chart.lines, spans, strict=True)
            ]
            agrees(found, key, replace(chart, lines=lines))


@pytest.mark.parametrize("records", [[record(GAPS)], SEVERAL], ids=["one", "several"])
def test_what_is_left_when_a_curve_is_hidden_is_drawn_as_if_it_were_alone(
    visit: Open, records: list[RunRecord]
) -> None:
    found = visit(report_page(records))
    for key, chart in charts(records).items():
        if len(chart.lines) < 2:
            continue
        found.page.locator(f"[data-chart={key}] .key").first.click()
        found("charts.forEach(draw)")
        seen = found(TICKS, key)[0]
        alone = replace(chart, lines=chart.lines[1:], labelled=False)
        y = frame(alone, width=WIDTH, height=HEIGHT).y
        assert [text for text, *_ in seen][: len(y.labels)] == list(y.labels), key
        (first, *_) = [d for tag, look, d, *_ in found(SEEN, key)[0] if look in ("line", "area")]
        tops = stacked(alone.lines)[0][1] if chart.stacked else alone.lines[0].shown
        heights = [y.at(value) for value in tops if value is not None]
        drawn = [down for stroke in strokes(first) for _, down in stroke]
        scale = (HEIGHT + 40 - 32) / (HEIGHT - 32) if key == "reward" else 1.0
        drawn = [8 + (down - 8) / scale for down in drawn][: len(heights)]
        assert drawn == pytest.approx(heights, abs=0.3), key
    assert quiet(found)


def test_the_pointer_and_the_keys_read_the_same_numbers(visit: Open) -> None:
    found = visit(report_page([record(GAPS)]))
    chart = found.page.locator("[data-chart=reward] .wide svg")
    chart.hover()
    under_pointer = found(READ)
    assert re.match(r"step \d+reward 0\.\d+ \(smoothed 0\.\d+\)", under_pointer)
    step = int(re.findall(r"step (\d+)", under_pointer)[0])
    assert f"reward {step / 40:.4g}" in under_pointer
    found.page.mouse.move(0, 0)
    assert found("document.querySelectorAll('.cross:not([hidden])').length") == 0
    chart.focus()
    found.page.keyboard.press("End")
    assert found(READ).startswith("step 40reward 1 ")
    found.page.keyboard.press("ArrowLeft")
    assert found(READ).startswith("step 39reward 0.975 ")
    # All charts in sight share the crosshair.
    assert found("document.querySelector('[data-chart=avg] .cross:not([hidden])') !== null")
    found.page.keyboard.press("Escape")
    assert found("document.querySelectorAll('.cross:not([hidden])').length") == 0
    assert quiet(found)


def test_the_x_axis_smoothing_and_series_can_be_chosen(visit: Open) -> None:
    found = visit(report_page([record(GAPS)]))
    path = "document.querySelector('[data-chart=reward] .wide .line').getAttribute('d')"
    smooth = found(path)
    found.page.locator("#span").focus()
    found.page.keyboard.press("Home")
    assert found("document.getElementById('span-value').textContent") == "off"
    assert found(path) != smooth
    assert found("document.querySelector('[data-chart=reward] .raw').getAttribute('d')") == ""
    found.page.locator("input[value=seconds]").check()
    chart = found.page.locator("[data-chart=reward] .wide svg")
    chart.focus()
    found.page.keyboard.press("Home")
    assert found(READ).startswith("3.50 s")
    found.page.locator("input[value=tokens]").check()
    chart.focus()
    found.page.keyboard.press("End")
    assert found(READ).startswith("40k tokens")
    areas = (
        "document.querySelectorAll('[data-chart=outcomes] .fit .series:not([hidden]) .area').length"
    )
    assert found(areas) == 2
    key = found.page.locator("[data-chart=outcomes] .key").first
    key.click()
    assert (found(areas), key.get_attribute("aria-pressed")) == (1, "false")
    key.click()
    assert found(areas) == 2
    assert quiet(found)


def test_a_metric_of_a_panel_is_shown_large_and_alone(visit: Open) -> None:
    found = visit(report_page([record(GAPS)]))
    found.page.locator("input[value=tokens]").check()
    found.page.locator("[data-chart=distance] .key").nth(2).click()  # of no concern to it
    found.page.locator("button.metric", has_text="policy/hellinger_sq_p50").click()
    assert found("document.querySelector('#chosen h3').textContent") == "policy/hellinger_sq_p50"
    seen = (
        "[...document.querySelectorAll('#chosen .series')].map((each) => each.matches('[hidden]'))"
    )
    assert found(seen) == [True, True, False]
    found.page.locator("#chosen .plot").first.focus()
    found.page.keyboard.press("End")
    read = "document.querySelector('#chosen .readout').innerText"
    assert re.sub(r"\s+", " ", found(read)).startswith("40k tokens p50 4e-08")
    assert quiet(found)


def test_what_is_smoothed_is_written_with_the_digits_of_the_axis_that_is_seen(visit: Open) -> None:
    gates = {"policy_gate_max": 0.9, "policy_gate_p50": 0.001234}
    found = visit(report_page([record([line(at, **gates) for at in range(1, 41)])]))
    for name, smoothed in (("policy/gate_max", "0.900"), ("policy/gate_p50", "0.001234")):
        found.page.locator("button.metric", has_text=name).click()
        found.page.locator("#chosen .plot").focus()
        found.page.keyboard.press("End")
        read = found("document.querySelector('#chosen .readout').innerText")
        assert f"smoothed {smoothed}" in read
    assert quiet(found)


def test_any_metric_can_be_found_and_shown_large(visit: Open) -> None:
    found = visit(report_page([record(GAPS), record(name="b")]))
    found.page.locator("#search").fill("own met")
    shown = found.page.locator("#metrics tbody tr:visible")
    assert shown.count() == 2  # one a run
    shown.first.locator("button").click()
    assert found("document.querySelector('#chosen h3').textContent") == "my/own_metric"
    assert found("document.querySelectorAll('#chosen .series').length") == 2
    assert quiet(found)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("scripted", [True, False])
def test_a_phone_shows_the_page_without_scrolling_sideways(
    visit: Open, scheme: str, scripted: bool
) -> None:
    long_name = record(GAPS, name="a-very-long-name-of-a-run-" * 6, path="x" * 200)
    for records in ([long_name], [long_name, record(name="b", evals=(evaluation(1, 0.2, k=3),))]):
        found = visit(
            report_page(records), width=390, color_scheme=scheme, java_script_enabled=scripted
        )
        widest = found.page.locator("body").evaluate("(body) => document.body.scrollWidth")
        assert widest <= 390
        assert quiet(found)


def test_markup_of_metrics_and_runs_stays_text_in_the_script(visit: Open) -> None:
    nasty = "</script><img src=x onerror=alert(1)>"
    lines = [line(at) | {nasty: float(at)} for at in (1, 2, 3)]
    found = visit(report_page([record(lines, name=nasty), record(lines, name="b")]))
    found.page.locator("#search").fill("onerror")
    found.page.locator("#metrics tbody tr:visible button").first.click()
    found.page.locator("#chosen .plot").hover()
    assert found("document.querySelector('#chosen h3').textContent") == nasty
    assert found("document.images.length") == 0
    assert quiet(found)
