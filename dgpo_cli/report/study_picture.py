"""The result of a study as one SVG for papers and docs: the reward of every variant, and its
differences from the baseline."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from dgpo_cli.core.text import elide, escaped
from dgpo_cli.core.types import StudyRecord
from dgpo_cli.report.charts.drawing import drawing, frame
from dgpo_cli.report.charts.forest import forest_drawing, forest_height
from dgpo_cli.report.curves import DrawnChart
from dgpo_cli.report.panels import REWARD
from dgpo_cli.report.picture import style
from dgpo_cli.report.study_charts import draw_each_difference, draw_means, is_many
from dgpo_cli.report.study_facts import Effects, effects
from dgpo_cli.report.study_series import StudySeries, study_series
from dgpo_cli.study.summary import StudyTable

WIDTH = 860.0
_MARGIN = 24.0
_CURVES = 300.0  # units of the curves' height
_CELL = (203.0, 132.0)  # of a chart a variant, where there are many
_COLUMNS = 4
_TITLE = 20.0


def study_svg(record: StudyRecord, table: StudyTable) -> str:
    """Return the curves above the effects; of many variants the differences in charts of their own,
    and with more variants than colours these alone.
    """
    study = study_series(replace(record, baseline=table.baseline))
    blocks = [*_curves(study), *map(_effects, effects(table, study, lettered=False))]
    y, parts = 52.0, []
    for content, height in blocks:
        parts.append(f'<g transform="translate({_MARGIN:g} {y:g})">{content}</g>')
        y += height + 16
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH:g} {y:g}">'
        f"<style>{style()}</style>"
        f'<rect class="paper" width="{WIDTH:g}" height="{y:g}"/>'
        f'<text class="head" x="{_MARGIN:g}" y="34">{escaped(elide(record.name, 70))}</text>'
        f"{''.join(parts)}</svg>"
    )


def _curves(study: StudySeries) -> Iterator[tuple[str, float]]:
    """Yield drawings with their heights."""
    many = is_many(study.variants)
    drawn = None if study.is_crowded else draw_means(REWARD, study, named=True)
    if drawn is not None:
        place = frame(drawn.chart, width=WIDTH - 2 * _MARGIN, height=_CURVES)
        title = f"Reward by step: mean over seeds{'' if many else ', with its 95% interval'}"
        yield _titled(title, drawing(drawn.chart, place=place)), _TITLE + _CURVES
    each = draw_each_difference(REWARD, study) if many else []
    if each:
        cells = "".join(_cell(drawn, at) for at, drawn in enumerate(each))
        title = f"Reward minus that of {study.baseline.name}, paired by seed, by step"
        height = _TITLE + -(-len(each) // _COLUMNS) * (_CELL[1] + _TITLE)
        yield _titled(title, f'<g class="solo">{cells}</g>'), height


def _cell(drawn: DrawnChart, at: int) -> str:
    row, column = divmod(at, _COLUMNS)
    x, y = column * _CELL[0], row * (_CELL[1] + _TITLE)
    title = escaped(elide(drawn.sources[0].label, 28))
    content = drawing(drawn.chart, place=frame(drawn.chart, width=_CELL[0], height=_CELL[1]))
    return (
        f'<g transform="translate({x:g} {y:g})"><text class="key" x="46" y="8">{title}</text>'
        f'<g transform="translate(0 8)">{content}</g></g>'
    )


def _effects(found: Effects) -> tuple[str, float]:
    width = WIDTH - 2 * _MARGIN
    content = f'<g class="solo">{forest_drawing(found.effects, width=width)}</g>'
    height = _TITLE + forest_height(found.effects, width=width)
    return _titled(f"{found.title}: each seed, mean, 95% interval", content), height


def _titled(title: str, content: str) -> str:
    return (
        f'<text class="title" x="0" y="8">{escaped(title)}</text>'
        f'<g transform="translate(0 {_TITLE:g})">{content}</g>'
    )
