"""Metrics of a scored rollout: rewards, outcomes, groups without signal, lengths."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence

from dgpo_cli.core.types import OUTCOMES, ScoredGroup, StepMetrics


def rollout_metrics(groups: Sequence[ScoredGroup]) -> StepMetrics:
    """Summarise a rollout; shares are of completions, or of groups where the name says so.

    A group carries signal when its advantages are not all zero.
    """
    verdicts = [verdict for group in groups for verdict in group.verdicts]
    completions = [completion for group in groups for completion in group.completions]
    rewards = [verdict.reward for verdict in verdicts]
    lengths = [len(completion.token_ids) for completion in completions]
    outcomes = Counter(verdict.outcome for verdict in verdicts)
    right = [sum(v.outcome == "correct" for v in group.verdicts) for group in groups]
    cut = sum(completion.finish_reason == "length" for completion in completions)
    return {
        "reward/mean": statistics.fmean(rewards),
        "reward/std": statistics.pstdev(rewards),
        **{f"outcome/{name}": outcomes[name] / len(verdicts) for name in OUTCOMES},
        "groups/no_signal": sum(not g.has_signal for g in groups) / len(groups),
        "groups/all_correct": sum(n == len(g.verdicts) for n, g in zip(right, groups, strict=True))
        / len(groups),
        "groups/none_correct": sum(n == 0 for n in right) / len(groups),
        "completion/length_mean": statistics.fmean(lengths),
        "completion/length_min": float(min(lengths)),
        "completion/length_p90": _quantile(lengths, 0.9),
        "completion/length_max": float(max(lengths)),
        "completion/cut": cut / len(completions),
        "completion/tokens": float(sum(lengths)),
    }


def _quantile(values: Sequence[int], level: float) -> float:
    """Return the quantile, interpolated between the neighbouring values."""
    ordered = sorted(values)
    place = level * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])
