"""Terms that judge the answer of a completion: integer, math, choice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from dgpo_cli.rewards.checker_settings import (
    AnswerChecker,
    ChoiceChecker,
    IntegerChecker,
    MathChecker,
)
from dgpo_cli.rewards.terms.base import Done, RewardTerm, Scorer, Shared, TermScore

if TYPE_CHECKING:
    from dgpo_cli.rewards.item import GradeItem


class CheckedTerm(AnswerChecker, RewardTerm):
    """A checker of answers as a term."""

    judges: ClassVar[bool] = True
    needs_answer: ClassVar[bool] = True

    @property
    def pools(self) -> bool:
        return True

    def scorer(self, shared: Shared) -> Scorer:
        return _CheckedScorer(self, shared)


class IntegerTerm(IntegerChecker, CheckedTerm):
    """Exact integers, as in AIME."""


class MathTerm(MathChecker, CheckedTerm):
    """General mathematical answers, compared by meaning."""


class ChoiceTerm(ChoiceChecker, CheckedTerm):
    """The letter of an option, as in GPQA."""


class _CheckedScorer:
    """Every outcome but `correct` earns `wrong`, a timeout and a crash too, as with one checker."""

    def __init__(self, term: CheckedTerm, shared: Shared) -> None:
        from dgpo_cli.rewards.workers.pool import WorkerPool  # loading settings starts nothing

        self._term = term
        self._pool = WorkerPool(
            term.check(),
            workers=shared.workers,
            timeout_s=shared.timeout_s,
            observer=shared.observer,
        )

    def start(self) -> None:
        self._pool.start()

    def wait(self) -> None:
        self._pool.open()

    def score(self, items: Sequence[GradeItem], *, done: Done) -> list[TermScore]:
        tasks = [(item.gold, item.judged, item.finish_reason) for item in items]
        right, wrong = self._term.correct, self._term.wrong
        return [
            TermScore(right if outcome == "correct" else wrong, outcome, extracted)
            for outcome, extracted in self._pool.run(tasks, on_done=done)
        ]

    def close(self) -> None:
        self._pool.close()
