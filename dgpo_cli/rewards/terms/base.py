"""What every term of a reward is: its settings, its scorer, and the score of a completion.

A new kind is a subclass of RewardTerm, here or in a file beside this one, and a member of AnyTerm
in rewards/settings.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from pydantic import Field, model_validator

from dgpo_cli.core.events import NOBODY, Observer
from dgpo_cli.core.schema import Frozen

if TYPE_CHECKING:
    from dgpo_cli.core.types import Outcome
    from dgpo_cli.rewards.item import GradeItem

NAME = r"[A-Za-z][A-Za-z0-9_-]*"
Done = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class TermScore:
    """What a term says of a completion.

    value: before the weight; NaN: the term does not apply to this completion, and adds 0.
    outcome: if the term judges the answer. "error", "timeout" and "crash": it failed.
    unscored: it failed so that the whole completion has no reward.
    """

    value: float
    outcome: Outcome | None = None
    extracted: str | None = None
    note: str | None = None
    unscored: bool = False


def failed(outcome: Outcome, note: str) -> TermScore:
    """Return the score of a completion that a term could not score."""
    return TermScore(math.nan, outcome, note=note, unscored=True)


def told_score(
    value: float | None, outcome: Outcome | None, note: str | None, *, correct_at: float | None
) -> TermScore:
    """Return the score that a function or a server of the user's told; see terms/call.py."""
    if outcome == "error":
        return failed("error", note or "")
    if value is None:
        return TermScore(math.nan, note=note)
    if outcome is None and correct_at is not None:
        outcome = "correct" if value >= correct_at else "wrong"
    return TermScore(value, outcome, note=note)


def calls_of(items: Sequence[GradeItem], *, most: int, group: bool) -> Iterator[list[GradeItem]]:
    """Yield the completions of each call: `most` at a time, or all of a group."""
    call: list[GradeItem] = []
    for item in items:
        ends = item.group != call[-1].group if group and call else len(call) == most
        if ends:
            yield call
            call = []
        call.append(item)
    if call:
        yield call


class Scorer(Protocol):
    """A term at work. `score` starts what it needs; `start` only saves time."""

    def start(self) -> None:
        """Start workers without waiting for them."""
        ...

    def wait(self) -> None:
        """Wait until a worker can score; for those who measure its time."""
        ...

    def score(self, items: Sequence[GradeItem], *, done: Done) -> list[TermScore]:
        """Return the score of each item, in order, and call `done(1)` for each.

        Items of one group have the same `group` and stand together.
        """
        ...

    def close(self) -> None:
        """End the workers."""
        ...


@dataclass(frozen=True, slots=True)
class Plain:
    """The scorer of a pure function, which runs here; it must be linear in the text."""

    function: Callable[[GradeItem], TermScore]

    def start(self) -> None: ...

    def wait(self) -> None: ...

    def score(self, items: Sequence[GradeItem], *, done: Done) -> list[TermScore]:
        scores = [self.function(item) for item in items]
        done(len(items))
        return scores

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Shared:
    """What all terms of a grader have in common.

    timeout_s: deadline of one answer; terms that call others have their own.
    limit: rollout.max_completion_tokens; 0: unknown.
    log: the file that gets what functions of the user's print; None: nowhere.
    """

    workers: int = 2
    timeout_s: float = 5.0
    limit: int = 0
    log: Path | None = None
    observer: Observer = NOBODY


class RewardTerm(Frozen):
    """What every term has: a name, a weight, and the sources that it is for."""

    judges: ClassVar[bool] = False  # it may say whether an answer is correct
    needs_answer: ClassVar[bool] = False  # problems without an answer are refused
    wants_columns: ClassVar[bool] = False  # it reads the other columns of the data
    reads_outcome: ClassVar[bool] = False  # it comes after those that judge, and gets their outcome

    name: str | None = Field(
        None,
        pattern=rf"^{NAME}$",
        description="Its name in metrics and files; unset: its kind, or the name of its function.",
    )
    weight: float = Field(1.0, description="Factor of its value in the reward; 0: only shown.")
    sources: tuple[str, ...] = Field(
        (), description="Names of the prompts.sources that it applies to; empty: all."
    )

    @model_validator(mode="before")
    @classmethod
    def _is_named(cls, given: Any) -> Any:
        """Give it the name that it has unless another is set."""
        if isinstance(given, Mapping) and not given.get("name"):
            return {**given, "name": cls.own_name(given)}
        return given

    @classmethod
    def own_name(cls, given: Mapping[str, Any]) -> str:
        """Return the name of a term with these fields: its kind."""
        return str(cls.model_fields["kind"].default)

    @property
    def label(self) -> str:
        """Its name in metrics and files."""
        return self.name or ""

    @property
    def pools(self) -> bool:
        """Whether it has worker processes."""
        return False

    def applies_to(self, part: str) -> bool:
        """Whether it scores the problems of the source `part`; "": the only one."""
        return not self.sources or part in self.sources

    def fault_of(self, gold: str) -> str | None:
        """Return why no answer can be compared with `gold`, without naming it, or None."""
        return None

    def code(self) -> str | None:
        """Return the user's code that it runs, as file.py:name or module:name."""
        return None

    def scorer(self, shared: Shared) -> Scorer:
        """Return the term at work. Nothing is started before `start` or `score`."""
        raise NotImplementedError
