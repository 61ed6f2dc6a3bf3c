"""The table of the most weighted tokens, each with its numbers and context.

Token texts come last on a line: right-to-left text does not reorder what precedes it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.style import Style
from rich.text import Text

from dgpo_cli.core.numbers import probability, signed, small, worth
from dgpo_cli.core.text import pad, split_cells, split_cells_end
from dgpo_cli.core.types import InspectedToken, Inspection
from dgpo_cli.inspect.values.moves import Along
from dgpo_cli.inspect.views.legend import source_of
from dgpo_cli.inspect.views.measure import Measure, Piece, What, gate
from dgpo_cli.ui.page import Page
from dgpo_cli.ui.ramp import Ramp
from dgpo_cli.ui.scale import Scale

_WIDE = 72  # cells from which the numbers of a token have columns
_NARROW = 36  # cells below which the context of a token has its own line
_ALL = 100  # cells from which every number has one
_INTERVAL = 12  # cells of the ends of an interval
_TITLES: dict[What, str] = {
    "weight": "Most weighted tokens",
    "hellinger": "Tokens that moved furthest from the reference",
    "entropy": "Tokens of the highest entropy",
    "score": "Tokens of the highest score",
    "advantage": "Tokens with most of the advantage",
    "logprob": "Least probable tokens",
    "value": "Tokens at which the value moved most",
}


def ranked(tokens: Sequence[InspectedToken], *, top: int) -> tuple[int, ...]:
    """Return positions of the `top` tokens by weight; ties by score, by d, then by place."""

    def key(position: int) -> tuple[float, ...]:
        token = tokens[position]
        numbers = (token.weight, token.score, token.hellinger_sq)
        return tuple(-number if not math.isnan(number) else math.inf for number in numbers)

    own = (at for at, token in enumerate(tokens) if not token.environment)
    return tuple(sorted(own, key=key)[: max(0, top)])


def ranked_by(measure: Measure, tokens: Sequence[InspectedToken], *, top: int) -> tuple[int, ...]:
    """Return positions of the `top` tokens by what is coloured; ties by weight."""
    by_weight = ranked(tokens, top=len(tokens))
    if measure.what in ("weight", "advantage"):  # one sign for all: the order of A x w is that of w
        return by_weight[: max(0, top)]

    def key(position: int) -> float:
        value = measure.values[position]
        return math.inf if math.isnan(value) else -abs(value)

    return tuple(sorted(by_weight, key=key)[: max(0, top)])


@dataclass(frozen=True, slots=True)
class Ranking:
    """The table of one completion; `weights` is the scale of the weights, whatever is coloured.

    along: the value, which then has columns in place of other numbers.
    """

    tokens: Sequence[InspectedToken]
    pieces: Sequence[Piece]
    measure: Measure
    weights: Scale
    inspection: Inspection
    page: Page
    ramp: Ramp | None
    along: Along | None = None

    def draw(self, positions: Sequence[int]) -> None:
        """Write the table of these tokens, in this order."""
        if not positions:
            return
        wide = self.page.width >= _WIDE
        piece_at = {at: i for i, p in enumerate(self.pieces) for at in range(p.start, p.stop)}
        title = _TITLES[self.measure.what]
        if self.weights.is_uniform and self.measure.diverges:
            title = "All weights are equal; tokens by score"
        self.page.paragraph(title, "bold")
        self.page.add((self._head(wide=wide), "dim"))
        for rank, position in enumerate(positions, start=1):
            line = self.page.add(f"{rank:>2} {position:>6} ")
            line.append(f"{self.weights.number(self.tokens[position].weight):>8}  ")
            if wide:
                line.append(self._columns(text for _, text in self._numbers(position)))
            if self.page.width < _NARROW:
                line = self.page.add("   ")
            room = self.page.width - line.cell_len
            self._context(line, position, piece_at[position], room=room)
            if not wide:
                short = " ".join(f"{name} {text}" for name, text in self._numbers(position))
                self.page.paragraph(short, "dim", indent=3)
        self.page.paragraph(self._notes(), "dim")

    def _head(self, *, wide: bool) -> str:
        head = f"{'#':>2} {'token':>6} {'weight':>8}  "
        if wide:
            head += self._columns(name for name, _ in self._numbers(0))
        return head + "in context" if self.page.width >= _NARROW else head.rstrip()

    def _columns(self, texts: Iterable[str]) -> str:
        names = [name for name, _ in self._numbers(0)]
        widths = [_INTERVAL if name == "95%" else 7 for name in names]
        return "".join(f"{text:>{width}}  " for text, width in zip(texts, widths, strict=True))

    def _of_value(self, token: InspectedToken, position: int) -> list[tuple[str, str]]:
        """Return the numbers of a token whose value is known."""
        assert self.along is not None
        after = [each[position + 1] for each in (self.along.value, self.along.low, self.along.high)]
        value, low, high = map(worth, after)
        found = [
            ("value", value),
            ("95%", f"{low} to {high}"),
            ("move", signed(self.along.move(position), worth)),
        ]
        if self.page.width < _ALL:
            return found
        return [("score", small(token.score)), ("prob", probability(token.logprob)), *found]

    def _numbers(self, position: int) -> list[tuple[str, str]]:
        """Return the names and numbers of the columns that fit the page."""
        token, what = self.tokens[position], self.measure.what
        if self.along is not None:
            return self._of_value(token, position)
        d, s, h, p = ("d", "score", "h", "prob") if self.page.width >= _WIDE else "dshp"
        found = [
            (d, small(token.hellinger_sq)),
            (h, small(gate(token.entropy, vocab_size=self.inspection.vocab_size))),
            (s, small(token.score)),
        ]
        entropy = ("entropy", small(token.entropy))
        logprob = ("logprob", small(token.logprob))
        advantage = (
            f"A{self.page.glyphs.times}w",
            signed(self.measure.values[position]) if what == "advantage" else "",
        )
        likely = (p, probability(token.logprob))
        if self.page.width >= _ALL:
            extra = [entropy, logprob, likely]
            return [*found, *([advantage] if what == "advantage" else []), *extra]
        own = {"entropy": entropy, "logprob": logprob, "advantage": advantage}
        return [*found, own.get(what, likely)]

    def _notes(self) -> str:
        if self.along is not None:
            return (
                "value: the expected reward after the token, with its 95% interval; "
                "move: how far it moves at the token; tokens count from 0"
            )
        score, prob = ("score", "prob") if self.page.width >= _WIDE else ("s", "p")
        notes = (
            "d: squared Hellinger distance of policy and reference; "
            "h: the gate, entropy / log V; "
            f"{score}: the credit rule's, of {source_of(self.inspection.rule)}; "
        )
        names = [name for name, _ in self._numbers(0)]
        if "entropy" in names:
            notes += "entropy, logprob in nats; " if "logprob" in names else "entropy in nats; "
        elif "logprob" in names:
            notes += "logprob in nats; "
        if prob in names:
            notes += f"{prob}: the policy's probability; "
        return notes + "tokens count from 0"

    def _context(self, line: Text, position: int, index: int, *, room: int) -> None:
        """Write the token in its context, the tokens of all rows in one column."""
        piece = self.pieces[index]
        name = self._name(piece, position)
        left_room = room * 2 // 5
        brackets = 0 if self.ramp else 2
        name = self.page.fit(name, max(1, room - left_room - brackets))
        line.append(pad(self._before(index, left_room), left_room, right=True), style=self._dim())
        if self.ramp:
            line.append(name, style=self.ramp.style(self.measure.level(position), listed=True))
        else:
            line.append(f"[{name}]")
        rest = room - left_room - cell_len(name) - brackets
        line.append(self._after(index, rest), style=self._dim())

    def _dim(self) -> str | Style:
        return self.page.style("dim")

    def _name(self, piece: Piece, position: int) -> str:
        if piece.text is None:
            return self.page.glyphs.empty
        name = self.page.shown(piece.text, spaces=True)
        parts = piece.stop - piece.start
        return name if parts == 1 else f"{name}({position - piece.start + 1}/{parts})"

    def _before(self, index: int, room: int) -> str:
        text = ""
        while index > 0 and cell_len(text) <= room:
            index -= 1
            text = self.page.shown(self.pieces[index].text or "") + text
        return split_cells_end(text, room)[1]

    def _after(self, index: int, room: int) -> str:
        text = ""
        while index + 1 < len(self.pieces) and cell_len(text) <= room:
            index += 1
            text += self.page.shown(self.pieces[index].text or "")
        return split_cells(text, max(0, room))[0]
