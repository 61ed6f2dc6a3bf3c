"""The page of `dgpo report`: one file that needs neither script nor network. The charts and their
sizes are decided here, everything around them in assets/report.html."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from string import ascii_uppercase
from typing import Any

from markupsafe import Markup

from dgpo_cli.core.numbers import duration, short
from dgpo_cli.core.types import RunRecord
from dgpo_cli.inspect.token_html import tokens_style
from dgpo_cli.report import facts
from dgpo_cli.report.charts.drawing import Chart, Line, frame, mark, path, polyline, svg
from dgpo_cli.report.charts.sampling import Buckets, Column, column
from dgpo_cli.report.curves import (
    DrawnChart,
    RunSeries,
    draw,
    draw_evals,
    known,
    series_of,
    span_steps,
    whisker,
)
from dgpo_cli.report.panels import GROUPS, REWARD, Curve, Panel, named_by_settings
from dgpo_cli.ui.document import asset, compact, document

MAX_RUNS = 8  # the number of distinguishable looks
WIDTH, HEIGHT = 384.0, 224.0  # of a chart in units, pixels on most screens
WIDE, LARGE = 760.0, 640.0
SPARK = 60  # points of a curve in the table of all metrics

Figure = tuple[DrawnChart, list[Markup]]


def report_page(records: Sequence[RunRecord]) -> str:
    """Return the page of one run or of several overlaid; the same records give the same bytes.

    Raises:
        ValueError: no run, or more than MAX_RUNS.
    """
    if not 1 <= len(records) <= MAX_RUNS:
        raise ValueError(f"{len(records)} runs: a page shows 1 to {MAX_RUNS}")
    runs = all_series(records)
    groups = list(_groups(runs))
    drawn = [chart for _, charts in groups for chart, _ in charts]
    places = _places(drawn, several=len(runs) > 1)
    large = list(_large(runs, places))
    return document(
        "report.html",
        title=f"{', '.join(record.name for record in records)}: dgpo report",
        style=asset("charts.css") + asset("report.css") + tokens_style(),
        script=asset("numbers.js") + asset("report.js"),
        data=_data(runs, [*drawn, *(chart for chart, _ in large)]),
        runs=runs,
        groups=groups,
        large=large,
        metrics=list(_metrics(runs, places)),
        mark=lambda look, x, y: Markup(mark(look, x, y)),
        **_facts(records, runs),
    )


def all_series(records: Sequence[RunRecord]) -> tuple[RunSeries, ...]:
    """Return the curves of all runs, with a letter each."""
    return tuple(
        series_of(record, letter=letter, runs=len(records))
        for record, letter in zip(records, ascii_uppercase, strict=False)
    )


def _facts(records: Sequence[RunRecord], runs: Sequence[RunSeries]) -> dict[str, Any]:
    """Return the facts of the page: all of one run, the differences of several."""
    found: dict[str, Any] = {
        "records": records,
        "changes": facts.changes,
        "rewarded": facts.rewarded,
        "diagnosed": [record for record in records if facts.is_diagnosed(record)],
        "noted": [
            (record, facts.notes(record, series=run))
            for record, run in zip(records, runs, strict=True)
        ],
    }
    if len(records) > 1:
        return found | {
            "subject": "",
            "compared": facts.compared(records, runs),
            "warnings": facts.warned(records),
            "differing": facts.differing(records),
            "evaluations": [],
        }
    (record,), (run,) = records, runs
    return found | {
        "subject": facts.subject(record),
        "tiles": facts.tiles(record, run),
        "evaluations": facts.evaluations(record),
        "samples": facts.samples(record.samples),
        "checkpoints": facts.checkpoints(record),
        "settings": facts.settings(record),
    }


def _groups(runs: Sequence[RunSeries]) -> Iterator[tuple[str, list[Figure]]]:
    """Yield the reward, large, with the evaluations, then every group that is not empty."""
    reward, evals = draw(REWARD, runs), draw_evals(runs)
    head = [] if reward is None else [(reward, [_svg(reward, WIDE, HEIGHT + 40), _svg(reward)])]
    groups = [("Reward and evaluation", head + ([] if evals is None else [(evals, [_svg(evals)])]))]
    for group in (named_by_settings(_names(runs)), *GROUPS):
        drawn = (draw(panel, runs) for panel in group.panels)
        groups.append((group.title, [(each, [_svg(each)]) for each in drawn if each is not None]))
    yield from (group for group in groups if group[1])


def _svg(drawn: DrawnChart, width: float = WIDTH, height: float = HEIGHT) -> Markup:
    return Markup(svg(drawn.chart, width=width, height=height))


def _places(drawn: Sequence[DrawnChart], *, several: bool) -> dict[str, str]:
    """Return the chart of each metric that a panel shows, and for one run the curve in it."""
    return {
        source.metric: each.panel.key if several else f"{each.panel.key} {at}"
        for each in reversed(drawn)
        for at, source in enumerate(each.sources)
    }


def _large(runs: Sequence[RunSeries], places: dict[str, str]) -> Iterator[Figure]:
    """Yield a chart of each metric that no panel shows; the script shows it on request."""
    for at, name in enumerate(_names(runs)):
        panel = Panel(f"metric-{at}", name, "", (Curve(name, name.rsplit("/", 1)[-1]),))
        chart = draw(panel, runs, span=1) if name not in places else None
        if chart is not None:
            places[name] = panel.key
            yield chart, [_svg(chart, LARGE)]


def _names(runs: Sequence[RunSeries]) -> list[str]:
    return sorted({name for run in runs for name in run.columns})


def _metrics(runs: Sequence[RunSeries], places: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """Yield every metric of every run, with a small curve."""
    for name in _names(runs):
        for run in runs:
            if run.has(name):
                yield {
                    "name": name,
                    "place": places[name],
                    "letter": run.letter,
                    "summary": facts.summary(run, name),
                    "spark": _spark(run, run.columns[name]),
                }


def _spark(run: RunSeries, values: Column) -> Markup:
    """Return a curve without axes, of at most SPARK points."""
    buckets = Buckets.of(len(run.steps), at_most=SPARK)
    ys = column(values.mean, buckets=buckets).mean
    xs = [run.steps[stop - 1] for _, stop in buckets]
    place = frame(Chart("", [Line("", 1, xs, ys)], labelled=False), width=166, height=52)
    return Markup(path("line", *polyline(xs, ys, place=place)))


def _data(runs: Sequence[RunSeries], drawn: Sequence[DrawnChart]) -> dict[str, Any]:
    """Return the script's data: the points of the curves on each x axis, and their texts under the
    crosshair."""
    points = {}
    texts = {f"{run.letter}-evals": "|".join(map(_eval_text, run.evals)) for run in runs}
    for run in runs:
        points[run.letter] = points_of((run.steps, run.seconds, run.tokens), size=run.size)
        points[f"{run.letter}-evals"] = points_of(run.eval_points, size=1)
    for source in (source for each in drawn for source in each.sources):
        run = runs[source.run]
        if source.metric in run.columns:
            ys = run.columns[source.metric].mean
            texts[source.texts(run)] = "|".join("" if y is None else short(y) for y in ys)
    longest = max(len(run.steps) * run.size for run in runs)
    return {"span": span_steps(runs), "longest": longest, "points": points, "texts": texts}


def points_of(axes: Sequence[Sequence[float]], *, size: int) -> dict[str, Any]:
    steps, seconds, tokens = axes
    heads = (
        "|".join(f"step {step:,.0f}" for step in steps),
        "|".join(map(duration, seconds)),
        "|".join(f"{short(each)} tokens" for each in tokens),
    )
    at = [[compact(x, digits=9) if math.isfinite(x) else 0 for x in axis] for axis in axes]
    return {"size": size, "at": at, "heads": heads}


def _eval_text(line: Mapping[str, Any]) -> str:
    score, ends = known(line.get("avg_at_k")), whisker(line)
    if score is None:
        return ""
    if ends is None:
        return short(score)
    inner, outer = (" to ".join(map(short, pair)) for pair in (ends[:2], ends[2:]))
    return f"{short(score)} ({inner}; other problems {outer})"
