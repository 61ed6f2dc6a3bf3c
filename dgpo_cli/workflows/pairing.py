"""A right and a wrong completion of one prompt that begin alike: where did they part?"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

from dgpo_cli.errors import DataError
from dgpo_cli.types import Outcome
from dgpo_cli.workflows.rollouts import RolloutLine

# What stands against a right answer, the most telling first; an unknown outcome does not.
_NOT_RIGHT: tuple[Outcome, ...] = ("wrong", "out_of_range", "no_answer", "truncated")


def pair_of(lines: Sequence[RolloutLine], *, path: Path) -> tuple[RolloutLine, RolloutLine]:
    """The right and the wrong completion of one prompt with the longest start in common.

    Of several prompts it is one with an answer that is wrong rather than none, and of these the one
    whose right and other completions are most evenly mixed; ties go to the longest start, then to
    the first. path: the file they are from.

    Raises:
        DataError: no prompt has both.
    """
    groups: dict[str, list[RolloutLine]] = {}
    for line in lines:
        groups.setdefault(line.prompt.id, []).append(line)
    best: tuple[tuple[float, ...], tuple[RolloutLine, RolloutLine]] | None = None
    for group in groups.values():
        right = [line for line in group if line.verdict.outcome == "correct"]
        for rank, outcome in enumerate(_NOT_RIGHT):
            other = [line for line in group if line.verdict.outcome == outcome]
            if not right or not other:
                continue
            pair = max(((a, b) for a in right for b in other), key=_common)
            unevenness = abs(len(right) / len(group) - 0.5)
            key = (rank, unevenness, -_common(pair))
            if best is None or key < best[0]:
                best = key, pair
            break
    if best is None:
        raise DataError(f"{path}: no prompt there has both a right and a wrong completion")
    return best[1]


def _common(pair: tuple[RolloutLine, RolloutLine]) -> int:
    """How many tokens both begin with; of completions without ids, how many characters."""
    first, second = (line.completion.token_ids or line.completion.text for line in pair)
    same = (a == b for a, b in zip(first, second, strict=False))
    return sum(1 for _ in takewhile(bool, same))
