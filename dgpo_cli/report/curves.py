"""The curves of runs: metrics as columns over points, three x axes, and the charts of panels."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dgpo_cli.core.types import Interval, RunRecord
from dgpo_cli.report.charts.drawing import LOOKS, Chart, Level, Line
from dgpo_cli.report.charts.sampling import Buckets, Column, column, usual_span
from dgpo_cli.report.panels import Curve, Panel

MAX_POINTS = 500  # of a curve; a point of a longer run has the mean and extremes of several steps
POINTS_OF_ALL = 1_000  # of the curves of one metric of several runs
MIN_SHARE = 1e-9  # smaller parts of a stack are not shown


@dataclass(frozen=True, slots=True)
class RunSeries:
    """The curves of a run. Each column has a number a point, each point `size` steps.

    steps: the last step of each point; seconds and tokens: the sums up to it.
    evals: lines of evals.jsonl, of the benchmark and k that most of them have.
    """

    letter: str
    name: str
    size: int
    steps: tuple[float, ...]
    seconds: tuple[float, ...]
    tokens: tuple[float, ...]
    columns: Mapping[str, Column]
    evals: tuple[Mapping[str, Any], ...]
    levels: Mapping[str, float]

    def has(self, metric: str) -> bool:
        """Return whether the run has a metric."""
        return metric in self.columns

    def points(self, steps: float) -> float:
        """Return the number of points of some steps; at least one."""
        return max(1.0, steps / self.size)

    @property
    def eval_points(self) -> tuple[tuple[float, ...], ...]:
        """Return the steps of the evaluations, and the seconds and tokens up to them."""
        steps = tuple(float(line["step"]) for line in self.evals)
        costs = (self.seconds, self.tokens)
        return steps, *(tuple(self.cost_at(step, each) for step in steps) for each in costs)

    def cost_at(self, step: float, costs: Sequence[float]) -> float:
        """Return the seconds or tokens up to a step, interpolated."""
        before = (0.0, 0.0)
        for here in zip(self.steps, costs, strict=True):
            if here[0] >= step:
                width = here[0] - before[0]
                share = (step - before[0]) / width if width > 0 else 1.0
                return before[1] + max(0.0, share) * (here[1] - before[1])
            before = here
        return before[1]


def series_of(record: RunRecord, *, letter: str, runs: int) -> RunSeries:
    """Return the curves of a run; `runs` share the page."""
    lines = record.metrics
    buckets = Buckets.of(len(lines), at_most=max(100, min(MAX_POINTS, POINTS_OF_ALL // runs)))
    names = sorted({name for line in lines for name in line} - {"step"})
    columns = {}
    for name in names:
        values = [line.get(name) for line in lines]
        if any(value is not None for value in values):
            columns[name] = column(values, buckets=buckets)
    ends = [stop - 1 for _, stop in buckets]
    return RunSeries(
        letter=letter,
        name=record.name,
        size=buckets.size,
        steps=tuple(lines[at]["step"] or 0.0 for at in ends),
        seconds=_sums(lines, "time/step_s", ends=ends),
        tokens=_sums(lines, "completion/tokens", ends=ends),
        columns=columns,
        evals=comparable(record.evals),
        levels=_numbers_set(record),
    )


def span_steps(runs: Sequence[RunSeries]) -> int:
    """Return the initial smoothing of all curves in steps: it suits the shortest long run."""
    spans = [usual_span(len(run.steps)) * run.size for run in runs]
    return min((span for span in spans if span > 1), default=1)


def comparable(evals: Sequence[Mapping[str, Any]]) -> tuple[Mapping[str, Any], ...]:
    """Return the evaluations of the most frequent benchmark and k: others are not comparable."""
    kinds = [kind_of(line) for line in evals]
    most = max(sorted(set(kinds), key=str), key=kinds.count, default=None)
    return tuple(line for line, kind in zip(evals, kinds, strict=True) if kind == most)


def kind_of(line: Mapping[str, Any]) -> tuple[str, Any]:
    """Return what scores must share to be comparable."""
    return str(line.get("bench")), line.get("k")


def known(value: object) -> float | None:
    """Return a number of an evaluation, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _sums(
    lines: Sequence[Mapping[str, float | None]], name: str, *, ends: Sequence[int]
) -> tuple[float, ...]:
    """Return the running sum at these places; unknown values add nothing."""
    sums, total = [], 0.0
    for line in lines:
        total += line.get(name) or 0.0
        sums.append(total)
    return tuple(sums[at] for at in ends)


