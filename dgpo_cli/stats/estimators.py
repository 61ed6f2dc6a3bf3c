"""Estimates from k samples of each problem: Avg@k with its errors, pass@j, maj@k. No torch."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

from dgpo_cli.core.codec import filled
from dgpo_cli.core.types import (
    Disagreement,
    Evaluation,
    Interval,
    LengthSummary,
    ProblemResult,
    Verdict,
)
from dgpo_cli.stats.intervals import problems_interval, rerun_interval


class ProblemSamples(NamedTuple):
    """The k judged samples of one problem; lengths are completion tokens, None where unknown."""

    id: str
    answer: str
    verdicts: Sequence[Verdict]
    lengths: Sequence[int | None]


def avg_at_k(correct: Sequence[int], *, k: int) -> float:
    """Return the mean over problems of the share of correct samples."""
    return sum(correct) / (k * len(correct)) if correct else math.nan


def stderr_rerun(correct: Sequence[int], *, k: int) -> float:
    """Return the standard error of Avg@k over reruns of the same problems; NaN for k = 1.

    Each problem's p(1 - p) / (k - 1) is the unbiased variance of its mean.
    """
    if k < 2 or not correct:
        return math.nan
    variance = sum(Fraction(c * (k - c), k * k * (k - 1)) for c in correct)
    return math.sqrt(variance) / len(correct)


def stderr_problems(correct: Sequence[int], *, k: int) -> float:
    """Return the standard error of Avg@k over other problems; NaN for a single problem.

    The independent observations are the problems' means; the error of a rerun is included.
    """
    n = len(correct)
    if n < 2:
        return math.nan
    total = sum(correct)
    # sum (c - total/n)^2 = (n sum c^2 - total^2) / n, exact in integers
    spread = Fraction(n * sum(c * c for c in correct) - total * total, n)
    return math.sqrt(spread / ((n - 1) * n * k * k))


def pass_at(j: int, *, correct: int, k: int) -> float:
    """Return the unbiased chance that at least one of j samples is correct, from `correct` of k.

    1 - C(k - correct, j) / C(k, j), in exact integers. Raises ValueError unless 1 <= j <= k.
    Source: Chen et al., arXiv 2107.03374.
    """
    if not 1 <= j <= k:
        raise ValueError(f"pass@{j} needs between 1 and k={k} samples")
    draws = math.comb(k, j)
    return (draws - math.comb(k - correct, j)) / draws  # integers: rounded once


def majority_correct(verdicts: Sequence[Verdict]) -> float:
    """Return the chance that the most frequent answer is correct, ties averaged.

    Answers are equal if their extracted texts are, up to white space and, for integers, plus sign
    and leading zeros; all correct ones are equal. Samples without an answer do not vote; without
    votes the result is 0.
    """
    answers = [(_normalised(v.extracted), v.outcome) for v in verdicts if v.extracted is not None]
    right = {answer for answer, outcome in answers if outcome == "correct"}
    votes = Counter(None if answer in right else answer for answer, _ in answers)
    if not votes:
        return 0.0
    most = max(votes.values())
    tied = [answer for answer, count in votes.items() if count == most]
    return (None in tied) / len(tied)


def _normalised(answer: str) -> str:
    text = " ".join(answer.split())
    digits = text[1:] if text[:1] in ("+", "-") else text
    if not (digits.isascii() and digits.isdigit()):
        return text
    digits = digits.lstrip("0") or "0"
    return f"-{digits}" if text[0] == "-" and digits != "0" else digits


def pass_curve(correct: Sequence[int], *, k: int) -> dict[int, float]:
    """Return the mean over problems of the unbiased pass@j, for every j from 1 to k."""
    counts = Counter(correct)
    return {
        j: math.fsum(pass_at(j, correct=c, k=k) * many for c, many in counts.items()) / len(correct)
        for j in range(1, k + 1)
    }


@dataclass(frozen=True, slots=True)
class Estimate:
    """What k samples of each of n problems say; shares between 0 and 1, NaN is unknown.

    stderr_rerun, rerun_95: error over reruns with the same problems.
    stderr_problems, problems_95: error over problems drawn anew, clustered by problem.
    pass_at_k: unbiased pass@j for every j from 1 to k.
    """

    k: int
    n_problems: int
    avg_at_k: float
    stderr_rerun: float
    rerun_95: Interval
    stderr_problems: float
    problems_95: Interval
    pass_at_k: dict[int, float]


def estimate(correct: Sequence[int], *, k: int) -> Estimate:
    """Estimate Avg@k and pass@j from the number of correct samples, of k, of each problem.

    Raises ValueError without problems, or where a number is not between 0 and k.
    Sources: `rerun_interval`, `problems_interval`, `pass_at`.

    Examples:
        >>> from dgpo_cli import estimate
        >>> found = estimate([8, 3, 0, 5], k=8)
        >>> f"{found.avg_at_k:.2f} +- {found.stderr_rerun:.2f}, pass@8 {found.pass_at_k[8]:.2f}"
        '0.50 +- 0.06, pass@8 0.75'
    """
    check_counts(correct, k=k)
    return Estimate(
        k=k,
        n_problems=len(correct),
        avg_at_k=avg_at_k(correct, k=k),
        stderr_rerun=stderr_rerun(correct, k=k),
        rerun_95=rerun_interval(correct, k=k),
        stderr_problems=stderr_problems(correct, k=k),
        problems_95=problems_interval(correct, k=k),
        pass_at_k=pass_curve(correct, k=k),
    )


def check_counts(correct: Sequence[int], *, k: int) -> None:
    """Raise ValueError without problems, or where a count is not between 0 and k."""
    if not correct or k < 1:
        raise ValueError(f"{len(correct)} problems, k={k}: needs at least one of each")
    wrong = next((c for c in correct if not 0 <= c <= k), None)
    if wrong is not None:
        raise ValueError(f"correct={wrong}: must be between 0 and k={k}")


def length_summary(lengths: Sequence[int]) -> LengthSummary:
    """Return mean, quantiles and maximum of lengths in tokens."""
    if not lengths:
        return LengthSummary(0, math.nan, math.nan, math.nan, math.nan, math.nan)
    ordered = sorted(lengths)
    return LengthSummary(
        count=len(ordered),
        mean=sum(ordered) / len(ordered),
        p10=_quantile(ordered, 1),
        p50=_quantile(ordered, 5),
        p90=_quantile(ordered, 9),
        max=float(ordered[-1]),
    )


def _quantile(ordered: Sequence[int], tenths: int) -> float:
    """Return the quantile of sorted values, interpolated linearly.

    Source: definition 7 of Hyndman and Fan, Am. Stat. 50 (1996) 361.
    """
    whole, rest = divmod((len(ordered) - 1) * tenths, 10)
    after = ordered[min(whole + 1, len(ordered) - 1)]
    return ordered[whole] + (after - ordered[whole]) * rest / 10


def summarise(
    bench: str,
    problems: Sequence[ProblemSamples],
    *,
    sampled_tokens: int = 0,
    sampling_s: float = 0.0,
    duplicates: int = 0,
    odd_duplicates: bool = False,
    disagreements: Sequence[Disagreement] = (),
    prompt_tokens: int | None = None,
    cost: float | None = None,
    greedy: bool | None = None,
    stop_when: float | None = None,
) -> Evaluation:
    """Evaluate a benchmark from the judged samples of its problems.

    sampled_tokens, sampling_s: completion tokens sampled now and the seconds it took; 0 if all
    samples existed before.
    prompt_tokens, cost: of all samples, if known. greedy, stop_when: see Evaluation.

    Raises ValueError without problems, or unless each has the same number of samples, at least 1.
    """
    sizes = {len(p.verdicts) for p in problems} | {len(p.lengths) for p in problems}
    if len(sizes) != 1 or 0 in sizes:
        raise ValueError(f"{bench}: needs problems with equally many samples, found {sizes or 0}")
    k, n = sizes.pop(), len(problems)
    results = tuple(map(_result, problems))
    correct = [result.correct for result in results]
    outcomes = Counter(outcome for result in results for outcome in result.outcomes)
    unjudged = outcomes["timeout"] + outcomes["crash"] + outcomes["error"]
    right, wrong = _lengths_by_verdict(results)
    # Decoded greedily again, every problem gets the same answer.
    unknown = {"stderr_rerun": math.nan, "rerun_95": Interval(math.nan, math.nan)}
    return filled(
        Evaluation,
        estimate(correct, k=k),
        **(unknown if greedy else {}),
        bench=bench,
        maj_at_k=math.fsum(result.majority for result in results) / n,
        truncated=outcomes["truncated"] / (n * k),
        no_answer=outcomes["no_answer"] / (n * k),
        out_of_range=outcomes["out_of_range"] / (n * k),
        unjudged=unjudged / (n * k),
        lengths=length_summary(right + wrong),
        lengths_right=length_summary(right),
        lengths_wrong=length_summary(wrong),
        tokens_per_s=sampled_tokens / sampling_s if sampled_tokens and sampling_s else math.nan,
        duplicates=duplicates,
        odd_duplicates=odd_duplicates,
        disagreements=tuple(disagreements),
        problems=results,
        prompt_tokens=prompt_tokens,
        cost=cost,
        greedy=greedy,
        stop_when=stop_when,
    )


def _result(problem: ProblemSamples) -> ProblemResult:
    outcomes = tuple(verdict.outcome for verdict in problem.verdicts)
    return ProblemResult(
        id=problem.id,
        answer=problem.answer,
        correct=outcomes.count("correct"),
        majority=majority_correct(problem.verdicts),
        outcomes=outcomes,
        lengths=tuple(problem.lengths),
    )


def _lengths_by_verdict(results: Sequence[ProblemResult]) -> tuple[list[int], list[int]]:
    """Return the known lengths of the correct samples, and of all others."""
    right: list[int] = []
    wrong: list[int] = []
    for result in results:
        for outcome, length in zip(result.outcomes, result.lengths, strict=True):
            if length is not None:
                (right if outcome == "correct" else wrong).append(length)
    return right, wrong
