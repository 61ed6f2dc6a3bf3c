"""The result of `dgpo eval`, and its card."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer

from dgpo_cli.core.schema import Count, Flag, Number, Object, Real, Text
from dgpo_cli.core.types.rollout import Outcome


@dataclass(frozen=True, slots=True)
class Card:
    """Everything that affects the score of an evaluation, as JSON values.

    protocol: benchmark and data set, prompt, sampling, checker: equal for comparable scores.
    subject: model, revision, adapter, tokenizer, chat template, prompt ids: what is compared.
    environment: backend, library versions, hardware.
    """

    protocol: Object
    subject: Object
    environment: Object

    @property
    def key(self) -> str:
        """SHA-256 of the whole card, in hex; evaluations with the same key may share samples."""
        text = json.dumps(asdict(self), sort_keys=True, ensure_ascii=True, allow_nan=False)
        return hashlib.sha256(text.encode("ascii")).hexdigest()


@dataclass(frozen=True, slots=True)
class Interval:
    """A 95% confidence interval, or a bracket between two ways of counting."""

    low: Real
    high: Real

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2


def _from_ends(value: Any) -> Any:
    if isinstance(value, Interval):
        return value
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError("must be [low, high]")
    return {"low": value[0], "high": value[1]}


# In some files an interval is a list of its ends, and outcomes are letters, one a sample.
Ends = Annotated[
    Interval,
    BeforeValidator(_from_ends),
    PlainSerializer(lambda interval: [interval.low, interval.high], return_type=list[Real]),
]
LETTERS: dict[Outcome, str] = {
    "correct": "c",
    "wrong": "w",
    "no_answer": "n",
    "truncated": "t",
    "out_of_range": "o",
    "timeout": "d",
    "crash": "x",
    "scored": "s",
    "error": "e",
}
BY_LETTER: dict[str, Outcome] = {letter: outcome for outcome, letter in LETTERS.items()}


def _outcome(letter: str) -> str:
    return BY_LETTER.get(letter, letter)


Lettered = Annotated[
    tuple[Outcome, ...],
    BeforeValidator(lambda value: list(map(_outcome, value)) if type(value) is str else value),
    PlainSerializer(lambda outcomes: "".join(map(LETTERS.__getitem__, outcomes)), return_type=str),
]


@dataclass(frozen=True, slots=True)
class LengthSummary:
    """Completion tokens of `count` completions; everything else is NaN where there are none.

    p10, p50, p90: quantiles, interpolated between the neighbouring lengths.
    """

    count: Count
    mean: Real
    p10: Real
    p50: Real
    p90: Real
    max: Real


@dataclass(frozen=True, slots=True)
class Disagreement:
    """A sample on which the second opinion differs from the verdict; it settles nothing.

    index: the sample's number within its problem, from 0. outcome: what was counted.
    second: the outcome of the second opinion. gold: None where answers are not shown.
    """

    problem_id: Text
    index: Count
    gold: Text | None
    extracted: Text | None
    outcome: Outcome
    second: Text


@dataclass(frozen=True, slots=True)
class Price:
    """What an endpoint costs, in any currency, for a million tokens of each kind."""

    prompt: Number
    completion: Number

    def of(self, *, prompt: int, completion: int) -> float:
        """Return the cost of so many tokens."""
        return (prompt * self.prompt + completion * self.completion) / 1e6


@dataclass(frozen=True, slots=True)
class ProblemResult:
    """The k samples of one problem of a benchmark.

    answer: None where answers are not shown.
    majority: chance that the most frequent answer is correct, ties drawn evenly.
    outcomes, lengths: one per sample, in the order of the samples; lengths in tokens, None where
        an endpoint did not count them.
    """

    id: Text
    answer: Text | None
    correct: Count
    majority: Number
    outcomes: Lettered
    lengths: tuple[Count | None, ...]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What `dgpo eval` reports; all shares and scores are between 0 and 1, NaN is unknown.

    stderr_rerun, rerun_95: error over reruns with the same problems.
    stderr_problems, problems_95: error over other problems of the kind, clustered by problem.
    pass_at_k: unbiased pass@j for every j from 1 to k.
    unjudged: share of samples whose check ran into its deadline or crashed.
    tokens_per_s: of new samples; NaN if all were stored.
    duplicates: samples that repeat an earlier one of the same problem token for token.
    odd_duplicates: more than independent samples would have; False if unknown.
    prompt_tokens, cost: of all samples, where an endpoint counted them and the price is known.
    greedy: True if the likeliest token was taken each time: the error over reruns is then NaN.
    stop_when: half the width of rerun_95 at which sampling was to stop, if it was to.
    """

    bench: Text
    k: Count
    n_problems: Count
    avg_at_k: Number
    stderr_rerun: Real
    rerun_95: Ends
    stderr_problems: Real
    problems_95: Ends
    pass_at_k: dict[int, Number]
    maj_at_k: Number
    truncated: Number
    no_answer: Number
    out_of_range: Number
    unjudged: Number
    lengths: LengthSummary
    lengths_right: LengthSummary
    lengths_wrong: LengthSummary
    tokens_per_s: Real
    duplicates: Count
    odd_duplicates: Flag = field(default=False, kw_only=True)
    disagreements: tuple[Disagreement, ...]
    problems: tuple[ProblemResult, ...]
    prompt_tokens: Count | None = field(default=None, kw_only=True)
    cost: Number | None = field(default=None, kw_only=True)
    greedy: Flag | None = field(default=None, kw_only=True)
    stop_when: Number | None = field(default=None, kw_only=True)

    def without_answers(self) -> Evaluation:
        """Return the report without expected answers, for what may end in a log."""
        return replace(
            self,
            disagreements=tuple(replace(each, gold=None) for each in self.disagreements),
            problems=tuple(replace(each, answer=None) for each in self.problems),
        )

    @property
    def if_truncated(self) -> Interval:
        """Avg@k with the truncated samples counted as all wrong, and as all right."""
        return Interval(self.avg_at_k, self.avg_at_k + self.truncated)