def _numbers_set(record: RunRecord) -> dict[str, float]:
    """Return the settings that are numbers, by key."""
    found = {}
    for setting in record.settings:
        try:
            found[setting.key] = float(setting.value)
        except ValueError:
            continue
    return found


@dataclass(frozen=True, slots=True)
class Source:
    """What a curve shows: the run by its place, the metric, the metrics of its band."""

    run: int
    metric: str
    label: str
    look: int
    low: str | None = None
    high: str | None = None

    def texts(self, run: RunSeries) -> str:
        """Return the script's name for the texts of the curve's numbers."""
        return f"{run.letter}{list(run.columns).index(self.metric)}"


@dataclass(frozen=True, slots=True)
class DrawnChart:
    """A chart with its panel and the sources of its curves."""

    panel: Panel
    chart: Chart
    sources: tuple[Source, ...]

    @property
    def listed(self) -> list[tuple[int, Source]]:
        """Return the curves with their places in the order of the legend: a stack from its top."""
        found = list(enumerate(self.sources))
        return found[::-1] if self.chart.stacked else found

    @property
    def unit(self) -> str:
        """Return the unit, and whether the axis is logarithmic."""
        return ", ".join(part for part in (self.panel.unit, "log scale" * self.chart.log) if part)


def draw(panel: Panel, runs: Sequence[RunSeries], *, span: int | None = None) -> DrawnChart | None:
    """Draw a panel of these runs, smoothed over `span` steps; None if no run has its metrics.

    One run has all curves, several have the first curve each.
    """
    sources = tuple(_sources(panel, runs))
    if not sources:
        return None
    several = len(runs) > 1
    stacked = panel.stacked and not several
    levels = () if stacked else tuple(_levels(panel, runs))
    span = span_steps(runs) if span is None else span
    lines = [line_of(source, runs[source.run], span=span) for source in sources]
    title = panel.title
    if several and len(panel.curves) > 1:
        title += f": {next(c.label for c in panel.curves if c.metric == sources[0].metric)}"
    chart = Chart(
        title=title,
        lines=_filled(lines) if stacked else lines,
        stacked=stacked,
        log=panel.log and spans_decades(lines),
        floor=panel.floor,
        ceiling=panel.ceiling if stacked else None,
        levels=levels,
    )
    return DrawnChart(panel=panel, chart=chart, sources=sources)


def spans_decades(lines: Sequence[Line]) -> bool:
    """Return whether the numbers differ tenfold: then a logarithmic axis shows more."""
    known_values = [
        value for line in lines for values in (line.ys, line.low, line.high) for value in values
    ]
    positive = [value for value in known_values if value is not None and value > 0.0]
    return bool(positive) and max(positive) >= 10.0 * min(positive)


def _sources(panel: Panel, runs: Sequence[RunSeries]) -> Iterator[Source]:
    if len(runs) > 1:
        curve = next((c for c in panel.curves if any(run.has(c.metric) for run in runs)), None)
        for at, run in enumerate(runs):
            if curve is not None and run.has(curve.metric):
                yield Source(at, curve.metric, run.letter, look(at))
        return
    (run,) = runs
    shown = [(at, c) for at, c in enumerate(panel.curves) if run.has(c.metric)]
    for at, curve in shown:
        # A part that never occurs is left out; the others keep their colours.
        if panel.stacked and not _occurs(run, curve):
            continue
        source = Source(0, curve.metric, curve.label, look(at))
        if at == 0 and panel.band is not None and all(map(run.has, panel.band)):
            source = replace(source, low=panel.band[0], high=panel.band[1])
        yield source


def _occurs(run: RunSeries, curve: Curve) -> bool:
    return any((value or 0.0) > MIN_SHARE for value in run.columns[curve.metric].mean)


def look(at: int) -> int:
    return at % LOOKS + 1


