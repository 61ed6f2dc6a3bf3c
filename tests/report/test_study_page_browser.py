"""The page of a study in headless Chromium: the script computes bands as Python does, and variants
stand out."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

import pytest

from dgpo_cli.core.types import StudyRecord
from dgpo_cli.report.charts.drawing import Chart
from dgpo_cli.report.panels import REWARD, Curve, Panel
from dgpo_cli.report.run_page import HEIGHT, LARGE, WIDE, WIDTH
from dgpo_cli.report.study_charts import draw_differences, draw_each_difference, draw_means
from dgpo_cli.report.study_page import SMALL, study_page
from dgpo_cli.report.study_series import StudySeries, over_seeds, paired, study_series
from dgpo_cli.study.summary import summarise
from tests.browser import Visit
from tests.report.study_records import FEW, MANY, study, study_run
from tests.report.test_page_browser import SEEN, TICKS, expected, quiet, shape

Open = Callable[..., Visit]
HOLES = study_run("surprisal", 1)
HOLES = replace(HOLES, steps=HOLES.steps[:5] + HOLES.steps[9:30])
RECORDS = {"few": study(FEW, extra=[HOLES]), "many": study(MANY, steps=20)}
ODD = {
    "a seed": study(FEW, seeds=(0,)),
    "a variant": study({"only": 0.0}),
    "no steps": study(FEW, steps=0),
    "a step": study(FEW, steps=1),
    "no baseline": study(FEW, extra=[study_run("uniform", seed, steps=0) for seed in range(5)]),
    "thirty": study({f"variant {at}": at / 100 for at in range(30)}, seeds=(0, 1), steps=5),
}
each_study = pytest.mark.parametrize("record", RECORDS.values(), ids=RECORDS)


def page(record: StudyRecord) -> str:
    return study_page(record, summarise(record), at=Path(record.path))


def agrees(found: Visit, key: str, *drawn: tuple[Chart, float, float]) -> None:
    """What is seen of a chart is what Python draws, but for the rounding of the page's numbers."""
    for (chart, width, height), seen, ticks in zip(
        drawn, found(SEEN, key), found(TICKS, key), strict=True
    ):
        shapes, texts = expected(chart, width=width, height=height)
        shown = [shape(*(each or "" for each in element)) for element in seen]
        if any(not line.low for line in chart.lines):  # a band that the page does not show
            shown, shapes = ([s for s in each if s[1] != "band"] for each in (shown, shapes))
        assert [each[:2] for each in shown] == [each[:2] for each in shapes]
        for one, other in zip(shown, shapes, strict=True):
            assert one[2] == pytest.approx(other[2], abs=0.25), (key, one[:2])
        assert [text for text, *_ in ticks] == [text for text, *_ in texts]


def draws(series: StudySeries) -> dict[str, list[tuple[Chart, float, float]]]:
    """The charts of the reward, with their sizes."""
    wide, narrow = draw_means(REWARD, series, named=True), draw_means(REWARD, series)
    assert wide is not None and narrow is not None
    found = {"reward": [(wide.chart, WIDE, HEIGHT + 90), (narrow.chart, WIDTH, HEIGHT)]}
    if len(series.variants) > 4:
        each = draw_each_difference(REWARD, series)
        return found | {one.panel.key: [(one.chart, *SMALL)] for one in each}
    apart = draw_differences(REWARD, series)
    assert apart is not None
    return found | {apart.panel.key: [(apart.chart, WIDTH, HEIGHT + 90)]}


@each_study
def test_the_script_leaves_the_drawing_as_python_made_it(visit: Open, record: StudyRecord) -> None:
    found = visit(page(record))
    found("charts.forEach(draw)")
    for key, drawn in draws(study_series(record)).items():
        agrees(found, key, *drawn)
    assert quiet(found)


@pytest.mark.parametrize("record", ODD.values(), ids=ODD)
def test_an_odd_study_can_be_used_in_every_way(visit: Open, record: StudyRecord) -> None:
    found = visit(page(record))
    found("charts.forEach(draw); state.span = 7; charts.forEach(draw)")
    found.page.locator("input[value=tokens]").check()
    for button in found.page.locator(".metric").all()[:2]:
        button.click()
    for button in found.page.locator(".pick").all()[:3]:
        button.click()
    found.page.locator("[data-chart] .plot").evaluate_all("(all) => all.map((svg) => svg.focus())")
    found.page.keyboard.press("End")
    found.page.locator("#table .sort").first.click()
    found("charts.forEach(draw)")
    assert quiet(found)


