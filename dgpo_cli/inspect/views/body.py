"""The coloured text of a completion: all of it, or the passages around the tokens that matter."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from dgpo_cli.core.numbers import counted, percent
from dgpo_cli.inspect.views.measure import Measure, Piece, added
from dgpo_cli.ui.flow import Line, Run, drawn, joined, show_all, wrap
from dgpo_cli.ui.page import NOTE, Page
from dgpo_cli.ui.ramp import Ramp

CONTEXT = 1  # lines before and after the line of a token that matters
ROWS = 14  # of passages, about, without gaps and marks


@dataclass(frozen=True, slots=True)
class Passage:
    """Lines from `start` up to, not including, `stop`."""

    start: int
    stop: int


def passages_around(
    wanted: Iterable[int], *, count: int, rows: int, empty: Container[int] = ()
) -> tuple[Passage, ...]:
    """Return the lines around the wanted ones, most important first, until `rows` are full.

    Passages with a gap of one line are joined: the note on a gap takes a line as well. The first
    wanted line is always in. count: of all lines. empty: lines that are not context.
    """
    chosen: set[int] = set()
    for line in wanted:
        context = range(max(0, line - CONTEXT), min(count, line + CONTEXT + 1))
        around = [each for each in context if each == line or each not in empty]
        if chosen and len(chosen.union(around)) > rows:
            continue
        chosen.update(around)
    found: list[Passage] = []
    for line in sorted(chosen):
        if found and line - found[-1].stop <= 1:
            found[-1] = Passage(found[-1].start, line + 1)
        else:
            found.append(Passage(0 if line == 1 else line, line + 1))
    if found and count - found[-1].stop == 1:
        found[-1] = Passage(found[-1].start, count)
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Body:
    """The running text.

    listed: the tokens of the table. peaks: tokens whose passages are shown, most important first.
    whole: show all text, however long; otherwise only if it fits the screen.
    """

    pieces: tuple[Piece, ...]
    measure: Measure
    listed: tuple[int, ...]
    peaks: tuple[int, ...]
    page: Page
    ramp: Ramp | None
    whole: bool

    def draw(self) -> None:
        """Write it on the page."""
        texts = show_all((piece.text for piece in self.pieces), glyphs=self.page.glyphs)
        lines = list(wrap(self._runs(texts), width=self.page.width))
        rows = len(lines) * (1 if self.ramp else 2)
        screen = self.page.console.height if self.page.console else 0
        if self.whole or not self.peaks or rows <= screen:
            self._write(lines)
        else:
            self._passages(lines, _Places(texts, lines))

    def _runs(self, texts: Sequence[str]) -> Iterator[Run]:
        listed = frozenset() if self.measure.scale.is_uniform else frozenset(self.listed)
        level = self.measure.piece_level
        return joined(
            Run(text, level(piece), not listed.isdisjoint(range(piece.start, piece.stop)))
            for piece, text in zip(self.pieces, texts, strict=True)
        )

    def _write(self, lines: Iterable[Line]) -> None:
        self.page.draw(drawn(lines, ramp=self.ramp, glyphs=self.page.glyphs))

    def _passages(self, lines: Sequence[Line], places: _Places) -> None:
        piece_of = {at: i for i, p in enumerate(self.pieces) for at in range(p.start, p.stop)}
        wanted = [places.line(piece_of[position]) for position in self.peaks]
        newline = self.page.glyphs.newline
        empty = {at for at, line in enumerate(lines) if "".join(r.text for r in line) == newline}
        shown = 0
        for passage in passages_around(wanted, count=len(lines), rows=ROWS, empty=empty):
            self._gap(places, shown, passage.start)
            self._write(lines[passage.start : passage.stop])
            shown = passage.stop
        self._gap(places, shown, len(lines))

    def _gap(self, places: _Places, start: int, stop: int) -> None:
        """Write what is left out: the number of tokens and their share of the weight."""
        if start >= stop:
            return
        pieces = self.pieces[places.first(start) : places.first(stop)]
        left_out = added([piece.weight for piece in pieces])
        total = added([piece.weight for piece in self.pieces])
        tokens = pieces[-1].stop - pieces[0].start if pieces else 0
        share = percent(left_out / total if total else 0.0)
        rule = self.page.glyphs.rule * 3
        text = f"{rule} {counted(tokens, 'token')}, {share} of the weight {rule}"
        self.page.add((text[: self.page.width], NOTE if self.ramp else ""))


class _Places:
    """The line in which each piece begins; line breaks belong to no line."""

    def __init__(self, texts: Sequence[str], lines: Sequence[Line]) -> None:
        sizes = (len(text) - text.count("\n") for text in texts)
        self._pieces = list(accumulate(sizes, initial=0))
        self._lines = list(
            accumulate((sum(len(r.text) for r in line) for line in lines), initial=0)
        )

    def line(self, piece: int) -> int:
        """Return the line in which a piece begins."""
        return bisect_right(self._lines, self._pieces[piece]) - 1

    def first(self, line: int) -> int:
        """Return the first piece that begins in a line or after it."""
        return bisect_left(self._pieces, self._lines[line], hi=len(self._pieces) - 1)
