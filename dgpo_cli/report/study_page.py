"""The page of a study: one file that needs neither script nor network. The charts and their sizes
are decided here, everything around them in assets/study.html."""

from __future__ import annotations

import base64
import math
import os
import sys
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from dgpo_cli.config.changes import value_text
from dgpo_cli.core.numbers import counted, short
from dgpo_cli.core.types import StudyRecord, StudyRun
from dgpo_cli.report.charts.drawing import mark, svg
from dgpo_cli.report.charts.sampling import Values
from dgpo_cli.report.curves import DrawnChart
from dgpo_cli.report.panels import REWARD, STUDY, Curve, Panel
from dgpo_cli.report.run_page import HEIGHT, LARGE, WIDE, WIDTH, points_of
from dgpo_cli.report.study_charts import draw_differences, draw_each_difference, draw_means
from dgpo_cli.report.study_series import StudySeries, study_series
from dgpo_cli.stats.intervals import student_quantile
from dgpo_cli.ui.document import asset, compact, document

TOGETHER = 4  # variants whose differences are in one chart
SMALL = (256.0, 150.0)  # of a chart a variant
_MOST = 0xFFFF  # of a number in the data
_DECADES = 1e4  # from which numbers are stored on a logarithmic scale

Figure = tuple[DrawnChart, list[Markup]]


def study_page(record: StudyRecord, *, at: Path) -> str:
    """Return the page of a study that is to lie in the folder `at`; the same in, the same out."""
    study = study_series(record)
    large = list(_large(study))
    return document(
        "study.html",
        title=f"{record.name}: dgpo report",
        style=asset("charts.css") + asset("report.css") + asset("study.css"),
        script=asset("numbers.js") + asset("seeds.js") + asset("report.js") + asset("study.js"),
        data=_data(study),
        record=record,
        study=study,
        subject=_subject(record),
        head=list(_head(study)),
        each=[(chart, [_svg(chart, *SMALL)]) for chart in _apart(study)],
        panels=list(_panels(study)),
        large=large,
        metrics=list(_metrics(study)),
        settings=_settings(record),
        runs=list(_runs(record, at=at)),
        mark=lambda look, x, y: Markup(mark(look, x, y)),
    )


def _subject(record: StudyRecord) -> str:
    """Return what was compared with what."""
    done = sum(run.state == "finished" for run in record.runs)
    parts = (
        f"{counted(len(record.variants), 'variant')} × {counted(len(record.seeds), 'seed')}",
        f"{done} of {counted(len(record.runs), 'run')} finished",
        f"baseline {record.baseline}",
    )
    return " · ".join(parts)


def _head(study: StudySeries) -> Iterator[Figure]:
    """Yield the reward, large, and its differences if they fit in one chart."""
    wide, narrow = draw_means(REWARD, study, named=True), draw_means(REWARD, study)
    if wide is not None and narrow is not None:
        yield wide, [_svg(wide, WIDE, HEIGHT + 90), _svg(narrow)]
    apart = draw_differences(REWARD, study)
    if apart is not None and len(study.variants) <= TOGETHER:
        yield apart, [_svg(apart, WIDTH, HEIGHT + 90)]


def _apart(study: StudySeries) -> list[DrawnChart]:
    return draw_each_difference(REWARD, study) if len(study.variants) > TOGETHER else []


def _panels(study: StudySeries) -> Iterator[Figure]:
    for panel in STUDY:
        drawn = draw_means(panel, study)
        if drawn is not None:
            yield drawn, [_svg(drawn)]


def _large(study: StudySeries) -> Iterator[tuple[str, list[Figure]]]:
    """Yield the charts of each metric, empty: the script draws them on request."""
    for at, name in enumerate(study.metrics):
        panel = Panel(f"metric-{at}", name, "", (Curve(name, name),))
        drawn = draw_means(panel, study, hollow=True), draw_differences(panel, study, hollow=True)
        yield panel.key, [(each, [_svg(each, LARGE)]) for each in drawn if each is not None]


def _svg(drawn: DrawnChart, width: float = WIDTH, height: float = HEIGHT) -> Markup:
    return Markup(svg(drawn.chart, width=width, height=height))


