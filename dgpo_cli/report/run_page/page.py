"""Puts the page of `dgpo report` together: one file, readable without a script and a network."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from string import ascii_uppercase
from typing import Any

from dgpo_cli.report.document import asset, document, escaped, theme_button
from dgpo_cli.report.run_page import compare, overview, sections
from dgpo_cli.report.run_page.draw import Drawn, draw, draw_evals, whisker
from dgpo_cli.report.run_page.figures import figure
from dgpo_cli.report.run_page.panels import GROUPS, REWARD
from dgpo_cli.report.run_page.series import RunSeries, known, series_of, span_steps
from dgpo_cli.report.token_html import tokens_style
from dgpo_cli.types import RunRecord

MAX_RUNS = 8  # as many as there are looks that can be told apart
DIGITS = 5  # of the numbers that the script shows


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
        script="".join(asset(name) for name in ("plot.js", "report.js")),
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
    yield sections.all_metrics(runs)
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


def _data(runs: Sequence[RunSeries], drawn: Sequence[Drawn]) -> dict[str, Any]:
    return {
        "span": span_steps(runs),
        "runs": [_run(run) for run in runs],
        "metrics": sections.metric_names(runs),
        "charts": {each.panel.key: each.for_script for each in drawn},
    }


def _run(run: RunSeries) -> dict[str, Any]:
    columns: dict[str, Any] = {}
    for name, column in run.columns.items():
        parts = [column.mean] if run.size == 1 else [column.mean, column.low, column.high]
        columns[name] = [[_rounded(value) for value in part] for part in parts]
    return {
        "letter": run.letter,
        "name": escaped(run.name),
        "size": run.size,
        "steps": [_rounded(step, digits=12) for step in run.steps],
        "seconds": [_rounded(each, digits=7) for each in run.seconds],
        "tokens": [_rounded(each, digits=12) for each in run.tokens],
        "columns": columns,
        "evals": [_eval(line, run) for line in run.evals],
    }


def _eval(line: Any, run: RunSeries) -> dict[str, Any]:
    step = float(line["step"])
    return {
        "steps": step,
        "seconds": run.cost_at(step, run.seconds),
        "tokens": run.cost_at(step, run.tokens),
        "score": known(line.get("avg_at_k")),
        "whisker": whisker(line),
    }


def _rounded(value: float | None, *, digits: int = DIGITS) -> float | int | None:
    """A number in as few characters as JSON needs."""
    if value is None or not math.isfinite(value):
        return None
    rounded = float(f"{value:.{digits}g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) < 1e15 else rounded
