"""The panel of an evaluation at one moment: score so far, outcomes, speed, cost, every problem."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.text import Text

from dgpo_cli.core.events import Judged, Requests
from dgpo_cli.core.numbers import (
    UNKNOWN,
    cost,
    counted,
    duration,
    ends,
    percent,
    rate,
    whole_percent,
)
from dgpo_cli.core.text import glyphs_for, pad, plain
from dgpo_cli.core.types import OUTCOMES
from dgpo_cli.live.evaluating.lines import Pace
from dgpo_cli.live.parts import outcome_bar, phase_row
from dgpo_cli.live.state import Phase
from dgpo_cli.live.words import joined, meter, row
from dgpo_cli.ui import outcomes
from dgpo_cli.ui.page import Page
from dgpo_cli.ui.ramp import Depth

_NAME = 14  # cells of the id of a problem at most
_COLUMN = 26  # cells that a problem takes at least
_WIDEST = 60
_GROUP = 10  # problems between gaps of the dense grid


@dataclass(frozen=True, slots=True)
class Moment:
    """An evaluation, its phases, and the time; judged is None before it begins.

    requests: those to its endpoint, if it has one.
    """

    judged: Judged | None
    phases: tuple[Phase, ...]
    pace: Pace
    now: float
    requests: Requests | None = None


def panel(moment: Moment, *, width: int, height: int, depth: Depth, ascii_only: bool) -> list[Text]:
    """Lay the panel out in at most `height` lines of at most `width` cells."""
    page = Page(max(1, width), glyphs_for(ascii_only=ascii_only), depth)
    phases = [phase_row(each, page) for each in moment.phases]
    if moment.judged is None:
        starting = [plain("").append("starting", page.style("dim"))]
        return [_cut(line, page.width) for line in (phases or starting)[:height]]
    lines = [*_facts(moment.judged, moment, page), *phases[-2:]]
    room = height - len(lines) - 1
    if room > 0:
        problems = list(_problems(moment.judged, page, room=room))
        lines += [plain(""), *problems] if problems else []
    return [_cut(line, page.width) for line in lines[:height]]


def _facts(judged: Judged, moment: Moment, page: Page) -> Iterator[Text]:
    yield _header(judged, page)
    yield _progress(judged, moment, page)
    yield _score(judged, page)
    if judged.done:
        counts = [float(judged.outcomes.get(name, 0)) for name in OUTCOMES]
        texts = [whole_percent(count / judged.done) for count in counts]
        yield from outcome_bar(counts, texts, page)
    yield _speed(judged, page)
    if moment.requests is not None:
        yield _requests(moment.requests, page)
    if judged.cost is not None or judged.max_cost is not None:
        yield _cost(judged, page)


def _header(judged: Judged, page: Page) -> Text:
    left = plain("").append(plain(judged.bench, glyphs=page.glyphs).plain, page.style("bold"))
    left.append(f"  {plain(judged.model, glyphs=page.glyphs).plain}", page.style("dim"))
    right = f"{judged.done:,}/{judged.total:,} samples"
    return joined(left, plain("").append(right, page.style("bold")), page=page)


def _progress(judged: Judged, moment: Moment, page: Page) -> Text:
    done = judged.done / max(1, judged.total)
    left = moment.pace.left(judged, now=moment.now)
    right = plain(f" {whole_percent(done)}  ")
    right.append(f"{duration(left, whole=True)} left" if left is not None else "time left unknown")
    return meter(done, cells=max(0, page.width - right.cell_len), page=page).append_text(right)


def _score(judged: Judged, page: Page) -> Text:
    if not judged.rounds:
        return row(
            page, "Avg@k", f"after a sample of each of {counted(len(judged.problems), 'problem')}"
        )
    value = plain("").append(percent(judged.avg), page.style("bold"))
    found = ends(judged.rerun_95)
    interval = f"95% interval over reruns {found}" if found != UNKNOWN else ""
    rounds = f"round {judged.rounds} of {judged.k}"
    return row(page, f"Avg@{judged.rounds}", value, *filter(None, (interval, rounds)))


def _speed(judged: Judged, page: Page) -> Text:
    if not judged.drawn or judged.seconds <= 0:
        return row(page, "speed", UNKNOWN)
    tokens = rate(judged.tokens / judged.seconds, "tokens") if judged.tokens else ""
    mean = f"{judged.tokens / judged.drawn:,.0f} tokens a sample" if judged.tokens else ""
    samples = rate(judged.drawn / judged.seconds, "samples")
    return row(page, "speed", *filter(None, (tokens, samples, mean)))


def _requests(found: Requests, page: Page) -> Text:
    again = f"{found.again:,} sent again" if found.again else ""
    in_flight = f"{found.in_flight:,} in flight, at most {found.limit:,}"
    return row(page, "requests", *filter(None, (in_flight, again)))


def _cost(judged: Judged, page: Page) -> Text:
    so_far = UNKNOWN if judged.cost is None else f"{cost(judged.cost)} so far"
    parts = [so_far]
    if judged.cost is not None and judged.done:
        parts.append(f"about {cost(judged.cost * judged.total / judged.done)} in all")
    if judged.max_cost is not None:
        parts.append(f"at most {cost(judged.max_cost)}")
    return row(page, "cost", *parts)


def _problems(judged: Judged, page: Page, *, room: int) -> Iterator[Text]:
    """Yield named bars in as few columns as have room for all problems, else a cell a problem."""
    problems = list(judged.problems.items())
    most = max(1, (page.width + 2) // _COLUMN)
    columns = next((n for n in range(1, most + 1) if n * room >= len(problems)), None)
    if columns is None:
        yield from _dense([pair for _, pair in problems], page, room=room)
        return
    height = -(-len(problems) // columns)
    width = min(_WIDEST, (page.width - 2 * (columns - 1)) // columns)
    longest = max((cell_len(page.shown(name)) for name, _ in problems), default=0)
    label = min(_NAME, longest, 2 * width // 5)
    for at in range(height):
        line = plain("")
        for number, (name, counts) in enumerate(problems[at::height]):
            head = pad(page.fit(page.shown(name), label, end=True), label)
            cell = _problem(head, counts, k=judged.k, width=width, page=page)
            line.append("  " if number else "").append_text(cell)
        yield line


def _problem(head: str, counts: tuple[int, int], *, k: int, width: int, page: Page) -> Text:
    """The bar of a problem: correct samples, others, and those to come."""
    correct, done = counts
    size = 2 * len(str(k)) + 1
    cells = max(1, width - cell_len(head) - size - 2)
    right = round(cells * correct / k)
    judged = max(right, round(cells * done / k))
    marks = "#=" if page.glyphs.ascii_only else "█▒"  # a dot is a wrong sample elsewhere
    line = plain("").append(f"{head} ", page.style("dim"))
    line.append(marks[0] * right, outcomes.style("correct", depth=page.depth))
    line.append(marks[1] * (judged - right), outcomes.style("wrong", depth=page.depth))
    left = " " * (cells - judged)
    return line.append(f"{left} {f'{correct}/{done}'.rjust(size)}")


def _dense(problems: Sequence[tuple[int, int]], page: Page, *, room: int) -> Iterator[Text]:
    """Yield lines with a cell a problem, or for several in a row where there are too many."""
    groups = max(1, (page.width + 1) // (_GROUP + 1))
    cells = groups * _GROUP if page.width > _GROUP else page.width
    each = max(1, math.ceil(len(problems) / (cells * max(1, room - 1))))
    merged = [
        tuple(map(sum, zip(*problems[at : at + each], strict=True)))
        for at in range(0, len(problems), each)
    ]
    ink = outcomes.style("correct", depth=page.depth)
    for start in range(0, len(merged), cells):
        line = plain("")
        for at, (correct, done) in enumerate(merged[start : start + cells]):
            line.append(" " if at and at % _GROUP == 0 else "")
            line.append(_level(correct, done, page), ink if done else page.style("dim"))
        yield line
    if room > 1:
        steps = page.glyphs.fractions
        cell = "a cell is a problem" if each == 1 else f"a cell is {each:,} problems"
        legend = f"{cell}: {steps[0]} none correct   {steps[1:-1]} some   {steps[-1]} all"
        yield plain("").append(page.fit(legend), page.style("dim"))


def _level(correct: int, done: int, page: Page) -> str:
    """The first glyph only for none, the last only for all; a space before the first sample."""
    steps = page.glyphs.fractions
    if not done:
        return " "
    if correct in (0, done):
        return steps[-1] if correct else steps[0]
    return steps[1 + correct * (len(steps) - 2) // done]


def _cut(line: Text, width: int) -> Text:
    if line.cell_len > width:
        line = line.copy()
        line.truncate(width, overflow="crop")
    return line
