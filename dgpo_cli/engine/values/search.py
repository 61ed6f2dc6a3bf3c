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
        gaps = [(least_move(a, b), a.at, b.at) for a, b in pairwise(points) if b.at - a.at > 1]
        found: list[int] = []
        reserved = 0
        for least, start, stop in sorted(gaps, key=lambda gap: (-gap[0], gap[1])):
            middle = (start + stop) // 2
            reserved += math.ceil(math.log2(stop - start))
            if least <= 0 or self._left <= len(found) or (found and reserved > self._left):
                break
            if middle not in self._asked:
                found.append(middle)
        self._left -= len(found)
        self._asked.update(found)
        return sorted(found)


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
