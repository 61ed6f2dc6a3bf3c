"""The page of a study: one file that needs neither script nor network. The charts and their sizes
are decided here, everything around them in assets/study.html."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from string import ascii_lowercase, ascii_uppercase, digits
from typing import Any

from markupsafe import Markup

from dgpo_cli.core.numbers import short
from dgpo_cli.core.types import StudyRecord
from dgpo_cli.report import study_facts as facts
from dgpo_cli.report.charts.drawing import mark, svg
from dgpo_cli.report.charts.forest import forest
from dgpo_cli.report.charts.sampling import Values
from dgpo_cli.report.curves import DrawnChart
from dgpo_cli.report.panels import REWARD, STUDY, Curve, Panel
from dgpo_cli.report.run_page import HEIGHT, LARGE, WIDE, WIDTH, points_of
from dgpo_cli.report.study_charts import (
    draw_differences,
    draw_each_difference,
    draw_means,
    is_many,
)
from dgpo_cli.report.study_series import StudySeries, study_series
from dgpo_cli.stats.intervals import student_quantile
from dgpo_cli.study.summary import StudyTable
from dgpo_cli.study.view import grids, legend, sentences
from dgpo_cli.ui.document import asset, compact, document

SMALL = (256.0, 150.0)  # of a chart a variant
_DIGITS = ascii_uppercase + ascii_lowercase + digits + "+-"  # of a number in the data
_FINE = 3  # digits of a number of a metric that has a chart; of another metric one less
_DECADES = 1e4  # from which numbers are stored on a logarithmic scale

Figure = tuple[DrawnChart, list[Markup]]


def study_page(record: StudyRecord, table: StudyTable, *, at: Path) -> str:
    """Return the page of a study that is to lie in the folder `at`; the same in, the same out."""
    record = replace(record, baseline=table.baseline)
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
        subject=facts.subject(record),
        grids=grids(table),
        sentences=sentences(table),
        legend=legend(table),
        key_of=facts.key_of,
        notes=table.notes,
        forests=[_forest(each) for each in facts.effects(table, study, lettered=True)],
        head=list(_head(study)),
        each=[(chart, [_svg(chart, *SMALL)]) for chart in _apart(study)],
        panels=list(_panels(study)),
        large=large,
        metrics=list(_metrics(study)),
        settings=facts.settings(record),
        runs=list(facts.runs(record, at=at)),
        is_many=is_many,
        mark=lambda look, x, y: Markup(mark(look, x, y)),
    )


def _forest(found: facts.Effects) -> tuple[facts.Effects, list[Markup]]:
    sizes = (WIDE, WIDTH)
    return found, [Markup(forest(found.effects, title=found.title, width=each)) for each in sizes]


def _head(study: StudySeries) -> Iterator[Figure]:
    """Yield the reward, large, and its differences."""
    wide, narrow = draw_means(REWARD, study, named=True), draw_means(REWARD, study)
    if wide is not None and narrow is not None:
        yield wide, [_svg(wide, WIDE, HEIGHT + 90), _svg(narrow)]
    apart = draw_differences(REWARD, study)
    if apart is not None:
        yield apart, [_svg(apart, WIDTH, HEIGHT + 90)]


def _apart(study: StudySeries) -> list[DrawnChart]:
    return draw_each_difference(REWARD, study) if is_many(study.variants) else []


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

    A number is `digits` characters, its place in the range of all, linear or logarithmic; 0 is
    unknown. No text means that all have the lowest number.
    """
    columns = {
        each.letter: [value for seed in each.columns[metric] for value in seed]
        for each in study.variants
        if each.has(metric)
    }
    known = [value for column in columns.values() for value in column if value is not None]
    low, high = min(known), max(known)
    log = low > 0 and high >= _DECADES * low
    drawn = any(metric == panel.curves[0].metric for panel in (REWARD, *STUDY))
    width = _FINE if drawn else _FINE - 1
    place = math.log if log else float
    start, reach = place(low), place(high) - place(low)
    scale = (len(_DIGITS) ** width - 2) / reach if reach else 0.0
    texts = {
        letter: ""
        if low == high and None not in column
        else "".join(
            _digits(None if value is None else round((place(value) - start) * scale), width)
            for value in column
        )
        for letter, column in columns.items()
    }
    ends = {"low": compact(low, digits=9), "high": compact(high, digits=9)}
    return {**ends, "log": log, "digits": width, **texts}


@lru_cache(maxsize=100_000)
def _digits(place: int | None, width: int) -> str:
    """Return a place from 0, or that a number is unknown."""
    code, text = 0 if place is None else place + 1, ""
    for _ in range(width):
        code, digit = divmod(code, len(_DIGITS))
        text = _DIGITS[digit] + text
    return text
