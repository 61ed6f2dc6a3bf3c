"""The number of each token that a view colours: its weight, or one that leads to it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from dgpo_cli.core.token_texts import MAX_PARTS, REPLACEMENT
from dgpo_cli.inspect.views.linear import Linear
from dgpo_cli.ui.flow import FOREIGN
from dgpo_cli.ui.ramp import GROWING, RAMPS, Depth, Ramp
from dgpo_cli.ui.scale import Scale

if TYPE_CHECKING:  # the command line reads What from here
    from dgpo_cli.core.types import InspectedCompletion, InspectedToken

What = Literal["weight", "hellinger", "entropy", "score", "advantage", "logprob", "value"]
SIGNED: tuple[What, ...] = ("advantage", "value")


@dataclass(frozen=True, slots=True)
class Piece:
    """One or more tokens shown as one: a character may consist of several.

    start, stop: its tokens. weight: the sum of their credit weights.
    text: raw model text; None for tokens without text of their own.
    environment: the policy did not write it.
    """

    text: str | None
    start: int
    stop: int
    weight: float
    environment: bool = False


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
    """Return the tokens as shown: the parts of a character together, their weights summed.

    Parts are known by the convention of `token_texts`; neighbouring tokens of U+FFFD alone make one
    piece.
    """
    return tuple(
        Piece(text, start, stop, _weight(tokens[start:stop]), tokens[start].environment)
        for text, start, stop in _pieces(tokens)
    )


def _weight(tokens: Sequence[InspectedToken]) -> float:
    if len(tokens) == 1:
        return tokens[0].weight
    return math.fsum(token.weight for token in tokens)


@dataclass(frozen=True, slots=True)
class Measure:
    """One number a token, T in all, and their scale.

    weight diverges on a logarithmic scale around 1; advantage (A x w), value, which is the move of
    the expected reward, and scores of both signs on a linear one around 0; the others grow from 0.
    Tokens of an environment have none: NaN.
    """

    what: What
    values: tuple[float, ...]
    scale: Scale | Linear

    @property
    def diverges(self) -> bool:
        return isinstance(self.scale, Scale) or self.scale.signed

    def ramp(self, depth: Depth) -> Ramp | None:
        """Return the colours; None without colour, or if all numbers are equal."""
        if self.scale.is_uniform:
            return None
        return (RAMPS if self.diverges else GROWING).get(depth)

    def level(self, position: int) -> int:
        """Return the step of a token on the scale."""
        return self.scale.level(self.values[position])

    def piece_level(self, piece: Piece) -> int:
        """Return the step of the sum over the tokens of a piece."""
        if piece.environment:
            return FOREIGN
        if piece.stop - piece.start == 1:
            return self.level(piece.start)
        return self.scale.level(added(self.values[piece.start : piece.stop]))

    def shared(self, values: Sequence[float]) -> Scale | Linear:
        """Return a scale of the same kind for other values, such as those of two completions."""
        fit = isinstance(self.scale, Scale) and self.scale.fit
        return scale_of(self.what, values, steps=self.scale.steps, fit=fit)


def measure_of(
    completion: InspectedCompletion, *, what: What, steps: int, fit: bool = False
) -> Measure:
    """Return the numbers of a completion's tokens on a scale with `steps` steps an arm.

    fit: fit the scale of the weights to the completion; that of other numbers always is.
    """
    if what == "value":
        curve = completion.values
        values = tuple(curve.moves() if curve else [math.nan] * len(completion.tokens))
    else:
        values = tuple(
            math.nan
            if token.environment
            else value_of(token, what=what, advantage=completion.advantage)
            for token in completion.tokens
        )
    return Measure(what, values, scale_of(what, values, steps=steps, fit=fit))


def scale_of(
    what: What, values: Sequence[float], *, steps: int, fit: bool = False
) -> Scale | Linear:
    """Return the scale for these numbers."""
    if what == "weight":
        return Scale.of(values, steps=steps, fit=fit)
    signed = what in SIGNED or (what == "score" and any(value < 0 for value in values))
    return Linear.of(values, steps=steps, signed=signed)


def value_of(token: InspectedToken, *, what: What, advantage: float) -> float:
    """Return the number of a token; `advantage` is that of its completion.

    The move of the value is none of a token alone: NaN.
    """
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
        case "value":
            return math.nan


def gate(entropy: float, *, vocab_size: int) -> float:
    """Return h = entropy / log V, entropy in nats, clamped to [0, 1]; 0 for a vocabulary of one."""
    if vocab_size < 2:
        return 0.0
    share = entropy / math.log(vocab_size)
    return share if math.isnan(share) else min(1.0, max(0.0, share))


def added(values: Sequence[float]) -> float:
    """Return the sum, also of numbers that are not finite."""
    try:
        return math.fsum(values)
    except (OverflowError, ValueError):  # a huge sum, or inf - inf
        return math.nan


def mean(values: Sequence[float]) -> float:
    """Return the mean, also of numbers that are not finite; NaN of none."""
    return added(values) / len(values) if values else math.nan
