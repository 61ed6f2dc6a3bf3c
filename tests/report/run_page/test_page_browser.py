"""The page of a run in headless Chromium: the script draws what Python drew, and answers."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from dgpo_cli.report.run_page.page import report_page
from dgpo_cli.types import RunRecord
from tests.report.conftest import Visit
from tests.report.run_page.records import evaluation, line, record

Open = Callable[..., Visit]
# 235 and 21 of 256: with the five digits of the data their shares add up to more than 1.
SHARES = {"outcome_correct": 235 / 256, "outcome_wrong": 21 / 256}
GAPS = [
    line(at, reward_mean=None if at in (7, 8, 20) else at / 40, **SHARES if at == 9 else {})
    for at in range(1, 41)
]
READ = "document.querySelector('[data-chart=reward] .readout').textContent"
DRAWN = (
    "[...document.querySelectorAll('figure[data-chart]')].map((figure) => [figure.dataset.chart,"
    " [...figure.querySelectorAll('.plot')].map((svg) => [...svg.querySelectorAll('text, path,"
    " line')].filter((each) => !each.closest('.cross')).map((each) => [each.getAttribute('class'),"
    " each.getAttribute('d') ?? each.getAttribute('y1') ?? each.getAttribute('y'),"
    " each.textContent]))])"
)


def quiet(found: Visit) -> bool:
    """Nothing on the console, and nothing asked for but the page itself."""
    return found.complaints == [] and len(found.requests) == 1


def numbers(text: str) -> list[float]:
    return [float(each) for each in re.findall(r"-?\d+(?:\.\d+)?", text or "")]


@pytest.mark.parametrize(
    "records",
    [[record(GAPS)], [record(GAPS), record(700, name="b", total=700)], [record(1)], [record(3)]],
    ids=["one", "several", "a step", "three steps"],
)
def test_the_script_draws_what_python_drew(visit: Open, records: list[RunRecord]) -> None:
    html = report_page(records)
    silent = visit(html, java_script_enabled=False)
    still = silent.page.locator("figure[data-chart]")
    scripted = visit(html)
    scripted("charts.forEach(redraw)")
    for at, (key, drawings) in enumerate(scripted(DRAWN)):
        figure = still.nth(at)
        assert figure.get_attribute("data-chart") == key
        for place, drawing in enumerate(drawings):
            svg = figure.locator(".plot").nth(place)
            there = [
                (each.get("class"), each.get("d") or each.get("y1") or each.get("y"), each["text"])
                for each in elements(svg.inner_html())
            ]
            assert [(look, text) for look, _, text in drawing] == [(c, t) for c, _, t in there]
            for (_, data, _), (_, written, _) in zip(drawing, there, strict=True):
                # The numbers of the data have 5 digits, the drawing has one after the point.
                assert numbers(data) == pytest.approx(numbers(written or ""), abs=0.21)
    assert quiet(scripted)


def elements(svg: str) -> list[dict[str, Any]]:
    """Texts, paths and lines of a drawing in their order."""
    found = []
    for tag, attributes, text in re.findall(r"<(text|path|line)\b([^>]*)>([^<]*)", svg):
        values = dict(re.findall(r'([\w-]+)="([^"]*)"', attributes))
        found.append({**values, "text": text if tag == "text" else ""})
    return found


def test_the_pointer_and_the_keys_read_the_same_numbers(visit: Open) -> None:
    found = visit(report_page([record(GAPS)]))
    chart = found.page.locator("[data-chart=reward] .wide svg")
    chart.hover()
    under_pointer = found(READ)
    assert re.match(r"step \d+reward 0\.\d+ \(smoothed 0\.\d+\)", under_pointer)
    step = int(re.findall(r"step (\d+)", under_pointer)[0])
    assert f"reward {step / 40:.4g}" in under_pointer
    found.page.mouse.move(0, 0)
    assert found("document.querySelectorAll('.cross').length") == 0
    chart.focus()
    found.page.keyboard.press("End")
    assert found(READ).startswith("step 40reward 1 ")
    found.page.keyboard.press("ArrowLeft")
    assert found(READ).startswith("step 39reward 0.975 ")
    # All charts in sight share the crosshair.
    assert found("document.querySelector('[data-chart=avg] .cross') !== null")
    found.page.keyboard.press("Escape")
    assert found("document.querySelectorAll('.cross').length") == 0
    assert quiet(found)


def test_the_x_axis_smoothing_and_series_can_be_chosen(visit: Open) -> None:
    found = visit(report_page([record(GAPS)]))
    path = "document.querySelector('[data-chart=reward] .wide .line').getAttribute('d')"
    smooth = found(path)
    found.page.locator("#span").focus()
    found.page.keyboard.press("Home")
    assert found("document.getElementById('span-value').textContent") == "off"
    assert found(path) != smooth
    assert found("document.querySelectorAll('[data-chart=reward] .raw').length") == 0
    found.page.locator("input[value=seconds]").check()
    chart = found.page.locator("[data-chart=reward] .wide svg")
    chart.focus()
    found.page.keyboard.press("Home")
    assert found(READ).startswith("3.5 s")
    found.page.locator("input[value=tokens]").check()
    chart.focus()
    found.page.keyboard.press("End")
    assert found(READ).startswith("40k tokens")
    areas = "document.querySelectorAll('[data-chart=outcomes] .fit .area').length"
    assert found(areas) == 2
    key = found.page.locator("[data-chart=outcomes] .key").first
    key.click()
    assert (found(areas), key.get_attribute("aria-pressed")) == (1, "false")
    key.click()
    assert found(areas) == 2
    assert quiet(found)


def test_any_metric_can_be_found_and_shown_large(visit: Open) -> None:
    found = visit(report_page([record(GAPS), record(name="b")]))
    found.page.locator("#search").fill("own met")
    shown = found.page.locator("#metrics tbody tr:visible")
    assert shown.count() == 2  # one a run
    shown.first.locator("button").click()
    assert found("document.querySelector('#chosen h3').textContent") == "my/own_metric"
    assert found("document.querySelectorAll('#chosen .line').length") == 2
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
    found.page.locator("#chosen svg").hover()
    assert found("document.querySelector('#chosen h3').textContent") == nasty
    assert found("document.images.length") == 0
    assert quiet(found)
