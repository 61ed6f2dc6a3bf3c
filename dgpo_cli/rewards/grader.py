"""Grades completions with any checker, from settings through workers to verdicts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from dgpo_cli.core.errors import DataError
from dgpo_cli.core.events import NOBODY, Observer, phase
from dgpo_cli.core.types import FinishReason, Prompt, Verdict
from dgpo_cli.rewards.checker_settings import shown_gold
from dgpo_cli.rewards.item import GradeItem as GradeItem
from dgpo_cli.rewards.item import grade_item as grade_item
from dgpo_cli.rewards.protocol import Task
from dgpo_cli.rewards.settings import (
    ChoiceReward,
    Extract,
    IntegerReward,
    MathReward,
    RewardSettings,
    RewardValues,
)
from dgpo_cli.rewards.terms.base import Shared
from dgpo_cli.rewards.terms.total import TermsAtWork
from dgpo_cli.rewards.workers.pool import WorkerPool


def check_answers(
    prompts: Sequence[Prompt], *, reward: RewardSettings, hidden: bool = True
) -> None:
    """Check before sampling that `reward` can compare with the answers of all problems.

    hidden: the answers are a benchmark's, which no log should have.

    Raises:
        DataError: it cannot; names their number and the first.
    """
    if (lost := next((p for p in prompts if not reward.judges(p.part)), None)) is not None:
        where = f"prompts.sources.{lost.part}" if lost.part else lost.source
        raise DataError(
            f"{where}: no term of reward.terms applies to its problems; add it to the sources of a "
            "term, or add a term without sources"
        )
    found = [(p, fault) for p in prompts if (fault := reward.fault_for(p.part, p.answer))]
    if found:
        first, fault = found[0]
        place = f" ({first.place})" if first.place else ""
        what = f", {fault}" if hidden else f": {shown_gold(first.answer)} {fault}"
        raise DataError(
            f"{first.source}: {len(found):,} of {len(prompts):,} answers are unusable; the first, "
            f"of problem {first.id!r}{place}{what}"
        )


def check_own(reward: RewardSettings, *, observer: Observer = NOBODY) -> dict[str, dict[str, Any]]:
    """Load the user's functions of a reward in a worker each, before anything large is loaded.

    Returns what their signatures say, for `check_columns`; see rewards/terms/call.py.

    Raises:
        ConfigError: one cannot be loaded, or takes other arguments.
    """
    if not reward.code():
        return {}
    with Grader(reward, observer=observer) as grader:
        return grader.open()


def check_columns(prompts: Sequence[Prompt], *, told: Mapping[str, Mapping[str, Any]]) -> None:
    """Check that every problem has the columns that the user's functions cannot do without.

    told: of `check_own`.

    Raises:
        DataError: one lacks a column; the message names it, and those that are there.
    """
    for name, signature in told.items():
        for column in signature["required"]:
            lacking = [prompt for prompt in prompts if column not in prompt.columns]
            if lacking:
                first = lacking[0]
                known = ", ".join(map(repr, first.columns))
                has = f"with the columns {known}" if known else "without any column"
                place = f" ({first.place})" if first.place else ""
                raise DataError(
                    f"{first.source}: {len(lacking):,} of {len(prompts):,} problems have no column "
                    f"{column!r}, which the reward {name} asks for; the first is {first.id!r}"
                    f"{place}, {has}"
                )


def check_judged(verdicts: Sequence[Verdict]) -> None:
    """Check that every verdict says what is correct, or that it is not known.

    Raises:
        DataError: one is only a number; names its term.
    """
    for verdict in verdicts:
        if verdict.outcome == "scored":
            names = " and ".join(name for name, value in verdict.terms if not math.isnan(value))
            raise DataError(
                f"reward {names}: gave {verdict.reward:g} and not whether that is correct, which "
                "an evaluation needs; set correct_at, or return True or False"
            )


class Grader:
    """Turns completions into verdicts; a context manager. Workers start with the first grade.

    limit: rollout.max_completion_tokens, for terms that score the length; 0: unknown.
    log: the file that gets what functions of the user's print; None: nowhere.
    observer: gets the progress, and one note if fewer workers run than `settings` ask for.

    Examples:
        >>> from dgpo_cli import GradeItem, Grader, load_settings
        >>> with Grader(load_settings("tiny").reward) as grader:
        ...     [verdict.outcome for verdict in grader.grade([GradeItem("7", r"\\boxed{8}")])]
        ['wrong']
    """

    def __init__(
        self,
        settings: RewardSettings | RewardValues,
        *,
        limit: int = 0,
        log: Path | None = None,
        observer: Observer = NOBODY,
    ) -> None:
        self._work: _Checker | TermsAtWork
        if isinstance(settings, RewardValues):
            self._work = _Checker(settings, observer=observer)
        else:
            shared = Shared(
                workers=settings.workers,
                timeout_s=settings.answer_timeout_s,
                limit=limit,
                log=log,
                observer=observer,
            )
            self._work = TermsAtWork(settings.every_term(), shared)

    def start(self) -> None:
        """Start the workers without waiting for them; `grade` would start them too."""
        self._work.start()

    def wait(self) -> None:
        """Wait until every term has a worker that can score."""
        self._work.wait()

    def open(self) -> dict[str, dict[str, Any]]:
        """Load the user's functions; return what their signatures say, by the name of the term.

        Raises:
            DgpoError: one cannot be loaded, or takes other arguments.
        """
        return {} if isinstance(self._work, _Checker) else self._work.open()

    @property
    def seconds(self) -> dict[str, float]:
        """Time that each term of the reward has taken to score; a checker has none."""
        return {} if isinstance(self._work, _Checker) else self._work.seconds

    def grade(self, items: Sequence[GradeItem]) -> list[Verdict]:
        """Return a verdict for each item, in order.

        Every outcome but `correct` earns `settings.wrong`; `timeout` and `crash` stay distinct
        from `wrong`. Of a reward of terms see rewards/terms/total.py.

        Raises:
            DataError: this checker cannot compare with a gold answer.
            DgpoError: the workers cannot be started, or a function cannot be loaded.
        """
        return self._work.grade(items)

    def close(self) -> None:
        """End the workers."""
        self._work.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Checker:
    """One checker of answers, which is the whole reward."""

    def __init__(self, settings: RewardValues, *, observer: Observer) -> None:
        self._settings, self._observer = settings, observer
        self._pool = WorkerPool(
            settings.check(),
            workers=settings.workers,
            timeout_s=settings.timeout_s,
            observer=observer,
        )

    def start(self) -> None:
        self._pool.start()

    def wait(self) -> None:
        self._pool.open()

    def grade(self, items: Sequence[GradeItem]) -> list[Verdict]:
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
        self._pool.close()


def judge_answer(
    text: str,
    *,
    gold: str,
    kind: Literal["integer", "math", "choice"] = "integer",
    extract: Extract = "boxed-or-answer-line",
    finish_reason: FinishReason = "stop",
    timeout_s: float = 5.0,
    choices: int = 4,
) -> Verdict:
    """Judge the answer in one completion; the reward is 1 if it is correct, else 0.

    Integers and letters are read here, in time linear in the text. Mathematics is left to a worker
    process, which takes a second to start and is killed at its deadline: use one `Grader` for many.

    Args:
        extract: where the answer stands, as in `reward.extract`.
        finish_reason: "length" if the completion was truncated.
        timeout_s: deadline of `kind` "math", in seconds, after which the outcome is "timeout".
        choices: number of options of `kind` "choice".

    Raises:
        DataError: `gold` is nothing that this checker can compare with.
        ValueError: there is no such `kind`, `extract` or number of options.

    Examples:
        >>> from dgpo_cli import judge_answer
        >>> judge_answer(r"Half of it, so \\boxed{0204}.", gold="204")
        Verdict(outcome='correct', extracted='204', reward=1.0, note=None, terms=())
    """
    item = GradeItem(gold, text, finish_reason)
    if kind == "math":
        with Grader(MathReward(extract=extract, timeout_s=timeout_s, workers=1)) as grader:
            return grader.grade([item])[0]
    if kind == "integer":
        settings: IntegerReward | ChoiceReward = IntegerReward(extract=extract)
    elif kind == "choice":
        settings = ChoiceReward(extract=extract, choices=choices)
    else:
        raise ValueError(f"kind={kind!r}: must be 'integer', 'math' or 'choice'")
    if (problem := settings.problem_with(gold)) is not None:
        raise DataError(problem)
    check = settings.check()
    outcome, found = check.function(gold, item.judged, finish_reason=finish_reason, **check.options)
    return Verdict(outcome, found, float(outcome == "correct"))
