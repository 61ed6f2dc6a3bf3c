"""Continuations that serve every prefix of a completion that they run through.

What the policy writes after a prefix and what it writes after a longer one are the same, given
that it began with the tokens between. So a prefix takes the continuations of the one before that
went on with its own tokens, and only what is missing is sampled. Where the policy is sure of a
token nothing is, and the value does not move by chance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from dgpo_cli.engine.values.continuations import Continuations, Judged, Prefix

if TYPE_CHECKING:
    from dgpo_cli.engine.values.prefixes import Key, Prefixes
    from dgpo_cli.samplers.base import Row


class SharedContinuations:
    """The continuations of each prefix, its own and those that it shares."""

    def __init__(self, drawn: Continuations) -> None:
        self._drawn = drawn
        self._pools: dict[Key, list[Judged]] = {}
        self._known: dict[Row, dict[int, Key]] = {}

    def rewards(
        self,
        wanted: Sequence[tuple[Row, Sequence[int]]],
        trees: Mapping[int, Prefixes],
        *,
        count: int,
    ) -> None:
        """Make the rewards of `count` continuations of each prefix known.

        In rounds, since a longer prefix waits for the shorter: there are as many as the policy is
        unsure of tokens.

        wanted: the completions, each with the lengths of its prefixes, ascending.
        """
        waiting = {row: list(reversed(places)) for row, places in wanted}
        while waiting:
            missing: dict[Key, tuple[Prefix, list[Judged]]] = {}
            for row, places in waiting.items():
                self._settle(row, places, trees[row[0]], missing, count=count)
            self._draw(missing, count=count)
            waiting = {row: places for row, places in waiting.items() if places}

    def known(self, key: Key, *, count: int) -> list[float]:
        """Return the rewards of `count` continuations of a prefix; NaN: unscored."""
        return [each.reward for each in self._pools[key][:count]]

    def _settle(
        self,
        row: Row,
        places: list[int],
        tree: Prefixes,
        missing: dict[Key, tuple[Prefix, list[Judged]]],
        *,
        count: int,
    ) -> None:
        """Take the places of a completion, the last of the list first, as far as what is known
        reaches; then say what is missing."""
        while places:
            key = tree.key(row[1], places[-1])
            if key in missing:
                return
            if key not in self._pools:
                pool = self._passing(row, places[-1], tree)
                if len(pool) < count:
                    missing[key] = Prefix(tree, row[1], places[-1]), pool
                    return
                self._pools[key] = pool
            self._known.setdefault(row, {})[places.pop()] = key

    def _passing(self, row: Row, at: int, tree: Prefixes) -> list[Judged]:
        """Return the continuations of the longest known prefix that run through this one."""
        before = max((place for place in self._known.get(row, {}) if place < at), default=None)
        if before is None:
            return []
        own = tree.group.completions[row[1]].token_ids[:at]
        pool = self._pools[self._known[row][before]]
        return [each for each in pool if len(each.token_ids) > at and each.token_ids[:at] == own]

    def _draw(self, missing: Mapping[Key, tuple[Prefix, list[Judged]]], *, count: int) -> None:
        wanted = [(key, k) for key, (_, pool) in missing.items() for k in range(len(pool), count)]
        prefixes = {key: prefix for key, (prefix, _) in missing.items()}
        for key, (_, pool) in missing.items():
            self._pools[key] = pool
        for key, found in self._drawn.drawn(wanted, prefixes):
            self._pools[key] += found.values()
