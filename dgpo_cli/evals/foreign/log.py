"""What is read of a log of another program, whatever its format."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dgpo_cli.core.formats import Turn
from dgpo_cli.core.types import FinishReason, Outcome


@dataclass(frozen=True, slots=True)
class ForeignSample:
    """A completion. text: what is judged; reasoning: parts of a field of their own.

    outcome, answer: what the log says of it; None if it does not.
    finish: the program's word for the end if it is neither "stop" nor "length".
    tokens, prompt_tokens: None where the log does not count them.
    """

    text: str
    reasoning: str | None = None
    starts_in_thought: bool = False
    finish_reason: FinishReason = "stop"
    finish: str | None = None
    tokens: int | None = None
    prompt_tokens: int | None = None
    outcome: Outcome | None = None
    answer: str | None = None


@dataclass(frozen=True, slots=True)
class ForeignProblem:
    """A problem with its samples. right: how many of them the log calls right, if it says so."""

    id: str
    messages: tuple[Turn, ...]
    gold: str
    samples: tuple[ForeignSample, ...]
    right: int | None = None
    choices: int = 0  # options that it has; 0 if none are listed

    @property
    def problem(self) -> str:
        """The last user turn."""
        return next((turn.content for turn in reversed(self.messages) if turn.role == "user"), "")


@dataclass(frozen=True, slots=True)
class ForeignLog:
    """A log. program: its name and version. scorer: whose verdicts these are.

    sampling: what the log says of it, by our names; what it does not say is missing.
    scores: what the program reported, by its names. notes: what a reader has to know.
    packages: versions, as far as it has them. sha256: of the file.
    """

    program: str
    version: str | None
    task: str
    model: str
    scorer: str | None
    problems: tuple[ForeignProblem, ...]
    file: str
    sha256: str
    dataset: str | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)
    packages: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def k(self) -> int:
        """Samples that every problem has."""
        return min(len(problem.samples) for problem in self.problems)

    @property
    def digest(self) -> str:
        """SHA-256 of ids, problems and answers, as that of a benchmark."""
        triples = [[problem.id, problem.problem, problem.gold] for problem in self.problems]
        text = json.dumps(triples, ensure_ascii=True, separators=(",", ":"))
        return hashlib.sha256(text.encode("ascii")).hexdigest()


def score_outcome(value: object) -> tuple[Outcome | None, bool]:
    """Return the outcome that a score between 0 and 1 stands for, and whether it is a part of 1.

    Partial credit counts as wrong, as everything else that is not right; None: it is not a verdict.
    """
    if not isinstance(value, int | float) or not 0 <= value <= 1:  # NaN too
        return None, False
    return ("correct" if value == 1 else "wrong"), 0 < value < 1
