"""The value along a completion, and the tokens at which the outcome was won or lost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import NormalDist

from dgpo_cli.algo.summary import LARGE_MOVE
from dgpo_cli.core.numbers import counted, worth
from dgpo_cli.core.text import UNICODE, Glyphs, elide, visible
from dgpo_cli.core.types import InspectedCompletion, ValueCurve, ValuePoint, ValueSource
from dgpo_cli.inspect.views.measure import pieces
from dgpo_cli.stats.intervals import NORMAL_95
from dgpo_cli.ui.scale import Scale

MOST = 3  # moves that are named
_AROUND = 4  # points before a move, and after it, whose means are compared
_BEFORE, _INSIDE, _AFTER = 14, 40, 8  # cells of a quotation


@dataclass(frozen=True, slots=True)
class Along:
    """The value before the first of T tokens and after each: T + 1 numbers.

    Between the points of a curve it runs straight. low, high: the ends of its 95% interval.
    """

    value: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]

    @classmethod
    def of(cls, curve: ValueCurve) -> Along:
        """Return the numbers of a curve."""
        points = [(each.value, each.low, each.high) for each in curve.points]
        rows: list[tuple[float, ...]] = [*points[:1]]
        for (before, after), (start, stop) in zip(
            pairwise(curve.points), pairwise(points), strict=True
        ):
            count = after.at - before.at
            rows += [
                tuple(a + (b - a) * step / count for a, b in zip(start, stop, strict=True))
                for step in range(1, count)
            ]
            rows.append(stop)
        return cls(*zip(*rows, strict=True))

    def move(self, token: int) -> float:
        return self.value[token + 1] - self.value[token]


def values_text(source: ValueSource) -> str:
    """Return what values are estimated from, in words."""
    if not source.continuations:
        return "from the prompt's own completions"
    found = f"{counted(source.continuations, 'continuation')} of each prefix, by {source.model}"
    if not source.later:
        return found
    return f"{found} ({updates_text(source.later)})"


def updates_text(later: int) -> str:
    """Return how many updates a policy is ahead of the one that sampled; negative: behind it."""
    return f"{counted(abs(later), 'update')} {'later' if later > 0 else 'earlier'}"


@dataclass(frozen=True, slots=True)
class Move:
    """The value before the tokens from `start` up to, not including, `stop`, and after them."""

    before: ValuePoint
    after: ValuePoint

    @property
    def start(self) -> int:
        return self.before.at

    @property
    def stop(self) -> int:
        return self.after.at

    @property
    def size(self) -> float:
        return self.after.value - self.before.value


def range_of(curve: ValueCurve) -> tuple[float, float]:
    """Return the range of the rewards: 0 to 1, or what the values need beyond it."""
    values = [each.value for each in curve.points if math.isfinite(each.value)]
    return min(0.0, *values), max(1.0, *values)


def clear_moves(curve: ValueCurve) -> tuple[Move, ...]:
    """Return the largest moves that chance does not explain, the largest first.

    A move has to be the largest around it and larger than its error, and so has the difference
    between the means of the few points before it and after it, at the level that holds for all
    moves of the curve together (Bonferroni). The interval of a difference is made of those of its
    two sides (MOVER: Zou, Donner, Stat. Med. 27 (2008) 1693).
    """
    points = curve.points
    low, high = range_of(curve)
    least = LARGE_MOVE * (high - low)
    wider = NormalDist().inv_cdf(1 - 0.025 / max(1, len(points) - 1)) / NORMAL_95
    moves = [Move(*both) for both in pairwise(points)]
    found = []
    for at, move in enumerate(moves):
        around = moves[max(0, at + 1 - _AROUND) : at + _AROUND]
        before, after = points[max(0, at + 1 - _AROUND) : at + 1], points[at + 1 : at + 1 + _AROUND]
        if (
            abs(move.size) == max(abs(each.size) for each in around)
            and _surely_moves(before[-1:], after[:1], least=least, wider=1.0)
            and _surely_moves(before, after, least=least, wider=wider)
        ):
            found.append(move)
    return tuple(sorted(found, key=lambda move: -abs(move.size))[:MOST])


def _surely_moves(
    before: Sequence[ValuePoint], after: Sequence[ValuePoint], *, least: float, wider: float
) -> bool:
    """Return whether two means differ by `least` and more than their error; wider: than at 95%."""
    difference = _mean(after) - _mean(before)
    down, up = (before, after) if difference < 0 else (after, before)
    error = math.hypot(_error(down, low=True), _error(up, low=False))
    return abs(difference) >= least and abs(difference) > wider * error


def _mean(points: Sequence[ValuePoint]) -> float:
    return math.fsum(point.value for point in points) / len(points)


def _error(points: Sequence[ValuePoint], *, low: bool) -> float:
    """Return how far below, or above, the mean of points may be wrong, at 95%."""
    ends = [p.value - p.low if low else p.high - p.value for p in points]
    return math.hypot(*ends) / len(points)


def value_words(shown: InspectedCompletion, *, glyphs: Glyphs = UNICODE) -> tuple[str, ...]:
    """Return a sentence for each move that decided the outcome, or one that says that none did."""
    assert shown.values is not None
    curve = shown.values
    first, last = curve.points[0], curve.points[-1]
    found = clear_moves(curve)
    if not found:
        return (_undecided(shown, curve, glyphs=glyphs),)
    turn = last.value - first.value
    sentences = []
    for at, move in enumerate(found):
        up = move.size > 0
        if at == 0 and (turn > 0) == up and turn:
            subject, verb = "The outcome was", "won" if up else "lost"
        else:
            subject, verb = ("It also" if at else "The value"), "rose" if up else "fell"
        place = _place(shown, move, glyphs=glyphs)
        change = f"{worth(move.before.value)} to {worth(move.after.value)}"
        sentences.append(f"{subject} {verb} at {place}: {change}.")
    return tuple(sentences)


def _undecided(shown: InspectedCompletion, curve: ValueCurve, *, glyphs: Glyphs) -> str:
    first, last = curve.points[0], curve.points[-1]
    moves = [Move(*both) for both in pairwise(curve.points)]
    most = max(moves, key=lambda move: abs(move.size), default=None)
    if most is None or most.size == 0:
        return f"The value is {worth(first.value)} from the first token to the last."
    return (
        f"No token clearly decided the outcome: the value goes from {worth(first.value)} to "
        f"{worth(last.value)}, and its largest move is {worth(most.before.value)} to "
        f"{worth(most.after.value)}, at {_place(shown, most, glyphs=glyphs)}."
    )


def _place(shown: InspectedCompletion, move: Move, *, glyphs: Glyphs) -> str:
    """Return the tokens of a move as quoted text, and their weight."""
    weights = [token.weight for token in shown.own]
    number = Scale.of(weights, steps=1).number
    quote = f'"{quoted(shown, move, glyphs=glyphs)}"'
    if move.stop - move.start == 1:
        weight = number(shown.tokens[move.start].weight)
        return f"{quote} (token {move.start}, weight {weight})"
    own = [token.weight for token in shown.tokens[move.start : move.stop]]
    mean = math.fsum(own) / len(own)
    return f"{quote} (tokens {move.start} to {move.stop - 1}, mean weight {number(mean)})"


def quoted(shown: InspectedCompletion, move: Move, *, glyphs: Glyphs = UNICODE) -> str:
    """Return the text around a move, with the text of its tokens between bars."""
    parts = pieces(shown.tokens)

    def text(start: int, stop: int) -> str:
        found = (p.text for p in parts if p.stop > start and p.start < stop)
        return "".join(glyphs.empty if each is None else each for each in found)

    first = next(p.start for p in parts if p.stop > move.start)
    last = next(p.stop for p in parts if p.stop >= move.stop)
    before = visible(text(max(0, first - _BEFORE), first)[-_BEFORE:], glyphs=glyphs)
    inside = visible(text(first, last), glyphs=glyphs)
    after = visible(text(last, last + _AFTER)[:_AFTER], glyphs=glyphs)
    return f"{before}|{elide(inside, _INSIDE, glyphs=glyphs)}|{after}"
