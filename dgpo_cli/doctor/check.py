"""Judges completions: JSON lines with `gold` and `output`, as they come in."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from dgpo_cli.core.codec import Format, filled
from dgpo_cli.core.schema import Count, Text
from dgpo_cli.core.thinking import ends_in_thought
from dgpo_cli.core.types import CHECKED_OUTCOMES, FinishReason, Outcome
from dgpo_cli.prompts.files import final_answer
from dgpo_cli.rewards.grader import GradeItem, Grader
from dgpo_cli.rewards.settings import RewardValues

NO_OPINION = "policy"
WANTS = ("correct", "incorrect", NO_OPINION, *CHECKED_OUTCOMES[1:])
_UNKNOWN: tuple[Outcome, ...] = ("timeout", "crash")


@dataclass(frozen=True, slots=True)
class Case:
    """A line: its number from 1, what is judged, the wanted outcome, its other fields."""

    number: int
    item: GradeItem
    want: str | None
    rest: dict[str, Any]


@dataclass(frozen=True, slots=True)
class CheckJson:
    """A judged line, before its own other fields. agrees: null if any outcome is fine."""

    line: Count
    gold: Text
    outcome: Outcome
    extracted: Text | None
    want: Text | None
    agrees: bool | None


CHECK = Format(
    CheckJson, name="check", what="a line of dgpo check --json", sparse=("want", "agrees")
)


@dataclass(frozen=True, slots=True)
class CheckedCase:
    """A case and its verdict; `agrees` is None if no outcome is wanted."""

    case: Case
    outcome: Outcome
    extracted: str | None

    @property
    def agrees(self) -> bool | None:
        match self.case.want:
            case None | "policy":
                return None
            case "incorrect":
                return self.outcome != "correct" and self.outcome not in _UNKNOWN
            case want:
                return self.outcome == want

    def to_json(self) -> dict[str, Any]:
        """Return the verdict and the line's own fields, without the completion."""
        case = self.case
        head = filled(CheckJson, self, line=case.number, gold=case.item.gold, want=case.want)
        data = CHECK.dump(head)
        if case.want is not None:
            data["agrees"] = self.agrees  # null if any outcome is fine
        return data | {name: value for name, value in case.rest.items() if name not in data}


@dataclass(frozen=True, slots=True)
class BrokenLine:
    """A line that cannot be judged."""

    number: int
    why: str


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
        if checked.agrees is None:
            return
        called, right = checked.outcome == "correct", checked.case.want == "correct"
        self.true_positives += called and right
        self.false_positives += called and not right
        self.false_negatives += right and not called


class _Broken(Exception):
    """What is wrong with a line."""


def judged(
    lines: Iterable[bytes], *, settings: RewardValues, at_once: int
) -> Generator[CheckedCase | BrokenLine, None, None]:
    """Judge each line and yield the results in order. Blank lines are skipped.

    at_once: lines that are read before they are judged; 1 if each verdict is waited for.

    Raises:
        DgpoError: the checker's workers cannot be started.
    """
    read = _read(lines, settings=settings)
    with Grader(settings) as grader:
        while some := list(islice(read, at_once)):
            cases = [each for each in some if isinstance(each, Case)]
            verdicts = iter(grader.grade([case.item for case in cases]))
            for each in some:
                if isinstance(each, Case):
                    verdict = next(verdicts)
                    yield CheckedCase(each, verdict.outcome, verdict.extracted)
                else:
                    yield each


def _read(lines: Iterable[bytes], *, settings: RewardValues) -> Iterator[Case | BrokenLine]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            case = _case(line, number)
            if (problem := settings.problem_with(case.item.gold)) is not None:
                raise _Broken(problem)
        except _Broken as broken:
            yield BrokenLine(number, str(broken))
        else:
            yield case


def _case(line: bytes, number: int) -> Case:
    try:
        fields = json.loads(line.removeprefix(b"\xef\xbb\xbf").decode("utf-8"))
    except UnicodeDecodeError as error:
        raise _Broken(f"not UTF-8 at byte {error.start}") from error
    except (ValueError, RecursionError) as error:
        raise _Broken(f"not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise _Broken("not a JSON object with gold and output")
    for name in ("gold", "output"):
        if name not in fields:
            known = ", ".join(map(repr, fields)) or "none"
            raise _Broken(f"no field {name!r} (fields: {known:.200})")
    gold, output = fields.pop("gold"), fields.pop("output")
    if isinstance(gold, int | float) and not isinstance(gold, bool):
        gold = str(gold)
    for name, value in (("gold", gold), ("output", output)):
        if not isinstance(value, str):
            raise _Broken(f"{name}={value!r:.80} is not text; put it in quotes")
    want = fields.pop("want", None)
    if want is not None and want not in WANTS:
        raise _Broken(f"want={want!r:.80}: must be one of {', '.join(WANTS)}")
    reason = _finish_reason(fields.pop("finish_reason", None))
    item = GradeItem(final_answer(gold), output, reason, _starts_in_thought(fields))
    return Case(number, item, want, fields)


def _starts_in_thought(fields: dict[str, Any]) -> bool:
    """Return the field of that name, else whether the prompt leaves a thought open."""
    given = fields.pop("starts_in_thought", None)
    if given is not None and not isinstance(given, bool):
        raise _Broken(f"starts_in_thought={given!r:.80}: must be true or false")
    prompt = fields.get("prompt")
    return ends_in_thought(prompt) if given is None and isinstance(prompt, str) else given is True


def _finish_reason(value: object) -> FinishReason:
    match value:
        case None | "stop":
            return "stop"
        case "length":
            return "length"
    raise _Broken(f"finish_reason={value!r:.80}: must be stop or length")
