"""A chart on the page: its title, legend, drawing and what is to be known about it."""

from __future__ import annotations

from collections.abc import Sequence

from dgpo_cli.core.text import escaped
from dgpo_cli.report.charts.drawing import mark, svg
from dgpo_cli.report.draw import Drawn, Source
from dgpo_cli.report.series import RunSeries

WIDTH, HEIGHT = 384.0, 224.0  # of a chart in units, which are pixels of a card at most screens
WIDE, LARGE = 760.0, 640.0


def figure(
    drawn: Drawn, *, runs: Sequence[RunSeries], wide: bool = False, large: bool = False
) -> str:
    """The chart as HTML that needs no script. Wide ones have a narrow twin for small screens."""
    panel = drawn.panel
    pictures = (
        f'<div class="fit">{svg(drawn.chart, width=LARGE if large else WIDTH, height=HEIGHT)}</div>'
    )
    if wide:
        pictures = (
            f'<div class="wide">{svg(drawn.chart, width=WIDE, height=HEIGHT + 40)}</div>'
            f'<div class="narrow">{svg(drawn.chart, width=WIDTH, height=HEIGHT)}</div>'
        )
    unit = f' <span class="unit">{escaped(drawn.unit)}</span>' if drawn.unit else ""
    about = f'<p class="note">{escaped(panel.about)}</p>' if panel.about else ""
    return (
        f'<figure class="card chart{" hero" if wide else ""}" data-chart="{panel.key}">'
        f"<figcaption><h3>{escaped(drawn.chart.title)}</h3>{unit}</figcaption>"
        f"{legend(drawn, runs=runs, named=wide)}"
        f'<div class="drawing">{pictures}{readout(drawn)}</div>{about}</figure>'
    )


def readout(drawn: Drawn) -> str:
    """The numbers under the crosshair: the script fills them in. A stack is listed from its top."""
    rows = [
        f'<div class="value" data-line="{at}">{swatch(source.look)}{escaped(source.label)} <b></b>'
        "</div>"
        for at, source in enumerate(drawn.sources)
    ]
    rows = rows[::-1] if drawn.chart.stacked else rows
    return f'<div class="readout" hidden><div class="where muted"></div>{"".join(rows)}</div>'


def legend(drawn: Drawn, *, runs: Sequence[RunSeries], named: bool = False) -> str:
    """What each look stands for; nothing where there is only one curve.

    Letters stand for runs; `named`: their names behind them.
    """
    if len(drawn.sources) < 2 and not drawn.chart.stacked:
        return ""
    kind = "area" if drawn.chart.stacked else "line"
    items = "".join(
        f'<li><button type="button" class="key" aria-pressed="true" data-line="{at}">'
        f"{swatch(source.look, kind=kind)}{_label(source, runs=runs, named=named)}</button></li>"
        for at, source in enumerate(drawn.sources)
    )
    return f'<ul class="legend">{items}</ul>'


def _label(source: Source, *, runs: Sequence[RunSeries], named: bool) -> str:
    if named and len(runs) > 1:
        return f"{source.label} · {escaped(runs[source.run].name)}"
    return escaped(source.label)


def swatch(look: int, *, kind: str = "line") -> str:
    """A piece of a curve as it is drawn, with its mark; or of an area."""
    shape = '<path class="area" d="M1,1H23V11H1Z"/>'
    if kind == "line":
        shape = f'<path class="line" d="M0,6H24"/>{mark(look, 12, 6)}'
    return f'<svg class="swatch s{look}" viewBox="0 0 24 12" aria-hidden="true">{shape}</svg>'
