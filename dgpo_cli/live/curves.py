"""The parts of the panel that are plots: the reward of the steps, Avg@k of the evaluations."""

from __future__ import annotations

import math

from rich.text import Text

from dgpo_cli.core.numbers import decimal, ends, interval_known, percent
from dgpo_cli.core.text import pad, plain
from dgpo_cli.live.state import PanelState, Score
from dgpo_cli.live.words import row
from dgpo_cli.ui.page import Page
from dgpo_cli.ui.textplot import TextAxis, growing_end, nice_axis, plot, sparkline

SIDE_BY_SIDE = 76  # columns from which two plots stand beside each other
LEAST_HEIGHT = 6  # title, rows of dots and the axis
MOST_HEIGHT = 11
_LEAST_SPAN = 0.1  # of reward or share that a plot shows at least


def curves(state: PanelState, page: Page, *, height: int) -> list[Text]:
    """The plots, each under its title: beside each other where there is room, else the reward's."""
    if not both(state, page):
        return _reward(state, page, width=page.width, height=height)
    width = (page.width - 3) // 2
    left = _reward(state, page, width=width, height=height)
    right = _scores(state, page, width=width, height=height)
    return [
        one.append(pad("", width + 3 - one.cell_len)).append_text(two)
        for one, two in zip(left, right, strict=True)
    ]


def both(state: PanelState, page: Page) -> bool:
    """Whether there are two plots, and room for them beside each other."""
    return page.width >= SIDE_BY_SIDE and bool(state.scores)


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


def _reward(state: PanelState, page: Page, *, width: int, height: int) -> list[Text]:
    values = [value for _, value in state.reward if math.isfinite(value)]
    title = plain("reward", style=page.style("bold"))
    if values:
        title.append(f"  {decimal(values[-1])}  best {decimal(max(values))}", page.style("dim"))
    return [title, *_plot(state, list(state.reward), page, width=width, height=height - 1)]


def _scores(state: PanelState, page: Page, *, width: int, height: int) -> list[Text]:
    same = _same(state)
    last = same[-1]
    bench = plain(last.bench, glyphs=page.glyphs).plain
    title = plain(f"Avg@{last.k}", style=page.style("bold")).append(f" {bench}")
    title.append(f"  {percent(last.avg_at_k)}", page.style("dim"))
    errors = _errors(last, room=width - title.cell_len - 2)
    if errors:
        title.append(f"  {errors}", page.style("dim"))
    points = [(float(score.step), score.avg_at_k) for score in same]
    return [title, *_plot(state, points, page, width=width, height=height - 1, most=1.0)]


def _plot(
    state: PanelState,
    points: list[tuple[float, float]],
    page: Page,
    *,
    width: int,
    height: int,
    most: float = math.inf,
) -> list[Text]:
    lines = plot(
        points,
        width=width,
        height=height,
        x_end=growing_end(state.step, total=state.total),
        axis=_axis([value for _, value in points if math.isfinite(value)], most=most),
        ascii_only=page.glyphs.ascii_only,
    )
    return [plain(line) for line in lines]


def _axis(values: list[float], *, most: float) -> TextAxis:
    if not values:
        return TextAxis(0.0, 1.0, 1.0)
    axis = nice_axis(min(values), max(values), least=_LEAST_SPAN)
    if axis.high > most >= max(values):  # no share is above 1
        return nice_axis(min(min(values), most - _LEAST_SPAN), most)
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
