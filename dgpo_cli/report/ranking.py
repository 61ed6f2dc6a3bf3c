"""The table of the most weighted tokens, each with its numbers and the text around it.

Token texts come last on a line: right-to-left text reorders nothing that precedes it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.text import Text

from dgpo_cli.report.page import Page
from dgpo_cli.report.ramp import Ramp
from dgpo_cli.report.scale import Scale
from dgpo_cli.report.text import (
    Piece,
    elide,
    pad,
    plain,
    split_cells,
    split_cells_end,
    visible,
)
from dgpo_cli.types import InspectedToken

_WIDE = 72  # cells from which a token's numbers have columns of their own
_LOGPROB = 96  # cells from which the log-probability has one too


def ranked(tokens: Sequence[InspectedToken], *, top: int) -> tuple[int, ...]:
    """Positions of the `top` tokens by weight; ties by score, by d, then first comes first."""

    def key(position: int) -> tuple[float, ...]:
        token = tokens[position]
        numbers = (token.weight, token.score, token.hellinger_sq)
        return tuple(-number if not math.isnan(number) else math.inf for number in numbers)

    return tuple(sorted(range(len(tokens)), key=key)[: max(0, top)])


def small(value: float) -> str:
    """A number of any size in at most 7 cells: 0.0123, 4.1e-05, 12.3."""
    if not math.isfinite(value):
        return "none" if math.isnan(value) else f"{value}"
    if value == 0.0:
        return "0"
    if 1e-3 <= abs(value) < 10.0:
        return f"{value:.4f}"
    return f"{value:.1f}" if 10.0 <= abs(value) < 1e4 else f"{value:.1e}"


def probability(logprob: float) -> str:
    """exp(logprob) in at most 6 cells."""
    value = math.exp(min(0.0, logprob))
    return f"{value:.3f}" if value >= 5e-4 or value == 0.0 else f"{value:.0e}"


@dataclass(frozen=True, slots=True)
class Ranking:
    """What the table needs: the tokens, how they are shown, and how they are painted."""

    tokens: Sequence[InspectedToken]
    pieces: Sequence[Piece]
    scale: Scale
    page: Page
    ramp: Ramp | None

    def lines(self, positions: Sequence[int]) -> Iterator[Text]:
        """The table of these positions, best first."""
        if not positions:
            return
        wide = self.page.width >= _WIDE
        piece_at = {
            position: index
            for index, piece in enumerate(self.pieces)
            for position in range(piece.start, piece.stop)
        }
        yield from self._title()
        yield plain(self._head(wide=wide), style=self.page.style("dim"))
        for rank, position in enumerate(positions, start=1):
            token = self.tokens[position]
            line = plain(self._numbers(rank, position, token, wide=wide))
            room = self.page.width - line.cell_len
            yield self._context(line, position, piece_at[position], room=room)
            if not wide:
                yield plain(self._second(token), style=self.page.style("dim"))
        yield from self.page.paragraph(self._notes(wide=wide), style="dim")

    def _notes(self, *, wide: bool) -> str:
        score, entropy, prob = ("score", "entropy", "prob") if wide else ("s", "H", "p")
        return (
            "d: squared Hellinger distance of policy and reference; "
            f"{score}: the credit rule's score; {entropy}: the policy's entropy in nats; "
            f"{prob}: the policy's probability; tokens count from 0"
        )

    def _title(self) -> Iterator[Text]:
        title = "Most weighted tokens"
        if self.scale.is_uniform:
            title = "All weights are equal; tokens by score"
        yield plain(title, style=self.page.style("bold"))

    def _head(self, *, wide: bool) -> str:
        head = f"{'#':>2} {'token':>6} {'weight':>8}  "
        if wide:
            head += f"{'score':>7}  {'d':>7}  {'entropy':>7}  "
            head += f"{'logprob':>7}  " if self.page.width >= _LOGPROB else ""
            head += f"{'prob':>6}  "
        return head + "in context"

    def _numbers(self, rank: int, position: int, token: InspectedToken, *, wide: bool) -> str:
        text = f"{rank:>2} {position:>6} {self.scale.number(token.weight):>8}  "
        if wide:
            text += f"{small(token.score):>7}  {small(token.hellinger_sq):>7}  "
            text += f"{small(token.entropy):>7}  "
            text += f"{small(token.logprob):>7}  " if self.page.width >= _LOGPROB else ""
            text += f"{probability(token.logprob):>6}  "
        return text

    def _second(self, token: InspectedToken) -> str:
        return (
            f"   s {small(token.score)} d {small(token.hellinger_sq)}"
            f" H {small(token.entropy)} p {probability(token.logprob)}"
        )

    def _context(self, line: Text, position: int, index: int, *, room: int) -> Text:
        """The token between what comes before and after, the tokens of all rows in one column."""
        piece = self.pieces[index]
        name = self._name(piece, position)
        left_room = room * 2 // 5
        brackets = 0 if self.ramp else 2
        name = elide(name, max(1, room - left_room - brackets), glyphs=self.page.glyphs)
        line.append(pad(self._before(index, left_room), left_room, right=True), style=self._dim())
        if self.ramp:
            level = self.scale.level(self.tokens[position].weight)
            listed = not self.scale.is_uniform
            line.append(name, style=self.ramp.style(level, listed=listed) if listed else "bold")
        else:
            line.append(f"[{name}]")
        rest = room - left_room - cell_len(name) - brackets
        return line.append(self._after(index, rest), style=self._dim())

    def _dim(self) -> str:
        return self.page.style("dim")

    def _name(self, piece: Piece, position: int) -> str:
        if piece.text is None:
            return self.page.glyphs.empty
        name = visible(piece.text, glyphs=self.page.glyphs, spaces=True)
        parts = piece.stop - piece.start
        return name if parts == 1 else f"{name}({position - piece.start + 1}/{parts})"

    def _before(self, index: int, room: int) -> str:
        text = ""
        while index > 0 and cell_len(text) <= room:
            index -= 1
            text = visible(self.pieces[index].text or "", glyphs=self.page.glyphs) + text
        return split_cells_end(text, room)[1]

    def _after(self, index: int, room: int) -> str:
        text = ""
        while index + 1 < len(self.pieces) and cell_len(text) <= room:
            index += 1
            text += visible(self.pieces[index].text or "", glyphs=self.page.glyphs)
        return split_cells(text, max(0, room))[0]
