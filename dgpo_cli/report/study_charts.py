"""The charts of a study: a curve a variant, the mean over its seeds with a band of 95%, and the
differences from the baseline on the same seeds."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from dgpo_cli.core.text import elide
from dgpo_cli.report.charts.drawing import Chart, Level, Line
from dgpo_cli.report.charts.sampling import Values
from dgpo_cli.report.curves import DrawnChart, Source, spans_decades
from dgpo_cli.report.panels import Panel
from dgpo_cli.report.study_series import (
    SeedBand,
    StudySeries,
    VariantSeries,
    over_seeds,
    paired,
)

TOGETHER = 4  # curves whose bands can be seen in one chart
_NAME = 20  # characters of a variant beside its curve
_REACH = 1.0  # of a band above and below the curves, in ranges of these, for the y axis to hold it


def draw_means(
    panel: Panel, study: StudySeries, *, named: bool = False, hollow: bool = False
) -> DrawnChart | None:
    """Draw the first metric of a panel that the study has; None without one.

    named: with names beside the curves and not letters. hollow: the script draws the curves.
    """
    metric = _metric(panel, study)
    if metric is None:
        return None
    lines, sources = [], []
    for at, variant in enumerate(study.variants):
        if variant.has(metric):
            line = _line(variant.columns[metric], variant=variant, study=study, hollow=hollow)
            ends = tuple(_from(panel.floor, each) for each in line.ends)
            lines.append(
                replace(
                    line,
                    label=elide(variant.name, _NAME, end=True) if named else variant.letter,
                    costs=variant.costs,
                    seeds=f"{study.metrics.index(metric)} {variant.letter}",
                    ends=ends,
                )
            )
            sources.append(Source(at, metric, variant.name, variant.look))
    chart = Chart(
        title=panel.title,
        lines=_bare(lines),
        log=panel.log and spans_decades(lines),
        floor=panel.floor,
    )
    return DrawnChart(panel=panel, chart=chart, sources=tuple(sources))


def draw_differences(
    panel: Panel, study: StudySeries, *, hollow: bool = False
) -> DrawnChart | None:
    """Draw a metric minus the baseline's on the same seeds, at the same step; None without one."""
    metric = _metric(panel, study)
    found = [] if metric is None else list(_differences(metric, study, hollow=hollow))
    if metric is None or not found:
        return None
    chart = Chart(
        title=f"{panel.title}: difference from {study.baseline.letter}",
        lines=_bare([line for line, _ in found]),
        levels=[Level("", 0.0)],
    )
    panel = replace(panel, key=f"{panel.key}-apart", unit="paired by seed, by step", about="")
    return DrawnChart(panel=panel, chart=chart, sources=tuple(source for _, source in found))


def draw_each_difference(panel: Panel, study: StudySeries) -> list[DrawnChart]:
    """Draw the differences in a chart a variant, all on one y axis."""
    metric = _metric(panel, study)
    found = [] if metric is None else list(_differences(metric, study, hollow=False))
    ends = [end for line, _ in found for values in line.ends for end in values]
    return [
        DrawnChart(
            panel=replace(panel, key=f"{panel.key}-{line.points}", unit="", about=""),
            chart=Chart(
                title=f"{line.label} {source.label}",
                lines=[line],
                levels=[Level("", 0.0)],
                floor=min(ends),
                ceiling=max(ends),
            ),
            sources=(source,),
        )
        for line, source in found
    ]


def _metric(panel: Panel, study: StudySeries) -> str | None:
    return next((each.metric for each in panel.curves if each.metric in study.metrics), None)


def _differences(metric: str, study: StudySeries, *, hollow: bool) -> Iterator[tuple[Line, Source]]:
    for at, variant in enumerate(study.variants[1:], start=1):
        seeds = paired(variant, study.baseline, metric)
        if any(value is not None for seed in seeds for value in seed):
            names = f"{variant.letter} {study.baseline.letter}"
            line = replace(
                _line(seeds, variant=variant, study=study, hollow=hollow),
                seeds=f"{study.metrics.index(metric)} {names}",
            )
            yield line, Source(at, metric, variant.name, variant.look)


def _bare(lines: Sequence[Line]) -> list[Line]:
    """Return the curves, many of them without bands, which would hide each other."""
    return [replace(line, low=(), high=()) for line in lines] if is_many(lines) else list(lines)


def is_many(curves: Sequence[object]) -> bool:
    """Return whether a chart shows the bands of these curves only on request."""
    return len(curves) > TOGETHER


def _line(
    seeds: Sequence[Values], *, variant: VariantSeries, study: StudySeries, hollow: bool
) -> Line:
    """Return a curve; a hollow one has one axis, for what is not smoothed."""
    rough = over_seeds(seeds)
    plain = hollow or study.span <= 1
    smooth = rough if plain else over_seeds(seeds, span=study.span / study.size)
    return Line(
        label=variant.letter,
        look=variant.look,
        xs=study.steps,
        ys=smooth.mean,
        low=smooth.low,
        high=smooth.high,
        points=variant.letter,
        ends=(_ends(smooth), _ends(rough)),
        hollow=hollow,
    )


def _ends(band: SeedBand) -> tuple[float, ...]:
    """Return what an axis holds: the curve, and of the band what is not far from it.

    The interval of two seeds is so wide that nothing else would be seen.
    """
    known = [value for value in band.mean if value is not None]
    if not known:
        return ()
    low, high = min(known), max(known)
    reach = _REACH * (high - low) or math.inf
    lows = [max(value, low - reach) for value in band.low if value is not None]
    highs = [min(value, high + reach) for value in band.high if value is not None]
    return min([low, *lows]), max([high, *highs]), min((v for v in known if v > 0), default=high)


def _from(floor: float | None, ends: tuple[float, ...]) -> tuple[float, ...]:
    """Return the ends of a curve that is never below the floor; its band may be."""
    return ends if floor is None else tuple(max(floor, end) for end in ends)