def _metrics(study: StudySeries) -> Iterator[dict[str, Any]]:
    """Yield every metric: of the baseline, and the variants with the least and the most."""
    for at, name in enumerate(study.metrics):
        means = {
            each.letter: mean
            for each in study.variants
            if (mean := _mean(each.columns.get(name, ()))) is not None
        }
        base = means.get(study.baseline.letter)
        ends = [pick(means, key=means.__getitem__) for pick in (min, max)]
        yield {
            "name": name,
            "place": f"metric-{at}",
            "base": "-" if base is None else short(base),
            "ends": [(letter, short(means[letter])) for letter in ends],
        }


def _mean(seeds: Sequence[Values]) -> float | None:
    known = [value for seed in seeds for value in seed if value is not None]
    return math.fsum(known) / len(known) if known else None


def _settings(record: StudyRecord) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Return the settings by which variants differ, and each variant's values of them."""
    keys = dict.fromkeys(key for each in record.variants for key in (*each.settings, *each.tuned))
    rows = []
    for each in record.variants:
        texts = []
        for key in keys:
            value = {**each.settings, **each.tuned}.get(key)
            tuned = " (tuned)" if key in each.tuned else ""
            texts.append("" if value is None else f"{value_text(value)}{tuned}")
        rows.append((each.name, texts))
    return list(keys), rows


def _runs(record: StudyRecord, *, at: Path) -> Iterator[tuple[str, list[tuple[StudyRun, str]]]]:
    """Yield the runs of each variant, with what they link to from the folder `at`."""
    for variant in record.variants:
        runs = [run for run in record.runs if run.variant == variant.name]
        yield variant.name, [(run, _link(run, at=at)) for run in runs]


def _link(run: StudyRun, *, at: Path) -> str:
    """Return the address of a run's report, or of its folder; empty if there is none."""
    folder = Path(run.folder)
    if not folder.is_dir():
        return ""
    page = folder / "report.html"
    there = os.path.relpath(page if page.is_file() else folder, at)
    return quote(Path(there).as_posix() + "/" * (not page.is_file()))


def _data(study: StudySeries) -> dict[str, Any]:
    """Return the script's data: the x axes of every variant, and every seed's numbers."""
    most = max((len(each.seeds) for each in study.variants), default=0)
    return {
        "span": study.span,
        "longest": len(study.steps) * study.size,
        "points": {
            each.letter: points_of((study.steps, *each.costs), size=study.size)
            for each in study.variants
        },
        "texts": {},
        "variants": {each.letter: list(each.seeds) for each in study.variants},
        "student": [0, 0] + [student_quantile(0.975, freedom=n - 1) for n in range(2, most + 1)],
        "metrics": [_packed(name, study) for name in study.metrics],
    }


def _packed(metric: str, study: StudySeries) -> dict[str, Any]:
    """Return the numbers of all seeds, of each variant one after the other.

    A number is 16 bits of the range of all, linear or logarithmic, in base64; 0 is unknown. No text
    means that all have the lowest number.
    """
    columns = {
        each.letter: [value for seed in each.columns[metric] for value in seed]
        for each in study.variants
        if each.has(metric)
    }
    known = [value for column in columns.values() for value in column if value is not None]
    low, high = min(known), max(known)
    log = low > 0 and high >= _DECADES * low
    found = {letter: _text(column, low, high, log=log) for letter, column in columns.items()}
    return {"low": compact(low, digits=9), "high": compact(high, digits=9), "log": log} | found


def _text(column: Sequence[float | None], low: float, high: float, *, log: bool) -> str:
    if low == high and None not in column:
        return ""
    reach = (math.log(high / low) if log else high - low) or 1.0
    codes = array("H")
    for value in column:
        if value is None:
            codes.append(0)
        else:
            share = (math.log(value / low) if log else value - low) / reach
            codes.append(1 + round((_MOST - 1) * share))
    if sys.byteorder == "big":
        codes.byteswap()
    return base64.b64encode(codes.tobytes()).decode("ascii")
