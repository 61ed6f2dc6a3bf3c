"""The steps of two completions after their common start, side by side or one below the other."""

from __future__ import annotations

import unicodedata
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from operator import attrgetter

from rich.segment import Segment
from rich.style import Style
from rich.text import Text

from dgpo_cli.core.text import pad
from dgpo_cli.core.types import InspectedCompletion
from dgpo_cli.inspect.views.header import outcome
from dgpo_cli.inspect.views.measure import Measure, Piece
from dgpo_cli.inspect.views.step_table import StepBars, StepTotals, longest_of, numbered
from dgpo_cli.ui.flow import Run, drawn, joined, show_all, wrap
from dgpo_cli.ui.page import Page
from dgpo_cli.ui.ramp import Ramp

BESIDE = 80  # cells from which both fit side by side


@dataclass(frozen=True, slots=True)
class Side:
    """One completion: `shared` is the common start, `pieces` and `totals` come after it."""

    completion: InspectedCompletion
    measure: Measure
    ramp: Ramp | None
    shared: tuple[Piece, ...]
    pieces: tuple[Piece, ...]
    totals: tuple[StepTotals, ...]

    def text(self, total: StepTotals, *, page: Page) -> list[list[Segment]]:
        """Return the text of a step as lines of segments, in colours or with marks."""
        start = bisect_left(self.pieces, total.step.start, key=attrgetter("start"))
        stop = bisect_left(self.pieces, total.step.stop, key=attrgetter("start"))
        level = self.measure.piece_level
        shown = self.pieces[start:stop]
        texts = show_all((piece.text for piece in shown), glyphs=page.glyphs)
        runs = [Run(text, level(piece), False) for piece, text in zip(shown, texts, strict=True)]
        _end_on_one_line(runs, newline=page.glyphs.newline)
        lines = wrap(joined(runs), width=page.width)
        return list(Segment.split_lines(drawn(lines, ramp=self.ramp, glyphs=page.glyphs)))


@dataclass(frozen=True, slots=True)
class PairSteps:
    """The steps after the common start, paired by number."""

    sides: tuple[Side, Side]
    bars: StepBars
    page: Page

    def draw(self) -> None:
        longest = longest_of(total for side in self.sides for total in side.totals)
        columns = 2 if self._are_beside else 1
        column = self.page.inner((self.page.width - 3 * (columns - 1)) // columns)
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
        self.page.paragraph("From there on, step by step", "bold")
        for first, second in zip_longest(*blocks, fillvalue=()):
            if columns == 2:
                self.page.draw(self._beside(first, second, width=column.width))
            else:
                self.page.draw(
                    part for line in (*first, *second) for part in (*line, Segment.line())
                )

    @property
    def _are_beside(self) -> bool:
        pieces = (piece for side in self.sides for piece in side.pieces)
        return self.page.width >= BESIDE and not any(_runs_left(each.text) for each in pieces)

    def _block(
        self, side: Side, *, column: Page, digits: int, longest: float, shows_head: bool
    ) -> Iterator[list[list[Segment]]]:
        """Yield a head, then for each step a line of numbers and its text."""
        mark = outcome(side.completion, glyphs=self.page.glyphs)
        short, used = mark.split(" ")[0], digits + len(mark.split(" ")[0]) + 2
        bars = replace(self.bars, page=column)
        head = column.text((pad("", used) + bars.head(used), "dim"))
        name = f"{mark}, completion {side.completion.index}"
        title = column.text((column.fit(name), "bold"))
        yield [self._line(title), self._line(head)] if shows_head else [self._line(title)]
        for number, total in numbered(side.totals):
            row = bars.row(total, longest=longest, used=used)
            line = column.text(f"{short} {number:>{digits}} ", row)
            yield [self._line(line), *side.text(total, page=column)]
        end = f"{short} {'ends here' if side.totals else 'has ended'}"
        yield [self._line(column.text((end, "dim")))]

    def _line(self, text: Text) -> list[Segment]:
        assert self.page.console is not None
        return list(text.render(self.page.console))

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
    """Join the empty lines at the end of a step to its last line."""
    for at in range(len(runs) - 1, -1, -1):
        text = runs[at].text
        body = text
        while body.endswith(newline + "\n"):
            body = body.removesuffix(newline + "\n")
        runs[at] = runs[at]._replace(text=body + text[len(body) :].replace("\n", ""))
        if body:
            return


def _runs_left(text: str | None) -> bool:
    """Return whether a text has letters or digits that run from right to left."""
    if text is None or text.isascii():
        return False
    return any(unicodedata.bidirectional(char) in ("R", "AL", "AN") for char in text)
