"""Completions that end with a stop string, which is looked for in their text across tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dgpo_cli.core.token_texts import MAX_PARTS, REPLACEMENT

Spell = Callable[[Sequence[int]], str]


class StopStrings:
    """Finds the token that completes the first of some strings.

    Only a window of tokens is decoded, and only after a token that has the last character of a
    string, or a part of a character.
    """

    def __init__(self, strings: Sequence[str], *, spell: Spell) -> None:
        """spell: the text of token ids, special tokens included."""
        self._strings = tuple(strings)
        self._spell = spell
        self._last = frozenset(string[-1] for string in strings)
        # A token has a byte at least; some decoders strip a space where the window begins.
        self._window = max(len(string.encode()) for string in strings) + MAX_PARTS
        self._may_end: dict[int, bool] = {}

    def end(self, ids: Sequence[int], *, start: int = 0) -> int | None:
        """Return the number of tokens up to the one that completes a string, None without one.

        start: tokens that were looked at before, after which no string was complete.
        """
        for count in range(start + 1, len(ids) + 1):
            if self._ends_one(ids[count - 1]):
                text = self._spell(ids[max(0, count - self._window) : count])
                if any(string in text for string in self._strings):
                    return count
        return None

    def _ends_one(self, token: int) -> bool:
        found = self._may_end.get(token)
        if found is None:
            text = self._spell((token, token))  # twice: alone it may lose a leading space
            found = REPLACEMENT in text or not self._last.isdisjoint(text)
            self._may_end[token] = found
        return found


class Watch:
    """Looks for stop strings in rows that are being sampled.

    ends: by row, its number of tokens if a string ended it.
    """

    def __init__(self, strings: StopStrings, *, rows: int, stop_ids: frozenset[int]) -> None:
        self.ends: dict[int, int] = {}
        self._strings = strings
        self._stop_ids = stop_ids
        self._ids: list[list[int] | None] = [[] for _ in range(rows)]  # None: ended

    def see(self, rows: Sequence[int], columns: Sequence[Sequence[int]]) -> list[int]:
        """Take the next tokens; return the places in `rows` where a string was completed.

        rows: the row of each line. columns: the tokens of all lines, one position after the other.
        """
        found = []
        for line, (row, tokens) in enumerate(zip(rows, zip(*columns, strict=True), strict=True)):
            ids = self._ids[row]
            if ids is None:
                continue
            start = len(ids)
            for token in tokens:
                ids.append(token)
                if token in self._stop_ids:
                    self._ids[row] = None
                    break
            end = self._strings.end(ids, start=start)
            if end is not None:
                self.ends[row], self._ids[row] = end, None
                found.append(line)
        return found
