"""What k samples of each problem say: Avg@k with its errors, pass@j and maj@k. No torch."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

from dgpo_cli.types import Evaluation, ProblemResult, Verdict


class ProblemSamples(NamedTuple):
    """The k judged samples of one problem; lengths are completion tokens."""

    id: str
    answer: str
    verdicts: Sequence[Verdict]
    lengths: Sequence[int]


def avg_at_k(correct: Sequence[int], *, k: int) -> float:
    """Mean over problems of the share of k samples that are correct."""
    return sum(correct) / (k * len(correct)) if correct else math.nan


def stderr_rerun(correct: Sequence[int], *, k: int) -> float:
    """Standard error of Avg@k over reruns with the same problems; NaN for k = 1.

    Each problem's own p(1 - p) / (k - 1) is the unbiased variance of its mean.
    """
    if k < 2 or not correct:
        return math.nan
    variance = sum(Fraction(c * (k - c), k * k * (k - 1)) for c in correct)
    return math.sqrt(variance) / len(correct)


def stderr_problems(correct: Sequence[int], *, k: int) -> float:
    """Standard error of Avg@k over problems drawn anew; NaN for a single problem.

    The problems' means are the independent observations, so samples of one problem are taken
    together; the error of a rerun is contained in it.
    """
    n = len(correct)
    if n < 2:
        return math.nan
    total = sum(correct)
    # sum (c - total/n)^2 = (n sum c^2 - total^2) / n, exact in integers
    spread = Fraction(n * sum(c * c for c in correct) - total * total, n)
    return math.sqrt(spread / ((n - 1) * n * k * k))


def pass_at(j: int, *, correct: int, k: int) -> float:
    """Unbiased chance that at least one of j samples is correct, from `correct` of k.

    1 - C(k - correct, j) / C(k, j), in exact integers. Raises ValueError unless 1 <= j <= k.
    Source: Chen et al., arXiv 2107.03374.
    """
    if not 1 <= j <= k:
        raise ValueError(f"pass@{j} needs between 1 and k={k} samples")
    return float(1 - Fraction(math.comb(k - correct, j), math.comb(k, j)))


def majority_correct(verdicts: Sequence[Verdict]) -> float:
    """Chance that the most frequent answer of these samples is correct; ties drawn evenly.

    Answers are the same when their extracted texts are, apart from white space and, for
    integers, sign and leading zeros. Samples without an answer do not vote; without any vote it
    is 0. An answer is correct when a sample that gives it was judged correct.
    """
    votes = Counter(_normalised(v.extracted) for v in verdicts if v.extracted is not None)
    if not votes:
        return 0.0
    right = {
        _normalised(v.extracted)
        for v in verdicts
        if v.extracted is not None and v.outcome == "correct"
    }
    most = max(votes.values())
    tied = [answer for answer, count in votes.items() if count == most]
    return sum(answer in right for answer in tied) / len(tied)


def _normalised(answer: str) -> str:
    text = " ".join(answer.split())
    digits = text[1:] if text[:1] in ("+", "-") else text
    if not (digits.isascii() and digits.isdigit()):
        return text
    digits = digits.lstrip("0") or "0"
    return f"-{digits}" if text[0] == "-" and digits != "0" else digits


def pass_levels(k: int) -> tuple[int, ...]:
    """The j for which pass@j is reported: powers of two up to k, and k."""
    powers = [2**exponent for exponent in range(k.bit_length())]
    return tuple(powers if powers[-1] == k else [*powers, k])


def summarise(
    bench: str, problems: Sequence[tuple[str, str, Sequence[Verdict], Sequence[int]]]
) -> Evaluation:
    """Turn each problem's (id, answer, verdicts, lengths in tokens) into the report of a benchmark.

    Raises ValueError without problems, or unless each has the same number of samples, at least 1.
    """
    samples = [ProblemSamples(*problem) for problem in problems]
    sizes = {len(p.verdicts) for p in samples} | {len(p.lengths) for p in samples}
    if len(sizes) != 1 or 0 in sizes:
        raise ValueError(f"{bench}: needs problems with equally many samples, found {sizes or 0}")
    k, n = sizes.pop(), len(samples)
    outcomes = Counter(verdict.outcome for p in samples for verdict in p.verdicts)
    correct = [sum(v.outcome == "correct" for v in p.verdicts) for p in samples]
    return Evaluation(
        bench=bench,
        k=k,
        n_problems=n,
        avg_at_k=avg_at_k(correct, k=k),
        stderr_rerun=stderr_rerun(correct, k=k),
        stderr_problems=stderr_problems(correct, k=k),
        pass_at_k={
            j: math.fsum(pass_at(j, correct=c, k=k) for c in correct) / n for j in pass_levels(k)
        },
        maj_at_k=math.fsum(majority_correct(p.verdicts) for p in samples) / n,
        truncated=outcomes["truncated"] / (n * k),
        no_answer=outcomes["no_answer"] / (n * k),
        mean_tokens=sum(sum(p.lengths) for p in samples) / (n * k),
        problems=tuple(
            ProblemResult(id=p.id, answer=p.answer, correct=c)
            for p, c in zip(samples, correct, strict=True)
        ),
    )