def test_without_smoothing_the_page_is_what_python_draws(
    visit: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = visit(page(RECORDS["few"]))
    found("state.span = 1; charts.forEach(draw)")
    monkeypatch.setattr(StudySeries, "span", 1)
    for key, drawn in draws(study_series(RECORDS["few"])).items():
        agrees(found, key, *drawn)


def test_the_script_smooths_every_seed_before_it_takes_the_interval(visit: Open) -> None:
    found = visit(page(RECORDS["few"]))
    series = study_series(RECORDS["few"])
    seen = found(
        "(() => { state.span = 15; charts.forEach(draw); const { plots } = [...charts].find("
        "({ figure }) => figure.dataset.chart === 'reward-apart');"
        " return plots[0].series.map((each) => [each.shown, ...each.band.edges]"
        ".map((values) => Array.from(values, (value) => value ?? null))); })()"
    )
    for each, (mean, high, low) in zip(series.variants[1:], seen, strict=True):
        band = over_seeds(paired(each, series.baseline, "reward/mean"), span=15.0)
        for shown, wanted in ((mean, band.mean), (high, band.high), (low, band.low)):
            for one, other in zip_longest(shown, wanted):
                assert one == (None if other is None else pytest.approx(other, abs=3e-5))


def test_a_metric_by_itself_is_drawn_by_the_script_as_by_python(visit: Open) -> None:
    record = RECORDS["few"]
    series = study_series(record)
    found = visit(page(record))
    found.page.locator("#search").fill("grad norm")
    assert found.page.locator("#metrics tbody tr:visible").count() == 1
    found.page.locator("#metrics button.metric:visible").click()
    at = series.metrics.index("optim/grad_norm")
    panel = Panel(f"metric-{at}", "", "", (Curve("optim/grad_norm", ""),))
    for draw in (draw_means, draw_differences):
        drawn, hollow = draw(panel, series), draw(panel, series, hollow=True)
        assert drawn is not None and hollow is not None
        lines = [  # the page has one axis, for what is not smoothed
            replace(line, ends=other.ends)
            for line, other in zip(drawn.chart.lines, hollow.chart.lines, strict=True)
        ]
        drawn = replace(drawn, chart=replace(drawn.chart, lines=lines))
        agrees(found, drawn.panel.key, (drawn.chart, LARGE, HEIGHT))
    assert found("document.querySelectorAll('#chosen figure').length") == 2
    assert quiet(found)


def test_the_crosshair_reads_mean_and_interval_of_the_seeds(visit: Open) -> None:
    found = visit(page(RECORDS["few"]))
    found("state.span = 1; charts.forEach(draw)")
    chart = found.page.locator("[data-chart=reward] .wide svg")
    chart.focus()
    found.page.keyboard.press("End")
    read = found("document.querySelector('[data-chart=reward] .readout').innerText")
    band = over_seeds(study_series(RECORDS["few"]).baseline.columns["reward/mean"])
    (where, mean, low, high) = re.match(
        r"step (\d+)\s+A\s+([\d.]+) \(([\d.]+) to ([\d.]+)\)", read
    ).groups()  # type: ignore[union-attr]
    assert where == "40"
    for shown, wanted in ((mean, band.mean), (low, band.low), (high, band.high)):
        assert float(shown) == pytest.approx(wanted[-1], abs=6e-4)
    found.page.locator("input[value=tokens]").check()
    apart = found.page.locator("[data-chart=reward-apart] .plot")
    apart.focus()
    found.page.keyboard.press("Home")
    read = found("document.querySelector('[data-chart=reward-apart] .readout').innerText")
    assert read.startswith("step 1"), read  # differences are of equal steps on every axis
    crosses = found("document.querySelectorAll('[data-chart=reward] .cross:not([hidden])').length")
    assert crosses == 0  # that one is by tokens now
    assert quiet(found)


def test_the_table_is_sorted_by_the_keyboard_and_what_is_unknown_stays_last(visit: Open) -> None:
    found = visit(page(RECORDS["many"]))
    names = "[...document.querySelectorAll('#table tbody tr')].map((row) => row.dataset.variant)"
    assert "".join(found(names)) == "ABCDEFGHIJKLM"
    head = found.page.locator("#table .sort", has_text="difference").first
    head.focus()
    found.page.keyboard.press("Enter")
    assert found(names)[0] == "L" and found(names)[-2:] == ["M", "A"]
    column = found.page.locator("#table th[aria-sort]")
    assert column.count() == 1 and column.get_attribute("aria-sort") == "descending"
    found.page.keyboard.press("Space")
    assert found(names)[0] == "M" and found(names)[-2:] == ["L", "A"]
    assert column.get_attribute("aria-sort") == "ascending"
    found.page.keyboard.press("Enter")
    assert "".join(found(names)) == "ABCDEFGHIJKLM" and column.count() == 0
    assert quiet(found)


def test_a_variant_stands_out_when_chosen_or_pointed_at(visit: Open) -> None:
    found = visit(page(RECORDS["many"]))
    look = (
        "(letter) => document.querySelector(`[data-chart=reward] .wide [data-points=${letter}]`)"
        ".getAttribute('class')"
    )
    assert found(look, "I") == "series s0"
    button = found.page.locator(".pick[data-variant=I]")
    button.focus()
    assert found(look, "I") == "series s2 chosen"
    assert found(look, "A") == "series s1 chosen"  # the baseline is never dimmed
    found.page.keyboard.press("Enter")
    assert button.get_attribute("aria-pressed") == "true"
    found.page.locator(".pick[data-variant=L]").click()
    found.page.mouse.move(0, 0)
    found("document.activeElement.blur()")
    assert (found(look, "I"), found(look, "L")) == ("series s2 chosen", "series s3 chosen")
    band = "document.querySelector('[data-chart=reward] .wide [data-points=I] .band')"
    assert found(f"getComputedStyle({band}).display") == "inline"
    assert len(found(f"{band}.getAttribute('d')")) > 100
    found.page.locator(".pick[data-variant=I]").click()
    found.page.locator(".pick[data-variant=L]").click()
    found.page.mouse.move(0, 0)
    found("document.activeElement.blur()")
    assert found(look, "I") == "series s0"
    assert found("document.documentElement.classList.contains('choosing')") is False
    assert quiet(found)


def test_the_curve_near_the_pointer_stands_out_among_many(visit: Open) -> None:
    found = visit(page(RECORDS["many"]))
    found("charts.forEach(draw)")
    chart = found.page.locator("[data-chart=reward] .wide svg")
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    (x, y) = found(
        "(() => { const { plots: [plot] } = [...charts].find("
        "({ figure }) => figure.dataset.chart === 'reward');"
        " const each = plot.series.find((s) => s.group.dataset.points === 'M');"
        " return [each.xs[15], place(each.tops[15], plot.shown.y)]; })()"
    )
    scale = box["width"] / WIDE
    found.page.mouse.move(box["x"] + x * scale, box["y"] + y * scale)
    chosen = "[...document.querySelectorAll('.pick.chosen')].map((each) => each.dataset.variant)"
    assert found(chosen) == ["A", "M"]
    found.page.mouse.move(1, 1)
    assert found("document.documentElement.classList.contains('choosing')") is False
    assert quiet(found)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("scripted", [True, False])
def test_a_phone_shows_a_study_without_scrolling_sideways(
    visit: Open, scheme: str, scripted: bool
) -> None:
    long_names = study({"x" * 200: 0.0, "y" * 200: 0.1}, notes=("z" * 300,), steps=5)
    for record in (RECORDS["many"], long_names):
        found = visit(page(record), width=390, color_scheme=scheme, java_script_enabled=scripted)
        widest = found.page.locator("body").evaluate("(body) => document.body.scrollWidth")
        assert widest <= 390
        assert quiet(found)


def test_markup_in_a_study_stays_text(visit: Open) -> None:
    nasty = "</script><img src=x onerror=alert(1)>"
    record = study({"a": 0.0, nasty: 0.1}, notes=(nasty,))
    record = replace(record, name=nasty, description=nasty)
    found = visit(page(record))
    found.page.locator(".pick").last.click()
    assert nasty in found("document.querySelector('.pick:last-child').textContent")
    assert found("document.images.length") == 0
    assert quiet(found)
