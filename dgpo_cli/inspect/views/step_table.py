"""The credit of a completion by step, which keeps a long one readable."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter

from rich.cells import cell_len
from rich.style import Style
from rich.text import Text

from dgpo_cli.core.numbers import counted, percent, signed, worth
from dgpo_cli.core.text import plain, split_cells, visible
from dgpo_cli.core.types import InspectedCompletion, Inspection
from dgpo_cli.inspect.values.moves import Along
from dgpo_cli.inspect.views.header import header
from dgpo_cli.inspect.views.legend import legend
from dgpo_cli.inspect.views.measure import Measure, Piece, What, added, measure_of, pieces
from dgpo_cli.inspect.views.ranking import ranked
from dgpo_cli.inspect.views.steps import ReasoningStep, steps_of
from dgpo_cli.inspect.views.value_curve import ValueBars
from dgpo_cli.ui.page import NOTE, Page, View
from dgpo_cli.ui.ramp import RAMPS, Depth, Ramp, levels
from dgpo_cli.ui.scale import Scale


@dataclass(frozen=True, slots=True)
class StepTotals:
    """A step: its share of all tokens (GRPO's share of the credit) and of all weight.

    tokens: of the policy; 0 for what an environment said, which has no numbers.
    advantage: the sum over its tokens of A x w. peak: its most weighted token.
    value, move: the expected reward after it, and less that before it; NaN if not estimated.
    """

    step: ReasoningStep
    tokens: int
    token_share: float
    share: float
    mean: float
    advantage: float
    peak: int
    peak_weight: float
    value: float = math.nan
    move: float = math.nan


def totals_of(completion: InspectedCompletion, *, start: int = 0) -> tuple[StepTotals, ...]:
    """Return the totals of every step in order; over all steps they are T, 1, 1 and T x A.

    start: ignore the tokens before it.
    """
    tokens, count = completion.tokens, len(completion.own)
    everything = added([token.weight for token in tokens])
    along = None if completion.values is None else Along.of(completion.values).value
    found = []
    for whole in steps_of(tokens):
        step = ReasoningStep(max(start, whole.start), whole.stop)
        if step.start >= step.stop:
            continue
        own = tokens[step.start : step.stop]
        if own[0].environment:
            found.append(StepTotals(step, 0, 0.0, 0.0, math.nan, 0.0, step.start, math.nan))
            continue
        weight = added([token.weight for token in own])
        peak = step.start + ranked(own, top=1)[0]
        found.append(
            StepTotals(
                step=step,
                tokens=len(own),
                token_share=len(own) / count,
                share=weight / everything if everything else 0.0,
                mean=weight / len(own),
                advantage=weight * completion.advantage,
                peak=peak,
                peak_weight=tokens[peak].weight,
                value=math.nan if along is None else along[step.stop],
                move=math.nan if along is None else along[step.stop] - along[step.start],
            )
        )
    return tuple(found)


def numbered(totals: Iterable[StepTotals]) -> Iterator[tuple[str, StepTotals]]:
    """Yield the steps with their numbers from 1; those of an environment have none."""
    number = 0
    for total in totals:
        number += total.tokens > 0
        yield str(number) if total.tokens else "", total


def longest_of(totals: Iterable[StepTotals]) -> float:
    """Return the largest share that a bar of these steps shows."""
    shares = (share for total in totals for share in (total.share, total.token_share))
    return max((share for share in shares if math.isfinite(share)), default=0.0)


def render(
    completion: InspectedCompletion,
    *,
    inspection: Inspection,
    width: int,
    color: Depth,
    what: What = "weight",
    fit: bool = False,
) -> View:
    """Return a row of numbers and a line of coloured text for each step.

    width, color, what, fit: as in heatmap.render.
    """
    shown = pieces(completion.tokens)

    def draw(page: Page) -> None:
        steps = levels(page.depth)
        weights = Scale.of([token.weight for token in completion.own], steps=steps)
        measure = measure_of(completion, what=what, steps=steps, fit=fit)
        ramp = measure.ramp(page.depth)
        merged = any(piece.stop - piece.start > 1 for piece in shown)
        ink = None if weights.is_uniform else RAMPS.get(page.depth)
        bars = StepBars(weights, page, ink, has_values=completion.values is not None)
        header(page, completion, inspection=inspection, scale=weights)
        page.blank()
        if completion.values is not None:
            ValueBars(completion.values, page).draw()
            page.blank()
        _rows(totals_of(completion), bars, StepText(shown, measure, page, ramp))
        page.blank()
        listed = "peak weight of its step"
        legend(page, measure, rule=inspection.rule, ramp=ramp, merged=merged, listed=listed)

    return View(draw, color, width)


def _rows(totals: Sequence[StepTotals], bars: StepBars, text: StepText) -> None:
    if not totals:
        return
    page = bars.page
    digits = max(2, len(str(len(totals))))
    longest = longest_of(totals)
    page.heading(counted(sum(total.tokens > 0 for total in totals), "step"))
    page.add((f"{'#':>{digits}} " + bars.head(digits + 1), "dim"))
    for number, total in numbered(totals):
        page.add(f"{number:>{digits}} ", bars.row(total, longest=longest, used=digits + 1))
        page.add(text.line(total, indent=digits + 1))
    marked = "underlined" if text.ramp else "in brackets"
    peak = f"{marked}: the step's most weighted token; long steps are shown around it"
    page.paragraph(f"{bars.notes()}; {peak}", "dim")


@dataclass(frozen=True, slots=True)
class StepBars:
    """The numbers of a step; the narrower the page, the fewer. scale: of the weights.

    has_values: the values of the completion are known, and take the place of other numbers.
    """

    scale: Scale
    page: Page
    ramp: Ramp | None
    has_values: bool = False

    def head(self, used: int) -> str:
        head = f"{'tokens':>6} {'share':>7} {'':{self._room(used)}}"
        return head + "".join(f" {name:>9}" for name in self._names)

    def row(self, total: StepTotals, *, longest: float, used: int) -> Text:
        """Return one line. longest: the share that fills a bar. used: cells before it."""
        if not total.tokens:
            name = self.page.fit("environment", max(1, self.page.width - used))
            return plain("").append(name, style=self.page.style("dim"))
        share = percent(total.share)
        line = plain(f"{total.tokens:>6,} {share:>7} ")
        line.append_text(self._bar(total, longest=longest, room=self._room(used)))
        numbers = {
            "sum of A": signed(total.advantage),
            "mean w": self.scale.number(total.mean),
            "peak w": self.scale.number(total.peak_weight),
            "value": worth(total.value),
            "move": signed(total.move, worth),
        }
        return line.append("".join(f" {numbers[name]:>9}" for name in self._names))

    def notes(self) -> str:
        notes = (
            f"share: of all weight; {self._marks[1]} is the share of the tokens, what GRPO gives"
        )
        if "sum of A" in self._names:
            notes += f"; sum of A: of the token advantages A{self.page.glyphs.times}w"
        if self.has_values:
            notes += "; value: the expected reward after the step; move: less that before it"
        return notes

    @property
    def _names(self) -> tuple[str, ...]:
        width = self.page.width
        names = ("mean w", "sum of A", "peak w")
        if self.has_values:
            names = ("value", "move", "mean w")
        most = 3 if width >= 72 else 2 if width >= 60 else 0
        return names[:most] or ((names[1],) if width >= 36 else ())

    @property
    def _marks(self) -> tuple[str, str]:
        return ("=", "|") if self.page.glyphs.ascii_only else ("━", "┃")

    def _room(self, used: int) -> int:
        return max(2, min(48, self.page.width - used - 15 - 10 * len(self._names)))

    def _bar(self, total: StepTotals, *, longest: float, room: int) -> Text:
        """Return a bar of the share of the weight, with a mark at the share of the tokens."""
        share = total.share if math.isfinite(total.share) else 0.0
        filled, even = (
            round((room - 1) * each / longest) if longest else 0
            for each in (share, total.token_share)
        )
        full, mark = self._marks
        cells = (full * filled).ljust(room)
        ink = self.ramp.ink(self.scale.level(total.mean)) if self.ramp else Style()
        line = plain("").append(cells[:even], style=ink)
        line.append(mark, style=self.ramp.ink(0) if self.ramp else self.page.style("dim"))
        return line.append(cells[even + 1 :], style=ink)


@dataclass(frozen=True, slots=True)
class StepText:
    """The text of a step on one line, coloured as in the view of the tokens."""

    pieces: Sequence[Piece]
    measure: Measure
    page: Page
    ramp: Ramp | None

    def line(self, total: StepTotals, *, indent: int) -> Text:
        """Return as much text as fits, with the peak."""
        first = bisect_right(self.pieces, total.step.start, key=attrgetter("start")) - 1
        last = bisect_right(self.pieces, total.step.stop - 1, key=attrgetter("start")) - 1
        peak = bisect_right(self.pieces, total.peak, key=attrgetter("start")) - 1
        room = self.page.width - indent
        begin = self._begin(first, peak, room=room)
        peak = peak if total.tokens else -1
        line = plain(" " * indent)
        used = self._add(line, self.page.glyphs.ellipsis, room=room) if begin > first else 0
        for index in range(begin, last + 1):
            space = room - used - (cell_len(self.page.glyphs.ellipsis) if index < last else 0)
            name = self._name(index, is_peak=index == peak)
            used += self._add(line, name, room=space, style=self._style(index, index == peak))
            if cell_len(name) > space:
                used += self._add(line, self.page.glyphs.ellipsis, room=room - used)
                break
        return line

    def _add(self, line: Text, text: str, *, room: int, style: Style | None = None) -> int:
        """Append what fits; return its width."""
        text = split_cells(text, max(0, room))[0]
        line.append(text, style=style or (NOTE if self.ramp else ""))
        return cell_len(text)

    def _begin(self, first: int, peak: int, *, room: int) -> int:
        """Return the first piece, or one a little before the peak if that would not fit."""
        used = 0
        for index in range(first, peak + 1):
            used += cell_len(self._name(index, is_peak=index == peak))
            if used > room * 3 // 4:
                break
        else:
            return first
        used, begin = 0, peak
        while begin > first and used < room // 3:
            begin -= 1
            used += cell_len(self._name(begin, is_peak=False))
        return begin if used < room // 2 else min(peak, begin + 1)

    def _name(self, index: int, *, is_peak: bool) -> str:
        piece, glyphs = self.pieces[index], self.page.glyphs
        name = glyphs.empty if piece.text is None else visible(piece.text, glyphs=glyphs)
        return f"[{name}]" if is_peak and not self.ramp else name

    def _style(self, index: int, is_peak: bool) -> Style | None:
        if self.ramp is None:
            return None
        if self.pieces[index].environment:
            return Style(dim=True)
        return self.ramp.style(self.measure.piece_level(self.pieces[index]), listed=is_peak)
