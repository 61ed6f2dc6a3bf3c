"""From stored samples to the report of an evaluation. No model, no torch."""

from __future__ import annotations

from collections.abc import Sequence

from dgpo_cli.algo.estimators import ProblemSamples, summarise
from dgpo_cli.types import Card, Disagreement, Evaluation
from dgpo_cli.workflows.samples import Key, Sample

_UNKNOWN = ("timeout", "crash")  # outcomes that say nothing of the answer


def report_of(
    samples: Sequence[Sample],
    *,
    card: Card,
    k: int,
    ids: Sequence[str],
    second_opinion: bool,
    sampled_tokens: int,
    sampling_s: float,
) -> Evaluation:
    """Return the report over samples 0 to k - 1 of the problems `ids`, which must all be there.

    second_opinion: list where the math checker does not agree.
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
        disagreements=disagreements(chosen) if second_opinion else [],
    )


def duplicates(problems: Sequence[Sequence[Sample]]) -> int:
    """Return how many samples have the token ids of an earlier one of the same problem."""
    return sum(len(own) - len({sample.fingerprint for sample in own}) for own in problems)


def disagreements(problems: Sequence[Sequence[Sample]]) -> list[Disagreement]:
    """Return the samples that one of the two opinions takes for correct and the other does not."""
    return [
        Disagreement(
            problem_id=sample.prompt_id,
            index=sample.index,
            gold=sample.answer,
            extracted=sample.verdict.extracted,
            outcome=sample.verdict.outcome,
            second=sample.second,
        )
        for own in problems
        for sample in own
        if sample.second is not None
        and sample.second not in _UNKNOWN
        and sample.verdict.outcome not in _UNKNOWN
        and (sample.second == "correct") != (sample.verdict.outcome == "correct")
    ]
