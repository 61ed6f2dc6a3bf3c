"""Grades completions: one path for every checker, from settings through workers to verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from dgpo_cli.core.errors import DataError
from dgpo_cli.core.events import NOBODY, Observer, phase
from dgpo_cli.core.thinking import OPENER
from dgpo_cli.core.types import FinishReason, Prompt, Verdict
from dgpo_cli.rewards.protocol import Task
from dgpo_cli.rewards.settings import RewardSettings
from dgpo_cli.rewards.workers.pool import WorkerPool


@dataclass(frozen=True, slots=True)
class GradeItem:
    """A completion's text to be judged against the answer `gold`.

    starts_in_thought: the text begins inside a thought that its prompt has opened.
    """

    gold: str
    text: str
    finish_reason: FinishReason
    starts_in_thought: bool = False

    @property
    def judged(self) -> str:
        """The text with the mark that opened its first thought, wherever that stood."""
        return OPENER + self.text if self.starts_in_thought else self.text


def check_answers(prompts: Sequence[Prompt], *, reward: RewardSettings) -> None:
    """Refuse problems whose answers `reward` cannot compare with, before anything is sampled.

    Raises:
        DataError: there are some; their number, and the first of them.
    """
    found = [(p, text) for p in prompts if (text := reward.problem_with(p.answer)) is not None]
    if found:
        first, text = found[0]
        place = f" ({first.place})" if first.place else ""
        raise DataError(
            f"{first.source}: {len(found):,} of {len(prompts):,} answers cannot be compared with; "
            f"the first is that of problem {first.id!r}{place}: {text}"
        )


class Grader:
    """Turns completions into verdicts; a context manager. Workers start with the first grade.

    observer: told of each grading, and once when fewer workers run than `settings` ask for.
    """

    def __init__(self, settings: RewardSettings, *, observer: Observer = NOBODY) -> None:
        self._settings, self._observer = settings, observer
        self._pool = WorkerPool(
            settings.check(),
            workers=settings.workers,
            timeout_s=settings.timeout_s,
            observer=observer,
        )

    def start(self) -> None:
        """Start the workers now, without waiting for them; the first `grade` would do it too."""
        self._pool.start()

    def grade(self, items: Sequence[GradeItem]) -> list[Verdict]:
        """Return a verdict for each item, in order.

        Every outcome but `correct` earns `settings.wrong`; `timeout` and `crash` keep their names,
        so that what is not known is never reported as wrong.

        Raises:
            DataError: a gold answer that this checker cannot compare with.
            DgpoError: the workers cannot be started.
        """
        for gold in dict.fromkeys(item.gold for item in items):
            if (problem := self._settings.problem_with(gold)) is not None:
                raise DataError(problem)
        tasks: list[Task] = [(item.gold, item.judged, item.finish_reason) for item in items]
        with phase(self._observer, "scoring", total=len(tasks), unit="completions") as advance:
            results = self._pool.run(tasks, on_done=advance)
        right, wrong = self._settings.correct, self._settings.wrong
        return [
            Verdict(outcome, extracted, right if outcome == "correct" else wrong)
            for outcome, extracted in results
        ]

    def close(self) -> None:
        """End the workers."""
        self._pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
