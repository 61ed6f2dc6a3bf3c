"""Judges completions: JSON lines with `gold` and `output`, as they come in."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Generator, Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from dgpo_cli.core.codec import Format
from dgpo_cli.core.schema import Count, Number, Terms, Text
from dgpo_cli.core.types import Outcome, Verdict
from dgpo_cli.doctor.cases import BrokenLine, Case, read_cases
from dgpo_cli.rewards.grader import Grader
from dgpo_cli.rewards.settings import RewardValues

_UNKNOWN: tuple[Outcome, ...] = ("timeout", "crash", "error")
_CLOSE = 1e-6  # of a wanted reward


@dataclass(frozen=True, slots=True)
class CheckJson:
    """A judged line, before its own other fields. agrees: null if any outcome is fine.

    reward, terms, note: with --reward or --config; reward is null if it could not be scored.
    """

    line: Count
    gold: Text
    outcome: Outcome
    extracted: Text | None
    want: Text | Number | None
    agrees: bool | None
    reward: Number | None = None
    terms: Terms | None = None
    note: Text | None = None


CHECK = Format(
    CheckJson,
    name="check",
    what="a line of dgpo check --json",
    sparse=("want", "agrees", "reward", "terms", "note"),
)


@dataclass(frozen=True, slots=True)
class CheckedCase:
    """A case and its verdict; `agrees` is None if no outcome is wanted."""

    case: Case
    verdict: Verdict

    @property
    def outcome(self) -> Outcome:
        return self.verdict.outcome

    @property
    def agrees(self) -> bool | None:
        match self.case.want:
            case None | "policy":
                return None
            case "incorrect":
                return self.outcome != "correct" and self.outcome not in _UNKNOWN
            case str() as want:
                return self.outcome == want
            case want:
                return math.isclose(self.verdict.reward, want, rel_tol=_CLOSE, abs_tol=_CLOSE)

    def to_json(self, *, scored: bool = False) -> dict[str, Any]:
        """Return the verdict and the line's own fields, without the completion.

        scored: with the reward and its terms.
        """
        case, verdict = self.case, self.verdict
        head = CheckJson(
            line=case.number,
            gold=case.item.gold,
            outcome=verdict.outcome,
            extracted=verdict.extracted,
            want=case.want,
            agrees=self.agrees,
            terms=verdict.terms if scored else None,
            note=verdict.note,
        )
        data = CHECK.dump(head)
        if case.want is not None:
            data["agrees"] = self.agrees  # null if any outcome is fine
        if scored:
            data["reward"] = verdict.reward if verdict.is_scored else None
        return data | {name: value for name, value in case.rest.items() if name not in data}


@dataclass(slots=True)
class CheckSummary:
    """Counts over all lines."""

    outcomes: Counter[Outcome] = field(default_factory=Counter)
    agreed: int = 0
    disagreed: int = 0
    broken: int = 0
    true_positives: int = 0
    false_positives: int = 0
    false_negatives: int = 0

    @property
    def checked(self) -> int:
        return self.outcomes.total()

    @property
    def precision(self) -> float | None:
        """Share of the answers judged correct that are; None if there are none."""
        called = self.true_positives + self.false_positives
        return self.true_positives / called if called else None

    @property
    def recall(self) -> float | None:
        """Share of the correct answers that are judged so; None if there are none."""
        right = self.true_positives + self.false_negatives
        return self.true_positives / right if right else None

    def count(self, checked: CheckedCase | BrokenLine) -> None:
        if isinstance(checked, BrokenLine):
            self.broken += 1
            return
        self.outcomes[checked.outcome] += 1
        self.agreed += checked.agrees is True
        self.disagreed += checked.agrees is False
        if checked.agrees is None or not isinstance(checked.case.want, str):
            return
        called, right = checked.outcome == "correct", checked.case.want == "correct"
        self.true_positives += called and right
        self.false_positives += called and not right
        self.false_negatives += right and not called


def judged(
    lines: Iterable[bytes], *, settings: RewardValues, at_once: int
) -> Generator[CheckedCase | BrokenLine, None, None]:
    """Judge each line and yield the results in order. Blank lines are skipped.

    at_once: lines that are read before they are judged; 1 if each verdict is waited for.

    Raises:
        DgpoError: the checker's workers cannot be started.
    """
    read = read_cases(lines, reward=settings)
    with Grader(settings) as grader:
        while some := list(islice(read, at_once)):
            cases = [each for each in some if isinstance(each, Case)]
            verdicts = iter(grader.grade([case.item for case in cases]))
            for each in some:
                if isinstance(each, Case):
                    yield CheckedCase(each, next(verdicts))
                else:
                    yield each
