"""The curves of a study: the metrics of every run over common points, and their mean over seeds
with its 95% interval."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from dgpo_cli.core.types import StudyRecord, StudyRun
from dgpo_cli.report.charts.drawing import LOOKS
from dgpo_cli.report.charts.sampling import Values, smoothed, usual_span
from dgpo_cli.stats.intervals import mean_interval

MOST_POINTS = 300  # of a curve
FEWEST_POINTS = 60  # unless there are fewer steps
VALUES_OF_ALL = 13_000  # of a metric of all runs: with many runs a point is several steps
GREY = 0  # the look of a variant that has no colour of its own


@dataclass(frozen=True, slots=True)
class SeedBand:
    """A mean over seeds at each point, and the 95% interval of it; no interval of one seed."""

    mean: Values
    low: Values
    high: Values


@dataclass(frozen=True, slots=True)
class VariantSeries:
    """The runs of a variant that have steps.

    columns: of each metric the values of every seed. costs: seconds and tokens up to each point, as
    means over seeds.
    """

    letter: str
    name: str
    look: int
    seeds: tuple[int, ...]
    columns: Mapping[str, tuple[Values, ...]]
    costs: tuple[tuple[float, ...], tuple[float, ...]]

    def has(self, metric: str) -> bool:
        """Return whether a run has a metric."""
        return metric in self.columns


@dataclass(frozen=True, slots=True)
class StudySeries:
    """The curves of a study, the baseline first. A point is the mean of `size` steps.

    steps: the last step of each point.
    """

    size: int
    steps: tuple[float, ...]
    variants: tuple[VariantSeries, ...]
    metrics: tuple[str, ...]

    @property
    def baseline(self) -> VariantSeries:
        return self.variants[0]

    @property
    def is_crowded(self) -> bool:
        """Return whether there are more variants than colours."""
        return len(self.variants) > LOOKS

    @property
    def span(self) -> int:
        """Return the initial smoothing in steps."""
        points = usual_span(len(self.steps))
        return points * self.size if points > 1 else 1


def study_series(record: StudyRecord) -> StudySeries:
    """Return the curves of a study."""
    runs = [run for run in record.runs if run.steps]
    last = max((int(line["step"] or 0) for run in runs for line in run.steps), default=0)
    at_most = min(MOST_POINTS, max(FEWEST_POINTS, VALUES_OF_ALL // max(1, len(runs))))
    size = max(1, math.ceil(last / at_most))
    steps = tuple(float(min(last, start + size)) for start in range(0, last, size))
    names = [each.name for each in record.variants]
    names.sort(key=lambda name: name != record.baseline)
    variants = tuple(
        _variant(
            [run for run in runs if run.variant == name],
            name=name,
            letter=letter_of(at),
            look=_look(at, count=len(names)),
            steps=steps,
            size=size,
        )
        for at, name in enumerate(names)
    )
    metrics = sorted({metric for each in variants for metric in each.columns})
    return StudySeries(size=size, steps=steps, variants=variants, metrics=tuple(metrics))


def letter_of(at: int) -> str:
    """Return A to Z, then AA, AB and so on."""
    before, last = divmod(at, 26)
    return (letter_of(before - 1) if before else "") + chr(ord("A") + last)


def _look(at: int, *, count: int) -> int:
    return at + 1 if count <= LOOKS or at == 0 else GREY


def _variant(
    runs: Sequence[StudyRun],
    *,
    name: str,
    letter: str,
    look: int,
    steps: Sequence[float],
    size: int,
) -> VariantSeries:
    runs = sorted(runs, key=lambda run: run.seed)
    seeds = [_means(run, count=len(steps), size=size) for run in runs]
    metrics = sorted({metric for seed in seeds for metric in seed})
    unknown: Values = (None,) * len(steps)
    columns = {metric: tuple(seed.get(metric, unknown) for seed in seeds) for metric in metrics}
    seconds, tokens = (
        _sums(columns.get(metric, ()), steps=steps)
        for metric in ("time/step_s", "completion/tokens")
    )
    return VariantSeries(
        letter=letter,
        name=name,
        look=look,
        seeds=tuple(run.seed for run in runs),
        columns=columns,
        costs=(seconds, tokens),
    )


def _means(run: StudyRun, *, count: int, size: int) -> dict[str, Values]:
    """Return every metric of a run, the mean of the known values of each point."""
    sums: dict[str, list[float]] = {}
    counts: dict[str, list[int]] = {}
    for line in run.steps:
        at = (int(line["step"] or 0) - 1) // size
        if at < 0:
            continue
        for metric, value in line.items():
            if value is None or not math.isfinite(value) or metric == "step":
                continue
            if metric not in sums:
                sums[metric], counts[metric] = [0.0] * count, [0] * count
            sums[metric][at] += value
            counts[metric][at] += 1
    return {
        metric: tuple(
            [
                total / known if known else None
                for total, known in zip(column, counts[metric], strict=True)
            ]
        )
        for metric, column in sums.items()
    }


def _sums(seeds: Sequence[Values], *, steps: Sequence[float]) -> tuple[float, ...]:
    """Return the running sum over steps of the mean over seeds."""
    means = over_seeds(seeds).mean if seeds else (None,) * len(steps)
    widths = (stop - start for start, stop in pairwise([0.0, *steps]))
    return tuple(accumulate(w * (mean or 0.0) for w, mean in zip(widths, means, strict=True)))


def over_seeds(seeds: Sequence[Values], *, span: float = 1.0) -> SeedBand:
    """Return mean and 95% interval at each point, of the seeds that are known there.

    Each seed is smoothed over `span` points before: the interval is that of the smoothed mean. It
    is Student's, on seeds as independent draws.
    """
    rows = [smoothed(seed, span=span) for seed in seeds] if span > 1 else seeds
    mean: list[float | None] = []
    low: list[float | None] = []
    high: list[float | None] = []
    for column in zip(*rows, strict=True):
        known = [value for value in column if value is not None]
        ends = mean_interval(known)
        mean.append(math.fsum(known) / len(known) if known else None)
        low.append(ends.low if len(known) > 1 else None)
        high.append(ends.high if len(known) > 1 else None)
    return SeedBand(mean=mean, low=low, high=high)


def paired(variant: VariantSeries, baseline: VariantSeries, metric: str) -> tuple[Values, ...]:
    """Return the metric of each seed that both have, minus the baseline's of the same seed."""
    others = dict(zip(baseline.seeds, baseline.columns.get(metric, ()), strict=False))
    return tuple(
        tuple(
            None if here is None or there is None else here - there
            for here, there in zip(values, others[seed], strict=True)
        )
        for seed, values in zip(variant.seeds, variant.columns.get(metric, ()), strict=False)
        if seed in others
    )
