"""Terms that look at the form of a completion: a pattern, its length, what it repeats."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, field_validator

from dgpo_cli.rewards.protocol import Check
from dgpo_cli.rewards.terms.base import (
    Done,
    Plain,
    RewardTerm,
    Scorer,
    Shared,
    TermScore,
    failed,
)

if TYPE_CHECKING:
    from dgpo_cli.rewards.item import GradeItem


class FormatTerm(RewardTerm):
    """Whether a pattern is found in the assistant's turn: 1 or 0."""

    kind: Literal["format"] = "format"
    pattern: str = Field(
        min_length=1,
        description="Regular expression of Python, in which a dot is also a line break; ^ and $ "
        "are the ends of the turn.",
    )

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        try:
            re.compile(pattern, re.DOTALL)
        except re.error as error:
            raise ValueError(f"is not a regular expression: {error}") from error
        return pattern

    @property
    def pools(self) -> bool:
        return True

    def scorer(self, shared: Shared) -> Scorer:
        return _Patterns(self, shared)


class _Patterns:
    """Looks for the pattern in workers: some patterns take for ever on some texts."""

    def __init__(self, term: FormatTerm, shared: Shared) -> None:
        from dgpo_cli.rewards.workers.pool import WorkerPool

        self._timeout_s = shared.timeout_s
        self._pool = WorkerPool(
            Check("dgpo_cli.rewards.terms.shape:find_pattern", {"pattern": term.pattern}),
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
        return [self._score(found) for found, _ in self._pool.run(tasks, on_done=done)]

    def _score(self, found: Any) -> TermScore:
        if isinstance(found, bool):
            return TermScore(float(found))
        why = f"the pattern took longer than {self._timeout_s:g} s"
        return failed("timeout", why) if found == "timeout" else failed("error", "a worker died")

    def close(self) -> None:
        self._pool.close()


def find_pattern(gold: str, text: str, *, finish_reason: str, pattern: str) -> tuple[bool, None]:
    """Return whether the pattern is found; runs in workers. Python keeps what it has compiled."""
    return re.search(pattern, text, re.DOTALL) is not None, None


class LengthTerm(RewardTerm):
    """What the number of tokens is worth."""

    reads_outcome: ClassVar[bool] = True

    kind: Literal["length"] = "length"
    shape: Literal["overlong", "cosine"] = Field(
        "overlong",
        description="overlong: 0, and in the last buffer_tokens before the limit down to -1, as "
        "DAPO's. cosine: from a value at no token to one at the limit, for right and wrong apart.",
    )
    limit: int | None = Field(
        None, ge=1, description="Tokens; unset: rollout.max_completion_tokens."
    )
    buffer_tokens: int | None = Field(
        None, ge=1, description="With overlong; unset: a fifth of the limit, as DAPO's."
    )
    correct_short: float = Field(0.5, description="With cosine: a correct completion of no token.")
    correct_long: float = Field(0.0, description="With cosine: a correct one at the limit.")
    wrong_short: float = Field(-0.5, description="With cosine: any other of no token.")
    wrong_long: float = Field(0.0, description="With cosine: any other at the limit.")
    cut: float = Field(-0.5, description="With cosine: one that the limit cut off.")

    def scorer(self, shared: Shared) -> Scorer:
        limit = self.limit or shared.limit
        return Plain(lambda item: TermScore(self.value(item, limit=limit)))

    def value(self, item: GradeItem, *, limit: int) -> float:
        """Return the value of a completion; NaN where there is no limit or no token.

        Source: overlong: DAPO, arXiv 2503.14476, equation 13; cosine: arXiv 2502.03373, section 4.2
        (there it is the whole reward, with 2, 1, -10, 0 and -10).
        """
        tokens = len(item.token_ids)
        if not limit or not tokens:
            return math.nan
        if self.shape == "overlong":
            buffer = self.buffer_tokens or max(1, limit // 5)
            return -min(1.0, max(0.0, (tokens - (limit - buffer)) / buffer))
        if item.finish_reason == "length":
            return self.cut
        right = item.outcome == "correct"
        short, long = (
            (self.correct_short, self.correct_long)
            if right
            else (self.wrong_short, self.wrong_long)
        )
        return long + (short - long) * (1 + math.cos(math.pi * min(1.0, tokens / limit))) / 2


class RepetitionTerm(RewardTerm):
    """Minus the share of sequences of tokens that have stood before: 0 to -1."""

    kind: Literal["repetition"] = "repetition"
    ngram: int = Field(
        20,
        ge=1,
        le=1000,
        description="Tokens of a sequence; words where a completion has no token ids.",
    )

    def scorer(self, shared: Shared) -> Scorer:
        return Plain(lambda item: TermScore(self.value(item)))

    def value(self, item: GradeItem) -> float:
        """Return the value of a completion; one shorter than `ngram` repeats nothing.

        Source: the repetition penalty of arXiv 2502.03373, in the form of TRL's
        get_repetition_penalty_reward, which counts words.
        """
        units: Sequence[Any] = item.token_ids or item.text.split()
        total = len(units) - self.ngram + 1
        if total < 2:
            return 0.0
        different = len({tuple(units[at : at + self.ngram]) for at in range(total)})
        return different / total - 1.0