def line_of(source: Source, run: RunSeries, *, span: float) -> Line:
    """Return a curve smoothed over `span` steps; its band is the range of each point's steps."""
    low, high = run.columns[source.metric].low, run.columns[source.metric].high
    if source.low is not None and source.high is not None:
        lowest, highest = run.columns[source.low], run.columns[source.high]
        low, high = lowest.low or lowest.mean, highest.high or highest.mean
    return Line(
        label=source.label,
        look=source.look,
        xs=run.steps,
        ys=run.columns[source.metric].mean,
        span=run.points(span),
        low=low,
        high=high,
        costs=(run.seconds, run.tokens),
        points=run.letter,
        texts=source.texts(run),
    )


def _filled(lines: Sequence[Line]) -> list[Line]:
    """Set parts of a whole to 0 where they are missing and others are known."""
    rows = list(zip(*(line.ys for line in lines), strict=True))
    gaps = [all(value is None for value in row) for row in rows]
    return [
        replace(line, ys=[None if gap else y or 0.0 for y, gap in zip(line.ys, gaps, strict=True)])
        for line in lines
    ]


def _levels(panel: Panel, runs: Sequence[RunSeries]) -> Iterator[Level]:
    """Yield the setting's value if all runs share it and it is near the curves."""
    if panel.level is None:
        return
    key, label = panel.level
    values = {run.levels.get(key) for run in runs}
    value = values.pop() if len(values) == 1 else None
    if value is None:
        return
    names = [curve.metric for curve in panel.curves] + list(panel.band or ())
    highest = max((_highest(run, name) for run in runs for name in names), default=0.0)
    if value <= 3 * highest:
        yield Level(f"{label} {value:g}", value)


def _highest(run: RunSeries, name: str) -> float:
    column = run.columns.get(name)
    values = (column.high or column.mean) if column is not None else ()
    return max((value for value in values if value is not None), default=0.0)


AVG = Panel("avg", "Evaluation", "95% intervals", (Curve("avg_at_k", "Avg@k"),), floor=0.0)


def draw_evals(runs: Sequence[RunSeries]) -> DrawnChart | None:
    """Draw Avg@k of every run with evaluations, with both 95% intervals."""
    shown = [(at, run) for at, run in enumerate(runs) if run.evals]
    if not shown:
        return None
    kinds = {(str(line.get("bench")), line.get("k")) for _, run in shown for line in run.evals}
    bench, k = next(iter(kinds))
    title = f"Avg@{k} on {bench}" if len(kinds) == 1 else "Avg@k of several benchmarks or k"
    several = len(runs) > 1
    sources, lines = [], []
    for at, run in shown:
        source = Source(at, "avg_at_k", run.letter if several else "Avg@k", look(at))
        sources.append(source)
        lines.append(
            Line(
                label=source.label,
                look=source.look,
                xs=run.eval_points[0],
                ys=[known(line.get("avg_at_k")) for line in run.evals],
                whiskers=[whisker(line) for line in run.evals],
                costs=run.eval_points[1:],
                points=f"{run.letter}-evals",
                texts=f"{run.letter}-evals",
            )
        )
    chart = Chart(title=title, lines=lines, floor=None)
    panel = replace(AVG, title=title, about=_EVAL_NOTE)
    return DrawnChart(panel=panel, chart=chart, sources=tuple(sources))


_EVAL_NOTE = (
    "The strong interval is for these problems sampled again, the faint one for other problems of "
    "this kind."
)


def whisker(line: Mapping[str, Any]) -> tuple[float, float, float, float] | None:
    """Return the ends of both intervals of an evaluation; None if the line has none."""
    inner = interval_of(line, "rerun_95")
    if inner is None:
        return None
    outer = interval_of(line, "problems_95") or inner
    return inner.low, inner.high, outer.low, outer.high


def interval_of(line: Mapping[str, Any], key: str) -> Interval | None:
    """Return an interval of a line of evals.jsonl; None if it is unknown."""
    found = line.get(key)
    found = found if isinstance(found, Mapping) else {}
    low, high = known(found.get("low")), known(found.get("high"))
    return None if low is None or high is None else Interval(low, high)
