"""The metrics of a run as columns over points, and what its steps cost on three x axes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dgpo_cli.core.types import RunRecord
from dgpo_cli.report.charts.sampling import Buckets, Column, column, usual_span

MAX_POINTS = 500  # of a curve; longer runs show the mean and the extremes of neighbouring steps
POINTS_OF_ALL = 1_000  # of the curves of one metric where there are several runs


@dataclass(frozen=True, slots=True)
class RunSeries:
    """One run's curves. Each column has a number a point; `size` steps are put into one.

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
        """Whether anything is known of a metric."""
        return metric in self.columns

    def points(self, steps: float) -> float:
        """How many points so many steps are; at least one."""
        return max(1.0, steps / self.size)

    @property
    def eval_points(self) -> tuple[tuple[float, ...], ...]:
        """The steps of the evaluations, and the seconds and tokens up to them."""
        steps = tuple(float(line["step"]) for line in self.evals)
        costs = (self.seconds, self.tokens)
        return steps, *(tuple(self.cost_at(step, each) for step in steps) for each in costs)

    def cost_at(self, step: float, costs: Sequence[float]) -> float:
        """The seconds or tokens up to a step, from the points around it."""
        before = (0.0, 0.0)
        for here in zip(self.steps, costs, strict=True):
            if here[0] >= step:
                width = here[0] - before[0]
                share = (step - before[0]) / width if width > 0 else 1.0
                return before[1] + max(0.0, share) * (here[1] - before[1])
            before = here
        return before[1]


def series_of(record: RunRecord, *, letter: str, runs: int) -> RunSeries:
    """The columns of a run; of `runs` that share a page."""
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
        levels=_levels(record),
    )


def span_steps(runs: Sequence[RunSeries]) -> int:
    """Over how many steps all curves are smoothed at first: what suits the shortest long run."""
    spans = [usual_span(len(run.steps)) * run.size for run in runs]
    return min((span for span in spans if span > 1), default=1)


def comparable(evals: Sequence[Mapping[str, Any]]) -> tuple[Mapping[str, Any], ...]:
    """The evaluations of the benchmark and k that occur most: others are other measurements."""
    kinds = [kind_of(line) for line in evals]
    most = max(sorted(set(kinds), key=str), key=kinds.count, default=None)
    return tuple(line for line, kind in zip(evals, kinds, strict=True) if kind == most)


def kind_of(line: Mapping[str, Any]) -> tuple[str, Any]:
    """What scores must share to be compared."""
    return str(line.get("bench")), line.get("k")


def known(value: object) -> float | None:
    """A number of an evaluation, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _sums(
    lines: Sequence[Mapping[str, float | None]], name: str, *, ends: Sequence[int]
) -> tuple[float, ...]:
    """The running sum at these places; what is unknown adds nothing."""
    sums, total = [], 0.0
    for line in lines:
        total += line.get(name) or 0.0
        sums.append(total)
    return tuple(sums[at] for at in ends)


def _levels(record: RunRecord) -> dict[str, float]:
    """Settings that a curve is to be compared with, by their key."""
    found = {}
    for setting in record.settings:
        try:
            found[setting.key] = float(setting.value)
        except ValueError:
            continue
    return found
