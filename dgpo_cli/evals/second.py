"""The second opinion on stored samples: the math checker's, asked once and stored in the line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from dgpo_cli.core.events import Observer
from dgpo_cli.core.types import Outcome
from dgpo_cli.evals.samples import Sample, SampleFile, item_of, verdict_fields
from dgpo_cli.rewards.settings import IntegerReward, RewardSettings


def ask_again(
    file: SampleFile,
    samples: Sequence[Sample],
    *,
    k: int,
    reward: RewardSettings,
    observer: Observer,
) -> list[Sample]:
    """Ask the math checker about the samples 0 to k - 1 that it has not seen; return all, in order.

    Only if the checker is for integers: otherwise it is the first opinion.
    samples: those of the file, in its order.
    """
    unseen = [n for n, sample in enumerate(samples) if sample.index < k and sample.second is None]
    if not isinstance(reward, IntegerReward) or not unseen:
        return list(samples)
    found = _opinions(file, samples, unseen, reward=reward, observer=observer)
    judged = [
        replace(sample, second=found[n]) if n in found else sample
        for n, sample in enumerate(samples)
    ]
    file.judge_again(
        {
            n: verdict_fields(
                judged[n].verdict,
                checker=judged[n].checker,
                second=found[n],
                starts_in_thought=judged[n].starts_in_thought,
            )
            for n in found
        }
    )
    return judged


def _opinions(
    file: SampleFile,
    samples: Sequence[Sample],
    unseen: Sequence[int],
    *,
    reward: IntegerReward,
    observer: Observer,
) -> dict[int, Outcome]:
    """Return the second outcome of the samples of these numbers."""
    from dgpo_cli.rewards.second_opinion import second_opinions  # patterns of all answers: slow

    wanted = set(unseen)
    items = {number: item_of(line) for number, line in enumerate(file.lines()) if number in wanted}
    outcomes = second_opinions(
        list(items.values()),
        verdicts=[samples[number].verdict for number in items],
        where=reward.extract,
        timeout_s=reward.timeout_s,
        workers=reward.workers,
        observer=observer,
    )
    return dict(zip(items, outcomes, strict=True))
