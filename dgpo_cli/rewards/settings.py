"""Settings of the reward; one class a kind, chosen by `kind`. No torch, no sympy."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from dgpo_cli.algo.overlong import OverlongSettings
from dgpo_cli.core.errors import ConfigError
from dgpo_cli.core.schema import Change, Frozen
from dgpo_cli.rewards.checker_settings import (
    AnswerChecker,
    ChoiceChecker,
    IntegerChecker,
    MathChecker,
)
from dgpo_cli.rewards.checker_settings import Extract as Extract
from dgpo_cli.rewards.played import EnvironmentReward
from dgpo_cli.rewards.terms.base import RewardTerm
from dgpo_cli.rewards.terms.checked import CheckedTerm, ChoiceTerm, IntegerTerm, MathTerm
from dgpo_cli.rewards.terms.http import HttpTerm, OwnServer
from dgpo_cli.rewards.terms.python import OwnFunction, PythonTerm
from dgpo_cli.rewards.terms.shape import FormatTerm, LengthTerm, RepetitionTerm


class RewardValues(AnswerChecker):
    """The settings of a checker that is the whole reward: the deadline and the workers too."""

    timeout_s: float = Field(
        5.0, gt=0, le=600, description="Hard deadline of one verdict; then its worker is killed."
    )
    workers: Annotated[int, Change.FREE] = Field(
        2, ge=1, le=256, description="Worker processes that check answers."
    )
    overlong: OverlongSettings = Field(
        OverlongSettings(), description="Penalty for completions close to the limit of tokens."
    )

    @property
    def weights(self) -> dict[str, float]:
        """The weights of the terms by name; a checker has none."""
        return {}

    @property
    def processes(self) -> int:
        """The number of worker processes in all."""
        return self.workers

    @property
    def wants_columns(self) -> bool:
        """Whether it reads the other columns of the data."""
        return False

    @property
    def needs_answer(self) -> bool:
        """Whether problems must have an answer."""
        return True

    def judges(self, part: str) -> bool:
        """Whether problems of the source `part` have a reward."""
        return True

    def fault_for(self, part: str, gold: str) -> str | None:
        """Return why the answer `gold` of a problem of the source `part` is unusable, or None."""
        return self.fault_of(gold)

    def code(self) -> tuple[str, ...]:
        """Return the user's code that it runs, each as file.py:name or module:name."""
        return ()

    def judge(self) -> Self:
        """Return the part of it that says what is correct, for evaluations: all of it."""
        return self


class IntegerReward(IntegerChecker, RewardValues):
    """Exact integers, as in AIME."""


class MathReward(MathChecker, RewardValues):
    """General mathematical answers, compared by meaning."""


class ChoiceReward(ChoiceChecker, RewardValues):
    """The letter of an option, as in GPQA."""


CheckerReward = IntegerReward | MathReward | ChoiceReward
_EXTRACT: Extract = "boxed-or-answer-line"
AnyTerm = Annotated[
    IntegerTerm
    | MathTerm
    | ChoiceTerm
    | PythonTerm
    | HttpTerm
    | FormatTerm
    | LengthTerm
    | RepetitionTerm,
    Field(discriminator="kind"),
]


