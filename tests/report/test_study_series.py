"""Curves of a study: means over seeds with intervals of them, and differences paired by seed."""

from __future__ import annotations

import base64
import math
import statistics
from dataclasses import replace
from typing import Any

import pytest

from dgpo_cli.core.types import StudyRun
from dgpo_cli.report.charts.drawing import frame
from dgpo_cli.report.charts.sampling import smoothed
from dgpo_cli.report.panels import REWARD, STUDY
from dgpo_cli.report.study_charts import draw_differences, draw_each_difference, draw_means
from dgpo_cli.report.study_page import _data
from dgpo_cli.report.study_series import letter_of, over_seeds, paired, study_series
from tests.report.study_records import FEW, MANY, study, study_run

T_4 = 2.7764451052  # Student's 97.5% quantile with 4 degrees of freedom, from a table


def rewards(run: StudyRun) -> list[float]:
    return [float(line["reward/mean"] or 0.0) for line in run.steps]


def test_a_curve_is_the_mean_over_seeds_and_its_band_students_interval() -> None:
    record = study(FEW)
    series = study_series(record)
    band = over_seeds(series.variants[1].columns["reward/mean"])
    runs = [rewards(run) for run in record.runs if run.variant == "surprisal"]
    for at in range(40):
        values = [run[at] for run in runs]
        mean, error = statistics.fmean(values), statistics.stdev(values) / math.sqrt(5)
        assert band.mean[at] == pytest.approx(mean, abs=1e-12)
        assert band.low[at] == pytest.approx(mean - T_4 * error, abs=1e-9)
        assert band.high[at] == pytest.approx(mean + T_4 * error, abs=1e-9)


def test_a_band_is_the_interval_of_the_smoothed_mean() -> None:
    seeds = study_series(study(FEW)).variants[0].columns["reward/mean"]
    band = over_seeds(seeds, span=9.0)
    last = [float(smoothed(seed, span=9.0)[-1] or 0.0) for seed in seeds]
    half = T_4 * statistics.stdev(last) / math.sqrt(5)
    assert band.mean[-1] == pytest.approx(statistics.fmean(last), abs=1e-12)
    assert band.high[-1] == pytest.approx(statistics.fmean(last) + half, abs=1e-9)


def test_one_seed_has_no_band_and_no_seed_no_mean() -> None:
    band = over_seeds([(1.0, None, 3.0), (None, None, 5.0)])
    assert band.mean == [1.0, None, 4.0]
    assert band.low[:2] == band.high[:2] == [None, None]
    assert band.low[2] is not None and band.low[2] < 4.0


def test_what_seeds_share_cancels_in_a_paired_difference() -> None:
    series = study_series(study(FEW))
    base, other = series.baseline, series.variants[1]
    apart = over_seeds(paired(other, base, "reward/mean"))
    alone = over_seeds(other.columns["reward/mean"])
    widths = [
        statistics.fmean(
            high - low for low, high in zip(b.low, b.high, strict=True) if low and high
        )
        for b in (apart, alone)
    ]
    assert widths[0] < widths[1] / 2  # 0.005 of noise of a run's own, 0.03 that seeds share
    assert statistics.fmean(x for x in apart.mean if x is not None) == pytest.approx(0.01, abs=1e-3)


def test_seeds_that_only_one_variant_has_are_not_in_the_difference() -> None:
    record = study(FEW, extra=[study_run("uniform", 2, steps=0)])
    series = study_series(record)
    assert series.baseline.seeds == (0, 1, 3, 4)
    assert len(paired(series.variants[1], series.baseline, "reward/mean")) == 4


def test_points_are_the_same_steps_in_every_run() -> None:
    late = study_run("surprisal", 0, steps=40)
    late = replace(late, steps=tuple(line for line in late.steps if line["step"] != 7))
    series = study_series(study(FEW, extra=[late]))
    values = series.variants[1].columns["reward/mean"][0]
    assert values[6] is None and values[7] == rewards(late)[6]


def test_many_runs_have_fewer_points_of_several_steps() -> None:
    record = study(MANY, seeds=range(10), steps=200)
    series = study_series(record)
    assert (len(series.steps), series.size) == (100, 2)
    first = rewards(record.runs[0])[:2]
    assert series.baseline.columns["reward/mean"][0][0] == pytest.approx(statistics.fmean(first))


def test_time_and_tokens_are_sums_of_means_over_seeds() -> None:
    record = study(FEW)
    base = study_series(record).baseline
    seconds = [
        sum(line["time/step_s"] or 0.0 for line in run.steps)
        for run in record.runs
        if run.variant == "uniform"
    ]
    assert base.costs[0][-1] == pytest.approx(statistics.fmean(seconds))


