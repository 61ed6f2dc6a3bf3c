"""The prefixes of a group's completions, each once however many begin with it."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence
from typing import NamedTuple

from dgpo_cli.core.types import ScoredGroup
from dgpo_cli.policy.fingerprint import text_fingerprint

_DIGITS = 32  # of a digest


class Key(NamedTuple):
    """What names a prefix in any process.

    at: its tokens. digest: of their ids and the prompt's. problem: digest of what its completions
        are judged by.
    """

    prompt_id: str
    problem: str
    at: int
    digest: str


class Prefixes:
    """The prefixes of one group's completions."""

    def __init__(self, group: ScoredGroup) -> None:
        self.group = group
        self._ids = [completion.token_ids for completion in group.completions]
        self._shared = _shared_lengths(self._ids)
        judged = {"answer": group.prompt.answer, "columns": group.prompt.columns}
        self._problem = str(text_fingerprint(judged))[:_DIGITS]

    def ids(self, row: int, at: int) -> tuple[int, ...]:
        """Return the prompt and the first `at` tokens of a completion."""
        return (*self.group.prompt_ids, *self._ids[row][:at])

    def key(self, row: int, at: int) -> Key:
        """Return the name of a completion's first `at` tokens."""
        digest = hashlib.sha256(len(self.group.prompt_ids).to_bytes(8, "little"))
        digest.update(array("q", self.ids(row, at)).tobytes())
        return Key(self.group.prompt.id, self._problem, at, digest.hexdigest()[:_DIGITS])

    def beginning(self, row: int, at: int) -> list[int]:
        """Return the completions that begin with the first `at` tokens of one of them, and that
        the policy then went on with."""
        return [
            other
            for other, shared in enumerate(self._shared[row])
            if shared >= at and (len(self._ids[other]) > at or at == 0)
        ]

    def branches(self, row: int) -> list[int]:
        """Return the numbers of tokens, 0 first, that tell what `beginning` is at all others: it
        changes only between two of them that are neighbours."""
        length = len(self._ids[row])
        found = {0}
        for other, shared in enumerate(self._shared[row]):
            change = shared + (len(self._ids[other]) > shared)
            found |= {at for at in (change - 1, change) if 0 < at < length}
        return sorted(found)


def _shared_lengths(rows: Sequence[Sequence[int]]) -> list[list[int]]:
    """Return how many tokens each two rows begin with in common."""
    found = [[len(row)] * len(rows) for row in rows]
    for i, row in enumerate(rows):
        for j in range(i):
            found[i][j] = found[j][i] = _shared_length(row, rows[j])
    return found


def _shared_length(left: Sequence[int], right: Sequence[int]) -> int:
    for at, (mine, theirs) in enumerate(zip(left, right, strict=False)):
        if mine != theirs:
            return at
    return min(len(left), len(right))
