"""Puts the page of `dgpo report` together: one file, readable without a script and a network."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from string import ascii_uppercase
from typing import Any

from dgpo_cli.core.numbers import duration, short
from dgpo_cli.core.text import escaped
from dgpo_cli.core.types import RunRecord
from dgpo_cli.inspect.token_html import tokens_style
from dgpo_cli.report import compare, overview, sections
from dgpo_cli.report.draw import Drawn, draw, draw_evals, whisker
from dgpo_cli.report.figures import figure
from dgpo_cli.report.panels import GROUPS, REWARD, Curve, Panel
from dgpo_cli.report.series import RunSeries, known, series_of, span_steps
from dgpo_cli.ui.document import asset, document, theme_button

MAX_RUNS = 8  # as many as there are looks that can be told apart


def report_page(records: Sequence[RunRecord]) -> str:
    """The page of one run, or of several over each other; the same records, the same bytes.

    Raises:
        ValueError: no run, or more than MAX_RUNS.
    """
    if not 1 <= len(records) <= MAX_RUNS:
        raise ValueError(f"{len(records)} runs: a page shows 1 to {MAX_RUNS}")
    runs = all_series(records)
    drawn: list[Drawn] = []
    body = "".join(_body(records, runs, drawn))
    return document(
        title=f"{', '.join(record.name for record in records)}: dgpo report",
        body=body,
        style=asset("charts.css") + asset("report.css") + tokens_style(),
        script=asset("numbers.js") + asset("report.js"),
        data=_data(runs, drawn),
    )


def all_series(records: Sequence[RunRecord]) -> tuple[RunSeries, ...]:
    """The curves of all runs, lettered in their order."""
    return tuple(
        series_of(record, letter=letter, runs=len(records))
        for record, letter in zip(records, ascii_uppercase, strict=False)
    )


def _body(
    records: Sequence[RunRecord], runs: Sequence[RunSeries], drawn: list[Drawn]
) -> Iterator[str]:
    yield _header(records)
    yield "<main>"
    if len(records) == 1:
        yield overview.overview(records[0], runs[0])
    else:
        yield compare.comparison(records, runs)
    for record in records:
        yield sections.changes(record, named=len(records) > 1)
    yield overview.diagnoses(records)
    for record, run in zip(records, runs, strict=True):
        yield overview.events(record, series=run, named=len(records) > 1)
    if len(records) > 1:
        yield compare.differing(records, runs)
    yield _controls()
    yield from _curves(runs, drawn, records=records)
    for record in records if len(records) == 1 else ():
        yield sections.samples(record.samples)
        yield sections.checkpoints(record)
        yield sections.settings(record)
    yield from _large(runs, drawn)
    yield "</main>"
    yield '<footer class="bottom">Written by dgpo report. This file needs no network.</footer>'


def _header(records: Sequence[RunRecord]) -> str:
    names = " · ".join(escaped(record.name) for record in records)
    return (
        '<header class="top"><div><p class="kicker">dgpo report</p>'
        f"<h1>{names}</h1>{_subject(records[0]) if len(records) == 1 else ''}</div>"
        f"{theme_button()}</header>"
    )


def _subject(record: RunRecord) -> str:
    """What was trained with what, as far as the settings say."""
    values = {each.key: each.value for each in record.settings}
    parts = [values.get("model.path", "")]
    if values.get("adapter.kind", "none") != "none":
        parts.append(f"{values['adapter.kind']} r={values.get('adapter.rank', '?')}")
    rule = values.get("credit.rule")
    if rule:
        tau = f", tau {values['credit.tau']}" if rule == "dgpo" and "credit.tau" in values else ""
        parts.append(f"credit {rule}{tau}")
    if "rollout.prompts_per_step" in values and "rollout.group_size" in values:
        parts.append(
            f"{values['rollout.prompts_per_step']} × {values['rollout.group_size']} a step"
        )
    if "optim.lr" in values:
        parts.append(f"lr {values['optim.lr']}")
    parts.append(overview.changed_after(record))
    text = " · ".join(part for part in parts if part)
    return f'<p class="muted subject">{escaped(text)}</p>' if text else ""


def _controls() -> str:
    """How the curves are drawn; without a script there is nothing to choose."""
    axes = "".join(
        f'<label><input type="radio" name="axis" value="{value}"{checked}> {name}</label>'
        for value, name, checked in (
            ("steps", "step", " checked"),
            ("seconds", "time", ""),
            ("tokens", "tokens", ""),
        )
    )
    return (
        '<section class="card controls strip" hidden aria-label="Curves">'
        f"<fieldset><legend>x axis</legend>{axes}</fieldset>"
        '<div class="slider"><label for="span">smoothing: <output id="span-value"></output></label>'
        '<input type="range" id="span" min="0" max="100" step="1"></div></section>'
    )


def _curves(
    runs: Sequence[RunSeries], drawn: list[Drawn], *, records: Sequence[RunRecord]
) -> Iterator[str]:
    """The reward large and the evaluations beside it, then every group that is not empty."""

    def figures(charts: Sequence[Drawn | None], *, wide: bool = False) -> str:
        known_charts = [each for each in charts if each is not None]
        drawn.extend(known_charts)
        return "".join(figure(each, runs=runs, wide=wide) for each in known_charts)

    head = figures([draw(REWARD, runs)], wide=True) + figures([draw_evals(runs)])
    if head:
        tables = sections.evaluations(records[0]) if len(records) == 1 else ""
        yield f'<section><h2>Reward and evaluation</h2><div class="charts">{head}</div>'
        yield f"{tables}</section>"
    for group in GROUPS:
        shown = figures([draw(panel, runs) for panel in group.panels])
        if shown:
            yield f'<section><h2>{group.title}</h2><div class="charts">{shown}</div></section>'


def _large(runs: Sequence[RunSeries], drawn: list[Drawn]) -> Iterator[str]:
    """All metrics, each with where its large chart is found: the panel that shows it and its curve
    there, or a chart of its own."""
    places = {
        source.metric: each.panel.key if len(runs) > 1 else f"{each.panel.key} {at}"
        for each in reversed(drawn)
        for at, source in enumerate(each.sources)
    }
    own = []
    for at, name in enumerate(sections.metric_names(runs)):
        panel = Panel(f"metric-{at}", name, "", (Curve(name, name.rsplit("/", 1)[-1]),))
        chart = draw(panel, runs, span=1) if name not in places else None
        if chart is not None:
            own.append(
                f'<template id="{panel.key}">{figure(chart, runs=runs, large=True)}</template>'
            )
            drawn.append(chart)
            places[name] = panel.key
    yield sections.all_metrics(runs, places=places)
    yield from own


def _data(runs: Sequence[RunSeries], drawn: Sequence[Drawn]) -> dict[str, Any]:
    """What the script finds no drawing of: where the points of the curves stand on each x axis,
    and what is written of them under the crosshair."""
    points = {}
    texts = {f"{run.letter}-evals": "|".join(map(_eval_text, run.evals)) for run in runs}
    for run in runs:
        points[run.letter] = _points((run.steps, run.seconds, run.tokens), size=run.size)
        points[f"{run.letter}-evals"] = _points(run.eval_points, size=1)
    for source in (source for each in drawn for source in each.sources):
        run = runs[source.run]
        if source.metric in run.columns:
            ys = run.columns[source.metric].mean
            texts[source.texts(run)] = "|".join("" if y is None else short(y) for y in ys)
    longest = max(len(run.steps) * run.size for run in runs)
    return {"span": span_steps(runs), "longest": longest, "points": points, "texts": texts}


def _points(axes: Sequence[Sequence[float]], *, size: int) -> dict[str, Any]:
    steps, seconds, tokens = axes
    heads = (
        "|".join(f"step {step:,.0f}" for step in steps),
        "|".join(map(duration, seconds)),
        "|".join(f"{short(each)} tokens" for each in tokens),
    )
    return {"size": size, "at": [[_rounded(x) for x in axis] for axis in axes], "heads": heads}


def _eval_text(line: Mapping[str, Any]) -> str:
    score, ends = known(line.get("avg_at_k")), whisker(line)
    if score is None:
        return ""
    if ends is None:
        return short(score)
    inner, outer = (" to ".join(map(short, pair)) for pair in (ends[:2], ends[2:]))
    return f"{short(score)} ({inner}; other problems {outer})"


def _rounded(value: float) -> float | int:
    """A number in as few characters as JSON needs; one that has no place is at the start."""
    if not math.isfinite(value):
        return 0
    rounded = float(f"{value:.9g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) < 1e15 else rounded
