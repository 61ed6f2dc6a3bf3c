"""Makes the report of an evaluation from stored samples. Needs no model and no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dgpo_cli.core.types import Card, Disagreement, Evaluation, Price
from dgpo_cli.evals.samples import Key, Sample
from dgpo_cli.stats.estimators import ProblemSamples, summarise

_SURE = 4.0  # standard errors
_MATTERS = 0.01  # share of the samples: less does not change a standard error of one digit
_UNKNOWN = ("timeout", "crash", "error")  # outcomes that say nothing about the answer


def report_of(
    samples: Sequence[Sample],
    *,
    card: Card,
    k: int,
    ids: Sequence[str],
    second_opinion: bool,
    sampled_tokens: int,
    sampling_s: float,
    price: Price | None = None,
) -> Evaluation:
    """Return the report over samples 0 to k - 1 of the problems `ids`, which must all exist.

    second_opinion: list the samples on which the math checker disagrees.
    """
    found: dict[Key, Sample] = {sample.key: sample for sample in samples}
    chosen = [[found[name, index] for index in range(k)] for name in ids]
    return summarise(
        str(card.protocol["bench"]),
        [
            ProblemSamples(
                name,
                own[0].answer,
                [sample.verdict for sample in own],
                [sample.tokens for sample in own],
            )
            for name, own in zip(ids, chosen, strict=True)
        ],
        sampled_tokens=sampled_tokens,
        sampling_s=sampling_s,
        duplicates=duplicates(chosen),
        odd_duplicates=are_odd(
            chosen, top_p=card.protocol.get("top_p"), top_k=card.protocol.get("top_k")
        ),
        disagreements=disagreements(chosen) if second_opinion else [],
        prompt_tokens=prompt_tokens([sample for own in chosen for sample in own]),
        cost=cost_of([sample for own in chosen for sample in own], price),
        greedy=True if card.protocol.get("temperature") == 0 else None,
        stop_when=card.protocol.get("stop_when"),
    )


def prompt_tokens(samples: Sequence[Sample]) -> int | None:
    """Return the prompt tokens of the samples; None if an endpoint did not count them all."""
    known = [each.prompt_tokens for each in samples if each.prompt_tokens is not None]
    return sum(known) if len(known) == len(samples) else None


def cost_of(samples: Sequence[Sample], price: Price | None) -> float | None:
    """Return what the samples cost; None if the price, or the number of some tokens, is unknown."""
    prompt = prompt_tokens(samples)
    lengths = [each.tokens for each in samples if each.tokens is not None]
    if price is None or prompt is None or len(lengths) < len(samples):
        return None
    return price.of(prompt=prompt, completion=sum(lengths))


def duplicates(problems: Sequence[Sequence[Sample]]) -> int:
    """Return how many samples have the token ids of an earlier one of the same problem."""
    return sum(len(own) - len({sample.fingerprint for sample in own}) for own in problems)


def are_odd(problems: Sequence[Sequence[Sample]], *, top_p: object, top_k: object) -> bool:
    """Return whether samples repeat each other more often than independent ones would.

    k draws find a text of probability p with chance 1 - (1 - p)^k. The mean of (1 - (1 - p)^k) / p
    over the samples estimates how many different texts k independent samples find. It is compared
    with the number found, allowing for the errors of both. p is the sampler's: of the tokens that
    top_p keeps, or of all, as `hf` gave it in earlier versions. p / top_p^tokens, which is used, is
    at least the first. Nothing is odd if p is unknown or top_k is set.
    """
    if top_k != 0 or not isinstance(top_p, int | float):
        return False
    missing, variance = 0.0, 1.0  # one repetition, or two, prove nothing
    for own in problems:
        if any(sample.logprob is None or sample.tokens is None for sample in own):
            return False
        ways = [_texts_for_one(sample, k=len(own), top_p=top_p) for sample in own]
        expected = math.fsum(ways) / len(ways)
        missing += expected - len({sample.fingerprint for sample in own})
        # Texts found and repetitions, which add up to k, both vary by less than a Poisson count.
        variance += min(expected, len(own) - expected)
        variance += math.fsum((way - expected) ** 2 for way in ways) / len(ways) ** 2
    total = sum(map(len, problems))
    return missing > _SURE * math.sqrt(variance) and missing > _MATTERS * total


def _texts_for_one(sample: Sample, *, k: int, top_p: float) -> float:
    """Return (1 - (1 - p)^k) / p: k for p = 0, 1 for p = 1."""
    assert sample.logprob is not None and sample.tokens is not None
    chance = math.exp(min(0.0, sample.logprob - sample.tokens * math.log(top_p)))
    if chance >= 1.0:
        return 1.0
    return -math.expm1(k * math.log1p(-chance)) / chance if chance > 0.0 else float(k)


def disagreements(problems: Sequence[Sequence[Sample]]) -> list[Disagreement]:
    """Return the samples that only one of the two opinions calls correct."""
    return [
        Disagreement(
            problem_id=sample.prompt_id,
            index=sample.index,
            gold=sample.answer,
            extracted=sample.verdict.extracted,
            outcome=sample.verdict.outcome,
            second=str(sample.second),
        )
        for own in problems
        for sample in own
        if is_disputed(sample)
    ]


def is_disputed(sample: Sample) -> bool:
    """Return whether only one of the two opinions calls a sample correct."""
    first, second = sample.verdict.outcome, sample.second
    if second is None or second in _UNKNOWN or first in _UNKNOWN:
        return False
    return (first == "correct") != (second == "correct")
