"""Finds a correct and a wrong completion of one prompt with a common start."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

from dgpo_cli.core.errors import DataError
from dgpo_cli.core.types import Outcome
from dgpo_cli.runs.rollouts import RolloutLine

# Outcomes to compare with a correct answer, the most telling first.
_NOT_RIGHT: tuple[Outcome, ...] = ("wrong", "out_of_range", "no_answer", "truncated")


def pair_of(lines: Sequence[RolloutLine], *, path: Path) -> tuple[int, int]:
    """Return the places of the correct and the wrong completion with the longest common start.

    Prompts with a wrong answer rather than none come first, of these the one closest to half
    correct; ties go to the longest start, then to the first. path: the file they are from.

    Raises:
        DataError: no prompt has both.
    """
    groups: dict[str, list[int]] = {}
    for at, line in enumerate(lines):
        groups.setdefault(line.prompt.id, []).append(at)
    best: tuple[tuple[float, ...], tuple[int, int]] | None = None
    for group in groups.values():
        outcomes = {at: verdict.outcome for at in group if (verdict := lines[at].verdict)}
        right = [at for at in group if outcomes.get(at) == "correct"]
        for rank, outcome in enumerate(_NOT_RIGHT):
            other = [at for at in group if outcomes.get(at) == outcome]
            if not right or not other:
                continue
            common = {(a, b): _common(lines[a], lines[b]) for a in right for b in other}
            pair = max(common, key=lambda each: common[each])
            unevenness = abs(len(right) / len(group) - 0.5)
            key = (rank, unevenness, -common[pair])
            if best is None or key < best[0]:
                best = key, pair
            break
    if best is None:
        raise DataError(f"{path}: no prompt has both a correct and a wrong completion")
    return best[1]


def _common(one: RolloutLine, other: RolloutLine) -> int:
    """Return the number of tokens that both begin with; without ids, of characters."""
    first, second = (line.completion.token_ids or line.completion.text for line in (one, other))
    same = (a == b for a, b in zip(first, second, strict=False))
    return sum(1 for _ in takewhile(bool, same))
