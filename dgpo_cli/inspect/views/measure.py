"""The number of each token that a view colours: its weight or one of those that lead to it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from dgpo_cli.core.token_texts import MAX_PARTS, REPLACEMENT
from dgpo_cli.inspect.views.linear import Linear
from dgpo_cli.ui.ramp import GROWING, RAMPS, Depth, Ramp
from dgpo_cli.ui.scale import Scale

if TYPE_CHECKING:  # the command line reads What from here
    from dgpo_cli.core.types import InspectedCompletion, InspectedToken

What = Literal["weight", "hellinger", "entropy", "score", "advantage", "logprob"]


@dataclass(frozen=True, slots=True)
class Piece:
    """One or more tokens that are shown as one: a character may be split over several.

    start, stop: the tokens it stands for. weight: the sum of their credit weights.
    text: raw model text; None for tokens that have no text of their own.
    """

    text: str | None
    start: int
    stop: int
    weight: float


def _pieces(tokens: Sequence[InspectedToken]) -> Iterator[tuple[str | None, int, int]]:
    start = 0
    while start < len(tokens):
        text, stop = tokens[start].text, start + 1
        if text == "":
            while stop < len(tokens) and stop - start < MAX_PARTS and tokens[stop].text == "":
                stop += 1
            if stop < len(tokens) and stop - start < MAX_PARTS and not tokens[stop].text.isascii():
                text, stop = tokens[stop].text, stop + 1
        elif text == REPLACEMENT:
            while stop < len(tokens) and tokens[stop].text == REPLACEMENT:
                stop += 1
        yield text or None, start, stop
        start = stop


def pieces(tokens: Sequence[InspectedToken]) -> tuple[Piece, ...]:
    """The tokens as they are shown: the parts of one character together, their weights summed.

    Parts are known by the convention of `token_texts`; neighbouring tokens that are U+FFFD alone
    are parts of characters that cannot be told apart and make one piece.
    """
    return tuple(
        Piece(text, start, stop, _weight(tokens[start:stop]))
        for text, start, stop in _pieces(tokens)
    )


def _weight(tokens: Sequence[InspectedToken]) -> float:
    if len(tokens) == 1:
        return tokens[0].weight
    return math.fsum(token.weight for token in tokens)


@dataclass(frozen=True, slots=True)
class Measure:
    """One number a token, the scale it is coloured on, and how people call it.

    values: T numbers. weight diverges on a logarithmic scale around 1, advantage (the token's
    own, A x w) on a linear one around 0; the others grow from 0.
    """

    what: What
    values: tuple[float, ...]
    scale: Scale | Linear

    @property
    def diverges(self) -> bool:
        return self.what in ("weight", "advantage")

    def ramp(self, depth: Depth) -> Ramp | None:
        """The colours; None where there are none, or nothing to tell apart."""
        if self.scale.is_uniform:
            return None
        return (RAMPS if self.diverges else GROWING).get(depth)

    def level(self, position: int) -> int:
        """The step of a token on the scale."""
        return self.scale.level(self.values[position])

    def piece_level(self, piece: Piece) -> int:
        """The step of the sum over the tokens that are shown as one."""
        if piece.stop - piece.start == 1:
            return self.level(piece.start)
        return self.scale.level(added(self.values[piece.start : piece.stop]))

    def shared(self, values: Sequence[float]) -> Scale | Linear:
        """A scale of the same kind for other values, such as those of two completions."""
        fit = isinstance(self.scale, Scale) and self.scale.fit
        return scale_of(self.what, values, steps=self.scale.steps, fit=fit)


def measure_of(
    completion: InspectedCompletion, *, what: What, steps: int, fit: bool = False
) -> Measure:
    """The numbers of a completion's tokens on a scale with `steps` steps an arm.

    fit: whether the scale of the weights follows the completion; that of other numbers always does.
    """
    values = tuple(
        value_of(token, what=what, advantage=completion.advantage) for token in completion.tokens
    )
    return Measure(what, values, scale_of(what, values, steps=steps, fit=fit))


def scale_of(
    what: What, values: Sequence[float], *, steps: int, fit: bool = False
) -> Scale | Linear:
    """The scale for these numbers."""
    if what == "weight":
        return Scale.of(values, steps=steps, fit=fit)
    return Linear.of(values, steps=steps, signed=what == "advantage")


def value_of(token: InspectedToken, *, what: What, advantage: float) -> float:
    """The token's number; `advantage` is its completion's."""
    match what:
        case "weight":
            return token.weight
        case "hellinger":
            return token.hellinger_sq
        case "entropy":
            return token.entropy
        case "score":
            return token.score
        case "advantage":
            return advantage * token.weight
        case "logprob":
            return token.logprob


def gate(entropy: float, *, vocab_size: int) -> float:
    """h = entropy / log V, entropy in nats, held to [0, 1]; a vocabulary of one has 0."""
    if vocab_size < 2:
        return 0.0
    share = entropy / math.log(vocab_size)
    return share if math.isnan(share) else min(1.0, max(0.0, share))


def added(values: Sequence[float]) -> float:
    """The sum, also of numbers that are not finite."""
    try:
        return math.fsum(values)
    except (OverflowError, ValueError):  # a huge sum, or inf - inf
        return math.nan


def mean(values: Sequence[float]) -> float:
    """The mean, also of numbers that are not finite; NaN of none."""
    return added(values) / len(values) if values else math.nan
