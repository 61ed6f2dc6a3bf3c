"""What `dgpo eval` finds, and the card that says under what."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

from dgpo_cli.core.types.rollout import Outcome


@dataclass(frozen=True, slots=True)
class Card:
    """Everything that moves the score of an evaluation; each value is what JSON can hold.

    protocol: benchmark and data set, prompt, sampling, checker: what comparable scores share.
    subject: model, revision, adapter, tokenizer, chat template, prompt ids: what is compared.
    environment: backend, library versions, hardware.
    """

    protocol: dict[str, Any]
    subject: dict[str, Any]
    environment: dict[str, Any]

    @property
    def key(self) -> str:
        """SHA-256 of the whole card, in hex; evaluations with the same key may share samples."""
        text = json.dumps(asdict(self), sort_keys=True, ensure_ascii=True, allow_nan=False)
        return hashlib.sha256(text.encode("ascii")).hexdigest()


@dataclass(frozen=True, slots=True)
class Interval:
    """A 95% confidence interval, or a bracket between two ways of counting."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class LengthSummary:
    """Completion tokens of `count` completions; everything else is NaN where there are none.

    p10, p50, p90: quantiles, interpolated between the neighbouring lengths.
    """

    count: int
    mean: float
    p10: float
    p50: float
    p90: float
    max: float


@dataclass(frozen=True, slots=True)
class Disagreement:
    """A sample on which the second opinion differs from the verdict; it settles nothing.

    index: the sample's number within its problem, from 0. outcome: what was counted.
    second: the outcome of the second opinion.
    """

    problem_id: str
    index: int
    gold: str
    extracted: str | None
    outcome: Outcome
    second: str


@dataclass(frozen=True, slots=True)
class ProblemResult:
    """How the k samples of one problem of a benchmark ended.

    majority: chance that the most frequent answer is the right one, ties drawn evenly.
    outcomes, lengths: one per sample, in the order of the samples; lengths in tokens.
    """

    id: str
    answer: str
    correct: int
    majority: float
    outcomes: tuple[Outcome, ...]
    lengths: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What `dgpo eval` reports; all shares and scores are between 0 and 1, NaN is unknown.

    stderr_rerun, rerun_95: error over reruns with the same problems.
    stderr_problems, problems_95: error over problems drawn anew, clustered by problem.
    pass_at_k: unbiased pass@j for every j from 1 to k.
    unjudged: share of samples whose check ran into its deadline or crashed.
    tokens_per_s: of what was sampled now; NaN where all samples were there already.
    duplicates: samples that repeat an earlier one of the same problem token for token.
    odd_duplicates: there are more than independent samples would have; False where unknown.
    """

    bench: str
    k: int
    n_problems: int
    avg_at_k: float
    stderr_rerun: float
    rerun_95: Interval
    stderr_problems: float
    problems_95: Interval
    pass_at_k: dict[int, float]
    maj_at_k: float
    truncated: float
    no_answer: float
    out_of_range: float
    unjudged: float
    lengths: LengthSummary
    lengths_right: LengthSummary
    lengths_wrong: LengthSummary
    tokens_per_s: float
    duplicates: int
    odd_duplicates: bool
    disagreements: tuple[Disagreement, ...]
    problems: tuple[ProblemResult, ...]

    @property
    def if_truncated(self) -> Interval:
        """Avg@k with the truncated samples counted as all wrong, and as all right."""
        return Interval(self.avg_at_k, self.avg_at_k + self.truncated)
