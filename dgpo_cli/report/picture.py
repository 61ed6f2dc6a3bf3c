"""The main curves as one SVG for papers and READMEs, light or dark as its reader is."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from dgpo_cli.core.text import elide, escaped
from dgpo_cli.core.types import RunRecord
from dgpo_cli.report.charts.drawing import Chart, drawing, frame, mark
from dgpo_cli.report.curves import DrawnChart, RunSeries, draw, draw_evals, look
from dgpo_cli.report.facts import changed_after
from dgpo_cli.report.panels import GROUPS, PICTURE
from dgpo_cli.report.run_page import all_series
from dgpo_cli.ui.document import asset

COLUMNS = 3
CELL_WIDTH, CELL_HEIGHT = 400.0, 264.0
_LEGEND = 34.0  # units of a chart's title and legend
_CHARTS = 6


def report_svg(records: Sequence[RunRecord]) -> str:
    """Return the reward, the evaluations and other main curves, at most six charts."""
    runs = all_series(records)
    charts = _charts(runs)
    rows = max(1, -(-len(charts) // COLUMNS))
    width, height = COLUMNS * CELL_WIDTH + 24, rows * CELL_HEIGHT + 56
    cells = "".join(_cell(each, at) for at, each in enumerate(charts))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}">'
        f"<style>{style()}</style>"
        f'<rect class="paper" width="{width:g}" height="{height:g}"/>'
        f"{''.join(_head(records, runs))}{cells}</svg>"
    )


def style() -> str:
    """Return the style of the page's charts without the variables that resvg lacks.

    Light, and dark for readers who prefer it; resvg skips that.
    """
    dark = f"@media (prefers-color-scheme: dark) {{ {_resolved(1)} }}"
    return f"{_resolved(0)}{dark}"


def _resolved(scheme: int) -> str:
    """Return the rules with the colours of the light scheme, 0, or of the dark one, 1."""
    pairs = re.findall(r"(--\w+): light-dark\((#\w+), (#\w+)\)", asset("base.css"))
    colours = {name: both[scheme] for name, *both in pairs}
    rules = asset("charts.css") + asset("picture.css")
    rules = re.sub(r"light-dark\((#\w+), (#\w+)\)", lambda both: both[1 + scheme], rules)
    return re.sub(r"var\((--\w+)\)", lambda name: colours[name[1]], rules)


def _charts(runs: Sequence[RunSeries]) -> list[DrawnChart]:
    wanted = [draw(PICTURE[0], runs), draw_evals(runs)]
    wanted += [draw(panel, runs) for panel in PICTURE[1:]]
    found = [each for each in wanted if each is not None]
    if not found:  # a run of other metrics
        others = (draw(panel, runs) for group in GROUPS for panel in group.panels)
        found = [each for each in others if each is not None]
    return found[:_CHARTS]


def _head(records: Sequence[RunRecord], runs: Sequence[RunSeries]) -> Iterator[str]:
    if len(runs) == 1:
        changed = changed_after(records[0])
        text = f"{records[0].name} ({changed})" if changed else records[0].name
        yield f'<text class="head" x="24" y="34">{escaped(text)}</text>'
        return
    x = 24.0
    for at, run in enumerate(runs):
        text = f"{run.letter}  {run.name}{' (changed)' * bool(records[at].changes)}"
        text = elide(text, 40)
        sample = f'<path class="line" d="M{x:g},30h24"/>{mark(look(at), x + 12, 30)}'
        yield f'<g class="s{look(at)}">{sample}</g>'
        yield f'<text class="head small" x="{x + 30:g}" y="34">{escaped(text)}</text>'
        x += 48 + 7.6 * len(text)


def _cell(drawn: DrawnChart, at: int) -> str:
    """Return a chart with its title and the names of its areas."""
    row, column = divmod(at, COLUMNS)
    x, y = 12 + column * CELL_WIDTH, 52 + row * CELL_HEIGHT
    chart: Chart = drawn.chart
    place = frame(chart, width=CELL_WIDTH - 12, height=CELL_HEIGHT - _LEGEND - 8)
    names = ""
    if chart.stacked:
        at_x = 46.0
        for source in drawn.sources:
            names += (
                f'<g class="s{source.look}"><rect class="area" x="{at_x:g}" y="20" width="12" '
                'height="9"/></g>'
            )
            names += f'<text class="key" x="{at_x + 16:g}" y="28.5">{escaped(source.label)}</text>'
            at_x += 26 + 6.2 * len(source.label)
    unit = next(
        (each for each in (drawn.unit, "log scale" * chart.log) if _fits(chart.title, each)), ""
    )
    unit = f'<tspan class="unit" dx="8">{escaped(unit)}</tspan>' if unit else ""
    return (
        f'<g transform="translate({x:g} {y:g})">'
        f'<text class="title" x="12" y="12">{escaped(chart.title)}{unit}</text>{names}'
        f'<g transform="translate(0 {_LEGEND:g})">{drawing(chart, place=place)}</g></g>'
    )


def _fits(title: str, unit: str) -> bool:
    """Return whether both fit on one line above a chart."""
    return 8.6 * len(title) + 6.3 * len(unit) < CELL_WIDTH - 30
