"""When sampling may stop because the error of Avg@k is small enough. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dgpo_cli.stats.intervals import rerun_interval

LEAST_ROUNDS = 4


def is_enough(correct: Sequence[int], *, k: int, margin: float, least: int = LEAST_ROUNDS) -> bool:
    """Return whether k samples of each problem suffice: `correct` of k are, problem by problem.

    There must be `least` samples, and half the width of the rerun interval at most `margin`.
    A rule that looks at the error stops where the error looks small by chance, so that a score
    near 0 or 1 comes out a little too extreme: what that does to bias and coverage is measured by
    `benchmarks/intervals.py --stop-when`.
    Source: Chow and Robbins, Ann. Math. Stat. 36 (1965) 457.
    """
    return k >= least and rerun_interval(correct, k=k).half_width <= margin


def stopping_round(
    rounds: Iterable[Sequence[bool]], *, margin: float, least: int = LEAST_ROUNDS
) -> int | None:
    """Return the number of rounds after which sampling stops; None if these do not suffice.

    A round is one sample of every problem, and whether each is correct. The number follows from
    the rounds up to it, whatever was drawn beyond.
    """
    correct: list[int] = []
    for k, marks in enumerate(rounds, start=1):
        correct = [c + m for c, m in zip(correct or [0] * len(marks), marks, strict=True)]
        if is_enough(correct, k=k, margin=margin, least=least):
            return k
    return None
