"""Which prefixes of a completion to estimate next: where its value moves, down to one token."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

from dgpo_cli.core.types import ValueCurve, ValuePoint


class Search:
    """The values of one completion as they become known."""

    def __init__(self, first: Sequence[int], *, last: ValuePoint, most: int) -> None:
        """
        Args:
            first: the prefixes to begin with, ascending, by their number of tokens.
            last: the value of the whole completion.
            most: prefixes that may be estimated in all.
        """
        self._next = list(first)
        self._left = most - len(first)
        self._asked = set(first)
        self._points = {last.at: last}

    def wanted(self) -> list[int]:
        """Return the prefixes to estimate now, empty at the end; each is asked for once."""
        found = self._next or self._middles()
        self._next = []
        return found

    def add(self, points: Iterable[ValuePoint]) -> None:
        """Take the values of prefixes that were asked for; those that are unknown are left out."""
        self._points |= {point.at: point for point in points}

    def curve(self) -> ValueCurve | None:
        """Return what is known; None if the value of the prompt is not."""
        points = tuple(self._points[at] for at in sorted(self._points))
        return ValueCurve(points) if points[0].at == 0 else None

    def _middles(self) -> list[int]:
        """Halve the gaps in which the value surely moves, the surest first.

        Each takes from what is left the prefixes that lead down to a single token, so that those
        that are begun can be finished.
        """
        points = [self._points[at] for at in sorted(self._points)]
        sure = [_level(points[i::-1]) for i in range(len(points) - 1)]
        moves = [least_move(a, _level(points[i + 1 :])) for i, a in enumerate(sure)]
        gaps = [
            (moves[i], a.at, b.at)
            for i, (a, b) in enumerate(pairwise(points))
            # A move that two values show is seen from the gaps beside it, too.
            if b.at - a.at > 1 and 0 < moves[i] == max(moves[max(0, i - 1) : i + 2])
        ]
        found: list[int] = []
        reserved = 0
        for _, start, stop in sorted(gaps, key=lambda gap: (-gap[0], gap[1])):
            reserved += math.ceil(math.log2(stop - start))
            if self._left <= len(found) or (found and reserved > self._left):
                break
            middle = (start + stop) // 2
            if middle not in self._asked:
                found.append(middle)
        self._left -= len(found)
        self._asked.update(found)
        return sorted(found)


def _level(points: Sequence[ValuePoint]) -> ValuePoint:
    """Return the first value together with the second, unless the two surely differ.

    Twice the rewards show a move of half the value that one prefix would miss.
    """
    pair = points[:2]
    count = sum(point.count for point in pair)
    if not all(point.count for point in pair) or least_move(pair[0], pair[-1]) > 0:
        return points[0]
    value = math.fsum(point.count * point.value for point in pair) / count
    below = math.hypot(*(point.count * (point.value - point.low) for point in pair)) / count
    above = math.hypot(*(point.count * (point.high - point.value) for point in pair)) / count
    return ValuePoint(points[0].at, value, value - below, value + above, count)


def least_move(before: ValuePoint, after: ValuePoint) -> float:
    """Return the least size of the move between two values, at 95%; 0 if chance explains it.

    Source: the hybrid score interval of a difference, Newcombe, Stat. Med. 17 (1998) 873,
    method 10.
    """
    lower, upper = sorted((before, after), key=lambda point: point.value)
    spread = math.hypot(lower.high - lower.value, upper.value - upper.low)
    least = upper.value - lower.value - spread
    return 0.0 if math.isnan(least) else max(0.0, least)


def thinned(starts: Sequence[int], *, stop: int, most: int) -> list[int]:
    """Return at most `most` places from 0 up to `stop`, 0 first, that lie well apart.

    starts: the places to prefer, ascending. Of too many every so many are left out; with few, the
    largest gaps are halved up to half of `most`.
    """
    places = [0, *(at for at in starts if 0 < at < stop)]
    if len(places) > most:
        places = [places[i * len(places) // most] for i in range(most)]
    while len(places) < most // 2:
        gap, start = max((b - a, -a) for a, b in pairwise([*places, stop]))
        if gap < 2:
            break
        places = sorted([*places, -start + gap // 2])
    return places
