"""What a completion is worth after each of its tokens: the expected reward of what follows."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from dgpo_cli.core.schema import Count, Real

MANY_CONTINUATIONS = 10_000  # of a prefix: all of a completion are counted in memory at once


@dataclass(frozen=True, slots=True)
class ValuePoint:
    """The value of a completion's first `at` tokens.

    value: mean reward of what began with them. low, high: its 95% interval; equal to the value
        where this is known.
    count: continuations and siblings behind the value; 0: it is known, not estimated.
    """

    at: Count
    value: Real
    low: Real
    high: Real
    count: Count


@dataclass(frozen=True, slots=True)
class ValueCurve:
    """The values along a completion of T tokens, by ascending `at`: the first is at 0, the last,
    at T, is the reward."""

    points: tuple[ValuePoint, ...]

    def moves(self) -> list[float]:
        """Return the move of the value at each of the T tokens; their sum is reward - V_0.

        Between two neighbouring points the move is spread evenly over the tokens.
        """
        found: list[float] = []
        for before, after in pairwise(self.points):
            tokens = after.at - before.at
            found += [(after.value - before.value) / tokens] * tokens
        return found
