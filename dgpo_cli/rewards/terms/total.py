"""Adds up the terms of a reward: scorers at work, from completions to verdicts.

| of a completion | its verdict |
| --- | --- |
| reward | the sum of weight times value over the terms that apply |
| outcome | that of the first term that judges; "scored" if none does |
| a function or server failed | unscored: no reward, "error" or "timeout", and a note |
| no term applies | unscored, "error" |
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from dgpo_cli.core.errors import DataError
from dgpo_cli.core.events import phase
from dgpo_cli.core.types import Verdict
from dgpo_cli.rewards.checker_settings import shown_gold
from dgpo_cli.rewards.terms.base import RewardTerm, Shared, TermScore

if TYPE_CHECKING:
    from dgpo_cli.core.types import Outcome
    from dgpo_cli.rewards.item import GradeItem

Scores = Mapping[str, TermScore]  # of one completion, by the name of the term


class TermsAtWork:
    """The scorers of the terms, which run one after the other."""

    def __init__(self, terms: Sequence[RewardTerm], shared: Shared) -> None:
        self._terms = tuple(terms)
        self._scorers = [term.scorer(shared) for term in self._terms]
        self._observer = shared.observer
        self.seconds = {term.label: 0.0 for term in self._terms}  # of scoring, so far

    def start(self) -> None:
        for scorer in self._scorers:
            scorer.start()

    def wait(self) -> None:
        for scorer in self._scorers:
            scorer.wait()

    def open(self) -> dict[str, dict[str, Any]]:
        """Load the user's functions; return what their signatures say, by the name of the term.

        Raises:
            DgpoError: one cannot be loaded.
        """
        pairs = zip(self._terms, self._scorers, strict=True)
        return {t.label: s.opened() for t, s in pairs if hasattr(s, "opened")}

    def grade(self, items: Sequence[GradeItem]) -> list[Verdict]:
        """Return a verdict for each item, in order.

        Raises:
            DataError: a term cannot compare with a gold answer.
            DgpoError: workers cannot be started, or a function cannot be loaded.
        """
        own = [[i for i, item in enumerate(items) if t.applies_to(item.part)] for t in self._terms]
        for term, numbers in zip(self._terms, own, strict=True):
            for gold in dict.fromkeys(items[number].gold for number in numbers):
                if (fault := term.fault_of(gold)) is not None:
                    raise DataError(f"{shown_gold(gold)} {fault}")
        found: list[dict[str, TermScore]] = [{} for _ in items]
        total = sum(map(len, own))
        with phase(self._observer, "scoring", total=total, unit="scores") as advance:
            # Those that read the outcome of the others are last.
            work = zip(self._terms, self._scorers, own, strict=True)
            for term, scorer, numbers in sorted(work, key=lambda each: each[0].reads_outcome):
                given = [items[number] for number in numbers]
                if term.reads_outcome:
                    outcomes = [self._outcome(found[number]) for number in numbers]
                    pairs = zip(given, outcomes, strict=True)
                    given = [replace(item, outcome=outcome) for item, outcome in pairs]
                began = time.monotonic()
                scores = scorer.score(given, done=advance)
                self.seconds[term.label] += time.monotonic() - began
                for number, score in zip(numbers, scores, strict=True):
                    found[number][term.label] = score
        weights = {term.label: term.weight for term in self._terms}
        return [added(scores, weights=weights) for scores in found]

    def close(self) -> None:
        for scorer in self._scorers:
            scorer.close()

    def _outcome(self, scores: Scores) -> Outcome | None:
        """Return the outcome of the first term that judges, in the order of the settings."""
        there = (scores[t.label] for t in self._terms if t.label in scores)
        return next((score.outcome for score in there if score.outcome is not None), None)


def added(scores: Scores, *, weights: Mapping[str, float]) -> Verdict:
    """Return the verdict on a completion with these scores; a term that is missing does not apply.

    weights: of all terms, in order.
    """
    terms = tuple((name, scores[name].value if name in scores else math.nan) for name in weights)
    there = [(name, scores[name]) for name in weights if name in scores]
    notes = [f"{name}: {score.note}" for name, score in there if score.note]
    note = "; ".join(notes) or None
    failure = next((score for _, score in there if score.unscored), None)
    if failure is not None:
        assert failure.outcome is not None
        return Verdict(failure.outcome, None, math.nan, note, terms)
    known = [weights[name] * score.value for name, score in there if not math.isnan(score.value)]
    if not known:
        return Verdict("error", None, math.nan, note or "no term of the reward applies", terms)
    judge = next((score for _, score in there if score.outcome is not None), None)
    return Verdict(
        "scored" if judge is None or judge.outcome is None else judge.outcome,
        None if judge is None else judge.extracted,
        math.fsum(known),
        note,
        terms,
    )