def test_the_baseline_comes_first() -> None:
    record = replace(study(FEW), baseline="surprisal")
    names = [each.name for each in study_series(record).variants]
    assert names == ["surprisal", "uniform", "rule=dgpo,tau=0.02"]


def test_more_variants_than_colours_are_grey_but_for_the_baseline() -> None:
    assert [each.look for each in study_series(study(FEW)).variants] == [1, 2, 3]
    series = study_series(study(MANY, steps=3))
    assert [each.look for each in series.variants] == [1] + [0] * 12


def test_the_bands_of_many_curves_do_not_hide_each_other() -> None:
    for names, banded in ((list(MANY)[:4], True), (list(MANY)[:5], False)):
        drawn = draw_means(REWARD, study_series(study(dict.fromkeys(names, 0.0), steps=5)))
        assert drawn is not None
        assert all(bool(line.low) is banded for line in drawn.chart.lines)


def test_differences_in_charts_of_their_own_have_one_axis() -> None:
    charts = [each.chart for each in draw_each_difference(REWARD, study_series(study(MANY)))]
    assert len(charts) == 12
    assert len({(chart.floor, chart.ceiling) for chart in charts}) == 1
    assert all(chart.lines[0].low for chart in charts)


def test_the_wide_interval_of_two_seeds_leaves_the_curves_visible() -> None:
    series = study_series(study(FEW, seeds=(0, 1)))
    drawn = draw_means(REWARD, series)
    assert drawn is not None
    for line in drawn.chart.lines:
        known = [y for y in line.ys if y is not None]
        reach = max(known) - min(known)
        assert max(line.ends[0]) <= max(known) + reach
        assert min(line.ends[0][:2]) >= min(known) - reach


def test_the_axis_of_what_is_never_negative_starts_at_0_whatever_its_band() -> None:
    series = study_series(study(FEW, seeds=(0, 1)))
    step = next(panel for panel in STUDY if panel.key == "step")
    drawn = draw_means(step, series)
    assert drawn is not None
    assert min(value for line in drawn.chart.lines for value in line.low if value is not None) < 0
    assert frame(drawn.chart, width=384, height=224).y.low == 0


def test_a_study_without_steps_has_no_charts() -> None:
    series = study_series(study(FEW, steps=0))
    assert draw_means(REWARD, series) is None
    assert draw_differences(REWARD, series) is None
    assert draw_each_difference(REWARD, series) == []


def unpacked(metric: dict[str, Any], letter: str) -> list[float | None]:
    """A slow reader of the data of a page."""
    text = metric[letter].replace("-", "/")
    low, high, digits = metric["low"], metric["high"], metric["digits"]
    found: list[float | None] = []
    for part in (text[at : at + digits] for at in range(0, len(text), digits)):
        code = int.from_bytes(base64.b64decode(part.rjust(4, "A")), "big")
        share = (code - 1) / (64**digits - 2)
        value = low * (high / low) ** share if metric["log"] else low + share * (high - low)
        found.append(value if code else None)
    return found


@pytest.mark.parametrize("metric", ["reward/mean", "policy/hellinger_sq_mean", "my/own_metric"])
def test_the_data_of_the_page_are_the_seeds_numbers(metric: str) -> None:
    holes = study_run("uniform", 0)
    holes = replace(holes, steps=holes.steps[:3] + holes.steps[5:])
    series = study_series(study(FEW, extra=[holes]))
    data = _data(series)["metrics"][series.metrics.index(metric)]
    assert data["log"] == (metric == "policy/hellinger_sq_mean")
    for each in series.variants:
        wanted = [value for seed in each.columns[metric] for value in seed]
        for found, value in zip(unpacked(data, each.letter), wanted, strict=True):
            assert (found is None) == (value is None)
            if found is not None:
                step = (data["high"] - data["low"]) / (64 ** data["digits"] - 2)
                wide = {"rel": 2e-3} if data["log"] else {"abs": 0.52 * step}
                assert found == pytest.approx(value, **wide)


def test_a_constant_metric_takes_no_room() -> None:
    series = study_series(study(FEW))
    data = _data(series)["metrics"][series.metrics.index("my/constant")]
    assert data == {"low": 2, "high": 2, "log": False, "digits": 2, "A": "", "B": "", "C": ""}


def test_letters_go_on_after_z() -> None:
    assert [letter_of(at) for at in (0, 25, 26, 27, 52)] == ["A", "Z", "AA", "AB", "BA"]