class _Summed(Frozen):
    """What a reward has that is added up from terms."""

    workers: Annotated[int, Change.FREE] = Field(
        2, ge=1, le=256, description="Worker processes of each term that has some."
    )
    overlong: OverlongSettings = Field(
        OverlongSettings(), description="Penalty for completions close to the limit of tokens."
    )

    def every_term(self) -> tuple[RewardTerm, ...]:
        """Return the terms, in order."""
        raise NotImplementedError

    @property
    def answer_timeout_s(self) -> float:
        """The deadline of one answer of the terms that judge answers."""
        return 5.0

    @property
    def extract(self) -> Extract:
        """The form of answers of the first term that reads them."""
        terms = self.every_term()
        return next((t.extract for t in terms if isinstance(t, CheckedTerm)), _EXTRACT)

    @property
    def weights(self) -> dict[str, float]:
        """The weights of the terms by name, in order."""
        return {term.label: term.weight for term in self.every_term()}

    @property
    def processes(self) -> int:
        """The number of worker processes in all."""
        return self.workers * sum(term.pools for term in self.every_term())

    @property
    def wants_columns(self) -> bool:
        """Whether it reads the other columns of the data."""
        return any(term.wants_columns for term in self.every_term())

    @property
    def needs_answer(self) -> bool:
        """Whether problems must have an answer."""
        return any(term.needs_answer for term in self.every_term())

    def judges(self, part: str) -> bool:
        """Whether problems of the source `part` have a reward."""
        return any(term.applies_to(part) for term in self.every_term())

    def fault_for(self, part: str, gold: str) -> str | None:
        """Return why the answer `gold` of a problem of the source `part` is unusable, or None."""
        faults = (t.fault_of(gold) for t in self.every_term() if t.applies_to(part))
        return next((fault for fault in faults if fault is not None), None)

    def judge(self) -> CheckerReward | TermsReward:
        """Return the part of it that says what is correct, for evaluations.

        That is its first term that surely judges, else the first that may: a function says only
        when it is called. A checker is the checker itself, so that scores compare.

        Raises:
            ConfigError: no term judges.
        """
        may = [t for t in self.every_term() if t.judges and not getattr(t, "group", False)]
        surely = [
            term
            for term in may
            if isinstance(term, CheckedTerm) or getattr(term, "correct_at", None) is not None
        ]
        if not may:
            raise ConfigError(
                "reward: no term says what is correct, which an evaluation needs; add one of the "
                "kind integer, math or choice, or set the correct_at of a term that scores one "
                "completion or a batch"
            )
        term = (surely or may)[0]
        if isinstance(term, CheckedTerm):
            return self._checker(term)
        alone = term.model_copy(update={"sources": (), "weight": 1.0})
        return TermsReward(
            terms=(alone,),
            workers=self.workers,
            timeout_s=self.answer_timeout_s,
        )

    def _checker(self, term: CheckedTerm) -> CheckerReward:
        kinds: dict[str, type[CheckerReward]] = {
            "integer": IntegerReward,
            "math": MathReward,
            "choice": ChoiceReward,
        }
        kind = kinds[term.own_name({})]
        shared = {name: getattr(term, name) for name in kind.model_fields if hasattr(term, name)}
        return kind(**shared, workers=self.workers, timeout_s=self.answer_timeout_s)

    def code(self) -> tuple[str, ...]:
        """Return the user's code that it runs, each as file.py:name or module:name."""
        return tuple(code for term in self.every_term() if (code := term.code()) is not None)


class TermsReward(_Summed):
    """Several terms, each times its weight, added up."""

    kind: Literal["terms"] = "terms"
    terms: tuple[AnyTerm, ...] = Field(
        min_length=1, description="The terms, each a table [[reward.terms]] of its kind."
    )
    timeout_s: float = Field(
        5.0,
        gt=0,
        le=600,
        description="Hard deadline of one verdict of a term that judges answers; then its worker "
        "is killed.",
    )

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = Counter(term.label for term in self.terms)
        if twice := [name for name, count in names.items() if count > 1]:
            raise ValueError(f"two terms are named {twice[0]!r}; set the name of one of them")
        return self

    def every_term(self) -> tuple[RewardTerm, ...]:
        return self.terms

    @property
    def answer_timeout_s(self) -> float:
        return self.timeout_s


class PythonReward(OwnFunction, _Summed):
    """A function of yours: short for one term of that kind."""

    kind: Literal["python"] = "python"

    def every_term(self) -> tuple[RewardTerm, ...]:
        own = {name: getattr(self, name) for name in OwnFunction.model_fields}
        return (PythonTerm(**own),)


class HttpReward(OwnServer, _Summed):
    """A server of yours: short for one term of that kind."""

    kind: Literal["http"] = "http"

    def every_term(self) -> tuple[RewardTerm, ...]:
        own = {name: getattr(self, name) for name in OwnServer.model_fields}
        return (HttpTerm(**own),)


SummedReward = TermsReward | PythonReward | HttpReward
RewardSettings = Annotated[
    IntegerReward
    | MathReward
    | ChoiceReward
    | TermsReward
    | PythonReward
    | HttpReward
    | EnvironmentReward,
    Field(discriminator="kind"),
]
