"""The parts of the panel that are plots: reward, Avg@k, effective token fraction, distance."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from rich.text import Text

from dgpo_cli.core.numbers import decimal, ends, fraction, interval_known, percent, scientific
from dgpo_cli.core.text import pad, plain
from dgpo_cli.live.state import PanelState, Score
from dgpo_cli.live.words import row
from dgpo_cli.ui.page import Page
from dgpo_cli.ui.textplot import Point, TextAxis, growing_end, nice_axis, sparkline
from dgpo_cli.ui.textplot import plot as draw

_LEAST_WIDTH = 36  # of a plot
_GAP = 3
LEAST_HEIGHT = 6  # title, rows of dots and the axis
MOST_HEIGHT = 16
_LEAST_SPAN = 0.1  # of reward or share that a plot shows at least
# Of middle lightness, to stand out from light and dark terminals.
_COLOURS = {
    "reward": ("#2f9a8f", "color(37)", "cyan"),
    "score": ("#a463b0", "color(133)", "magenta"),
    "effective": ("#c07a2b", "color(172)", "yellow"),
    "distance": ("#4f86c6", "color(68)", "blue"),
}


@dataclass(frozen=True, slots=True)
class _Plot:
    """A curve and what stands above it. most: no value is larger."""

    name: str
    title: Callable[[int], Text]  # of the cells there are
    points: Sequence[Point]
    least_span: float = _LEAST_SPAN
    most: float = math.inf


def plots(state: PanelState, page: Page) -> list[_Plot]:
    """Return what there is to plot, the most important first."""
    found = []
    if state.reward:
        found.append(_Plot("reward", lambda _: _reward(state, page), state.reward))
    same = _same(state)
    if same:
        scores = [(float(score.step), score.avg_at_k) for score in same]
        title = partial(_score, same[-1], page)
        found.append(_Plot("score", title, scores, most=1.0))
    # GRPO's credit is 1 at every step: no curve.
    if any(value < 1.0 for _, value in state.effective):
        found.append(
            _Plot(
                "effective",
                lambda width: _credit(state, page),
                state.effective,
                least_span=0.01,
                most=1.0,
            )
        )
    if any(value > 0.0 for _, value in state.distance):
        points = state.distance
        found.append(_Plot("distance", lambda _: _distance(state, page), points, least_span=0.0))
    return found


def across(page: Page) -> int:
    """Return how many plots stand beside each other."""
    return max(1, min(4, (page.width + _GAP) // (_LEAST_WIDTH + _GAP)))


def curves(state: PanelState, page: Page, *, heights: Sequence[int]) -> list[Text]:
    """Draw rows of plots, each row as high as `heights` says."""
    every, count = plots(state, page), across(page)
    lines = []
    for number, height in enumerate(heights):
        beside = every[number * count : (number + 1) * count]
        columns = count if number else len(beside)
        width = (page.width - _GAP * (columns - 1)) // columns
        drawn = [_drawn(plot, state, page, width=width, height=height) for plot in beside]
        for parts in zip(*drawn, strict=True):
            line = plain("")
            for part in parts:
                line.append_text(part).append(pad("", width + _GAP - part.cell_len))
            lines.append(line)
    return lines


def reward_row(state: PanelState, page: Page) -> list[Text]:
    """The reward of the last step and its course in one line."""
    if not state.reward:
        return []
    course = sparkline(
        [value for _, value in state.reward], width=24, ascii_only=page.glyphs.ascii_only
    )
    return [row(page, "reward", decimal(state.reward[-1][1]), course)]


def score_row(state: PanelState, page: Page) -> list[Text]:
    """The newest evaluation with its errors and the course so far in one line."""
    same = _same(state)
    if not same:
        return []
    last = same[-1]
    course = sparkline(
        [score.avg_at_k for score in same], width=16, ascii_only=page.glyphs.ascii_only
    )
    bench = plain(last.bench, glyphs=page.glyphs).plain
    line = row(page, f"Avg@{last.k}", f"{percent(last.avg_at_k)} {bench}", course)
    errors = _errors(last, room=page.width - line.cell_len - 2)
    return [line.append(f"  {errors}") if errors else line]


def _reward(state: PanelState, page: Page) -> Text:
    title = plain("reward", style=page.style("bold"))
    values = [value for _, value in state.reward if math.isfinite(value)]
    if values:
        title.append(f"  {decimal(values[-1])}  best {decimal(max(values))}", page.style("dim"))
    return title


def _score(last: Score, page: Page, width: int) -> Text:
    bench = plain(last.bench, glyphs=page.glyphs).plain
    title = plain(f"Avg@{last.k}", style=page.style("bold")).append(f" {bench}")
    title.append(f"  {percent(last.avg_at_k)}", page.style("dim"))
    errors = _errors(last, room=width - title.cell_len - 2)
    return title.append(f"  {errors}", page.style("dim")) if errors else title


def _credit(state: PanelState, page: Page) -> Text:
    title = plain("effective token fraction", style=page.style("bold"))
    return title.append(
        f"  {fraction(state.effective[-1][1], digits=4, most=5)}", page.style("dim")
    )


def _distance(state: PanelState, page: Page) -> Text:
    title = plain("d", style=page.style("bold"))
    title.append(f"  {scientific(state.distance[-1][1])}", page.style("dim"))
    if state.floor is not None:
        title.append(f"  noise {scientific(state.floor)}", page.style("dim"))
    return title


def _drawn(plot: _Plot, state: PanelState, page: Page, *, width: int, height: int) -> list[Text]:
    values = [value for _, value in plot.points if math.isfinite(value)]
    title = plot.title(width)
    title.truncate(width)
    lines = draw(
        plot.points,
        width=width,
        height=height - 1,
        x_end=growing_end(state.step, total=state.total),
        axis=_axis(values, least=plot.least_span, most=plot.most),
        ascii_only=page.glyphs.ascii_only,
    )
    depth = {"truecolor": 0, "256": 1, "16": 2}.get(page.depth)
    style = "" if depth is None else _COLOURS[plot.name][depth]
    curve = [plain(line) for line in lines]
    for line in curve[:-1]:
        start = next((at for at, c in enumerate(line.plain) if c in "│┤|"), -1) + 1
        line.stylize(style, start)
    return [title, *curve]


def _axis(values: list[float], *, least: float, most: float) -> TextAxis:
    if not values:
        return TextAxis(0.0, 1.0, 1.0)
    axis = nice_axis(min(values), max(values), least=least)
    if axis.high > most >= max(values):  # no share is above 1
        return nice_axis(min(min(values), most - least), most)
    return axis


def _same(state: PanelState) -> list[Score]:
    """The evaluations that share benchmark and k with the newest."""
    if not state.scores:
        return []
    last = state.scores[-1]
    return [s for s in state.scores if (s.bench, s.k) == (last.bench, last.k)]


def _errors(score: Score, *, room: int) -> str:
    """Both intervals as long as there is room, else that of a rerun; empty where none is known."""
    known = [
        f"{ends(interval)} {name}"
        for interval, name in ((score.rerun_95, "rerun"), (score.problems_95, "problems"))
        if interval_known(interval)
    ]
    forms = [", ".join(known), *known[:1], *(each.removesuffix(" rerun") for each in known[:1])]
    return (
        next((text for form in forms if len(text := f"95%: {form}") <= room), "") if known else ""
    )
