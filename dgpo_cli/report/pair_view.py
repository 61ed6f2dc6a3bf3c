"""A right and a wrong completion of one prompt beside each other: where they part, and the credit.

What both begin with is shown once. From there on the steps stand side by side, or below each other
where the page is narrow or a text runs from right to left, which terminals reorder by whole lines.
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile, zip_longest

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.segment import Segment
from rich.style import Style
from rich.text import Text

from dgpo_cli.report.flow import Run, coloured, joined, marked, show, wrap
from dgpo_cli.report.header import fraction, outcome, question
from dgpo_cli.report.legend import legend
from dgpo_cli.report.measure import Measure, What, added, measure_of, scale_of
from dgpo_cli.report.numbers import counted, probability
from dgpo_cli.report.page import LABEL, LEAST_WIDTH, Page, page_for, stack, title_line
from dgpo_cli.report.ramp import RAMPS, Depth, Ramp, depth_of, levels, shallower
from dgpo_cli.report.scale import Scale
from dgpo_cli.report.step_table import StepBars, StepTotals, longest_of, totals_of
from dgpo_cli.report.text import Piece, elide, pad, pieces, plain, visible
from dgpo_cli.types import InspectedCompletion, Inspection

_BESIDE = 80  # cells from which both fit side by side
_SHARED_LINES = 4  # of what both begin with


def render(
    right: InspectedCompletion,
    wrong: InspectedCompletion,
    *,
    inspection: Inspection,
    width: int,
    color: Depth,
    what: What = "weight",
    whole: bool = False,
) -> RenderableType:
    """Two completions of one prompt; the first is the one that was right.

    width, color, what: as for the view of the tokens; one scale holds for both. whole: show all
    of what both begin with. Model text is shown, never obeyed.
    """
    return _PairView((right, wrong), inspection, max(width, LEAST_WIDTH), color, what, whole)


def parting(right: InspectedCompletion, wrong: InspectedCompletion) -> int:
    """How many tokens both begin with; a character of several tokens is in whole or not at all."""
    return _parting((right, wrong), [pieces(right.tokens), pieces(wrong.tokens)])


def _parting(
    both: tuple[InspectedCompletion, InspectedCompletion], shown: Sequence[Sequence[Piece]]
) -> int:
    right, wrong = both
    same = (a.id == b.id for a, b in zip(right.tokens, wrong.tokens, strict=False))
    common = sum(1 for _ in takewhile(bool, same))
    while straddling := next((p for own in shown for p in own if p.start < common < p.stop), None):
        common = straddling.start
    return common


@dataclass(frozen=True, slots=True)
class _Side:
    """One completion, cut where the two part: `shared` before it, `pieces` and `totals` after."""

    completion: InspectedCompletion
    measure: Measure
    ramp: Ramp | None
    shared: tuple[Piece, ...]
    pieces: tuple[Piece, ...]
    totals: tuple[StepTotals, ...]

    def drawn(self, total: StepTotals, *, page: Page) -> list[list[Segment]]:
        """The text of a step as lines of segments, in colours or with marks."""
        start = bisect_left(self.pieces, total.step.start, key=_start)
        stop = bisect_left(self.pieces, total.step.stop, key=_start)
        level = self.measure.piece_level
        runs = [
            Run(show(piece.text, glyphs=page.glyphs), level(piece), False)
            for piece in self.pieces[start:stop]
        ]
        _end_on_one_line(runs, newline=page.glyphs.newline)
        lines = wrap(joined(runs), width=page.width - (2 if self.ramp else 0))
        if self.ramp:
            segments = coloured(lines, width=page.width, ramp=self.ramp, margin=1)
        else:
            segments = marked(lines, glyphs=page.glyphs)
        return list(Segment.split_lines(segments))


@dataclass(frozen=True, slots=True)
class _PairView:
    both: tuple[InspectedCompletion, InspectedCompletion]
    inspection: Inspection
    width: int
    color: Depth
    what: What
    whole: bool

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        depth = shallower(self.color, depth_of(console))
        page = page_for(options, width=self.width, depth=depth)
        sides = self._sides(depth)
        left = sides[0]
        weights = Scale.of(
            [token.weight for each in self.both for token in each.tokens], steps=levels(depth)
        )
        bars = StepBars(weights, page, None if weights.is_uniform else RAMPS.get(depth))
        merged = any(p.stop - p.start > 1 for side in sides for p in (*side.shared, *side.pieces))
        yield stack(self._head(page, sides))
        yield Text("")
        yield from _shared(left.shared, page=page, ramp=RAMPS.get(depth), whole=self.whole)
        yield Text("")
        yield from _Steps(sides, bars, page, console).segments()
        yield stack(page.paragraph(bars.notes(), style="dim"))
        yield Text("")
        yield stack(legend(left.measure, page=page, ramp=left.ramp, merged=merged, listed=""))

    def _sides(self, depth: Depth) -> tuple[_Side, _Side]:
        """Both completions on one scale, cut where they part."""
        measures = [measure_of(each, what=self.what, steps=levels(depth)) for each in self.both]
        values = [value for measure in measures for value in measure.values]
        scale = scale_of(self.what, values, steps=levels(depth))
        every = [pieces(each.tokens) for each in self.both]
        start = _parting(self.both, every)

        def side(
            completion: InspectedCompletion, measure: Measure, shown: tuple[Piece, ...]
        ) -> _Side:
            measure = replace(measure, scale=scale)
            return _Side(
                completion=completion,
                measure=measure,
                ramp=measure.ramp(depth),
                shared=tuple(piece for piece in shown if piece.start < start),
                pieces=tuple(piece for piece in shown if piece.start >= start),
                totals=totals_of(completion, start=start),
            )

        right, wrong = map(side, self.both, measures, every)
        return right, wrong

    def _head(self, page: Page, sides: tuple[_Side, _Side]) -> Iterator[Text]:
        right, wrong = self.both
        name = visible(right.prompt_id, glyphs=page.glyphs)
        yield title_line(page, f"{name}, completions {right.index} and {wrong.index}")
        yield from question(right, inspection=self.inspection, page=page)
        yield plain("")
        room = (page.width - LABEL) // 2
        rows = [_facts(side, page=page) for side in sides]
        for (label, first), (_, second) in zip(*rows, strict=True):
            line = plain("").append(pad(label, LABEL), style=page.style("dim"))
            line.append(pad(elide(first, room - 1, glyphs=page.glyphs), room))
            yield line.append(elide(second, room, glyphs=page.glyphs))


def _facts(side: _Side, *, page: Page) -> list[tuple[str, str]]:
    completion = side.completion
    weight = added([piece.weight for piece in side.shared])
    total = added([token.weight for token in completion.tokens])
    share = 100.0 * weight / total if total else 0.0
    return [
        ("completion", str(completion.index)),
        ("outcome", outcome(completion, glyphs=page.glyphs)),
        ("reward", f"{completion.reward:g}"),
        ("advantage", f"{completion.advantage:+.4g}"),
        ("tokens", f"{len(completion.tokens):,}"),
        ("eff. frac.", fraction(completion.effective_fraction)),
        ("same start", f"{share:.3g} % of w"),
        ("  sum of A", f"{weight * completion.advantage:+.4g}"),
        ("parts with", _parts_with(side, page=page)),
    ]


def _parts_with(side: _Side, *, page: Page) -> str:
    """The token with which a completion goes its own way."""
    if not side.pieces:
        return "its end"
    piece = side.pieces[0]
    token = side.completion.tokens[piece.start]
    name = piece.text and visible(piece.text, glyphs=page.glyphs, spaces=True)
    return f"p {probability(token.logprob)} [{name or page.glyphs.empty}]"


def _shared(
    shown: Sequence[Piece], *, page: Page, ramp: Ramp | None, whole: bool
) -> Iterator[Segment]:
    """What both begin with, once and without credit: its end, or all of it."""
    count = shown[-1].stop if shown else 0
    title = f"Both begin with the same {counted(count, 'token')}"
    if not count:
        title = "They part at the first token"
    yield from _title(title, page=page)
    style = ramp.note() if ramp else None
    margin = page.margin if ramp else 0
    runs = (Run(show(piece.text, glyphs=page.glyphs), 0, False) for piece in shown)
    lines = list(wrap(joined(runs), width=page.width - 2 * margin))
    hidden = len(lines) - _SHARED_LINES
    rows = ["".join(run.text for run in line) for line in lines]
    if hidden > 1 and not whole:
        rule = page.glyphs.rule * 3
        rows[:hidden] = [f"{rule} {counted(hidden, 'line')} before {rule}"]
    for row in rows:
        yield Segment(pad(" " * margin + row, page.width) if ramp else row, style)
        yield Segment.line()


def _title(text: str, *, page: Page) -> Iterator[Segment]:
    for line in page.paragraph(text):
        yield Segment(line.plain, Style(bold=True) if page.styled else None)
        yield Segment.line()


@dataclass(frozen=True, slots=True)
class _Steps:
    """The steps after the parting, each with the step of the same number of the other one."""

    sides: tuple[_Side, _Side]
    bars: StepBars
    page: Page
    console: Console

    def segments(self) -> Iterator[Segment]:
        longest = longest_of(total for side in self.sides for total in side.totals)
        columns = 2 if self._are_beside else 1
        column = replace(self.page, width=(self.page.width - 3 * (columns - 1)) // columns)
        digits = max(2, len(str(max(len(side.totals) for side in self.sides))))
        blocks = [
            [
                *self._block(
                    side,
                    column=column,
                    digits=digits,
                    longest=longest,
                    shows_head=columns == 2 or side is self.sides[1],
                )
            ]
            for side in self.sides
        ]
        yield from _title("From there on, step by step", page=self.page)
        for first, second in zip_longest(*blocks, fillvalue=()):
            if columns == 2:
                yield from self._beside(first, second, width=column.width)
            else:
                for line in (*first, *second):
                    yield from (*line, Segment.line())

    @property
    def _are_beside(self) -> bool:
        pieces = (piece for side in self.sides for piece in side.pieces)
        return self.page.width >= _BESIDE and not any(_runs_left(each.text) for each in pieces)

    def _block(
        self, side: _Side, *, column: Page, digits: int, longest: float, shows_head: bool
    ) -> Iterator[list[list[Segment]]]:
        """For each step a line of numbers and its text; first what the numbers are."""
        mark = outcome(side.completion, glyphs=self.page.glyphs)
        short, used = mark.split(" ")[0], digits + len(mark.split(" ")[0]) + 2
        dim = self.page.style("dim")
        bars = replace(self.bars, page=column)
        head = plain(pad("", used) + bars.head(used), style=dim)
        name = f"{mark}, completion {side.completion.index}"
        name = elide(name, column.width, glyphs=self.page.glyphs)
        title = plain(name, style=self.page.style("bold"))
        yield [self._line(title), self._line(head)] if shows_head else [self._line(title)]
        for number, total in enumerate(side.totals, start=1):
            line = plain(f"{short} {number:>{digits}} ")
            line.append_text(bars.row(total, longest=longest, used=used))
            yield [self._line(line), *side.drawn(total, page=column)]
        end = f"{short} {'ends here' if side.totals else 'has ended'}"
        yield [self._line(plain(end, style=dim))]

    def _line(self, text: Text) -> list[Segment]:
        text.stylize(text.style)
        return list(text.render(self.console))

    def _beside(
        self, first: Sequence[list[Segment]], second: Sequence[list[Segment]], *, width: int
    ) -> Iterator[Segment]:
        edge = "|" if self.page.glyphs.ascii_only else "│"
        style = Style(dim=True) if self.page.styled else None
        empty: list[Segment] = []
        for left, right in zip_longest(first, second, fillvalue=empty):
            yield from Segment.adjust_line_length(left, width)
            yield Segment(f" {edge} ", style)
            yield from right
            yield Segment.line()


def _end_on_one_line(runs: list[Run], *, newline: str) -> None:
    """Let the empty lines at the end of a step take no lines of their own."""
    for at in range(len(runs) - 1, -1, -1):
        text = runs[at].text
        body = text
        while body.endswith(newline + "\n"):
            body = body.removesuffix(newline + "\n")
        runs[at] = runs[at]._replace(text=body + text[len(body) :].replace("\n", ""))
        if body:
            return


def _start(piece: Piece) -> int:
    return piece.start


def _runs_left(text: str | None) -> bool:
    """Whether a text has letters or digits that run from right to left."""
    if text is None or text.isascii():
        return False
    return any(unicodedata.bidirectional(char) in ("R", "AL", "AN") for char in text)
