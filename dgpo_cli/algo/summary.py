"""The metrics of a step: rewards and lengths of its rollout, and where its credit goes."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

from dgpo_cli.algo.credit.target import IS_NOISE, is_noise
from dgpo_cli.core.types import CHECKED_OUTCOMES, OUTCOMES, ScoredGroup, StepMetrics

if TYPE_CHECKING:
    from torch import Tensor

    from dgpo_cli.core.types import Completion, Credit, StepMetrics, TokenStats, Verdict


LARGE_MOVE = 0.15  # of the expected reward, by one token
QUANTILES: Mapping[str, float] = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}


def effective_fractions(weights: Tensor, mask: Tensor) -> Tensor:
    """Return (sum w)^2 / (T sum w^2) of each row, float32 or better [B].

    1: every token counts alike. 1/T: one token has it all. 0 for a row without tokens.
    weights: [B, T]; mask: bool [B, T].
    """
    from dgpo_cli.algo.masked import masked_sum

    total = masked_sum(weights, mask, dim=1)
    squares = masked_sum(weights * weights, mask, dim=1) * mask.sum(dim=1)
    return total * total / squares.clamp(min=1e-30)


def credit_metrics(
    stats: TokenStats,
    credit: Credit,
    mask: Tensor,  # bool [B, T]
    *,
    vocab_size: int,
    has_reference: bool = True,
    rows: Tensor | None = None,  # bool [B]
    weighed: Tensor | None = None,  # bool [B]
) -> StepMetrics:
    """Return the metrics of a whole batch, over its completion tokens.

    Entropy and gate are over all of them; the distance over those of `rows`, the rows that the
    reference ran on (None: all); scores and weights over those of `rows` that the rule weighs,
    `weighed` (None: all). Over no rows these are NaN.

    Without a reference (`has_reference` False), policy/hellinger_sq_* is left out.
    """
    from dgpo_cli.algo.credit.dgpo import entropy_gate
    from dgpo_cli.algo.masked import masked_mean

    measured = mask if rows is None else mask & rows.unsqueeze(1)
    credited = measured if weighed is None else measured & weighed.unsqueeze(1)
    fractions = effective_fractions(credit.weights, mask)
    metrics = {
        "credit/effective_fraction": float(masked_mean(fractions, credited.any(dim=1))),
        "policy/entropy": float(masked_mean(stats.entropy, mask)),
    }
    metrics |= _spread(credit.weights, credited)
    metrics |= _tau_metrics(credit, credited.any(dim=1))
    metrics |= _quantiles("credit/weight", credit.weights, credited)
    metrics |= _quantiles("credit/score", credit.scores, credited)
    if stats.value_moves is not None:
        large = (stats.value_moves.abs() > LARGE_MOVE).float()
        metrics["values/moved"] = float(masked_mean(large, credited))
    gate = entropy_gate(stats.entropy, vocab_size=vocab_size)
    metrics |= _quantiles("policy/gate", gate, mask)
    if has_reference:
        metrics["policy/hellinger_sq_mean"] = float(masked_mean(stats.hellinger_sq, measured))
        metrics |= _quantiles("policy/hellinger_sq", stats.hellinger_sq, measured)
        if stats.noise_floor is not None:
            most = metrics["policy/hellinger_sq_p99"]
            metrics[IS_NOISE] = float(is_noise(most, noise_floor=stats.noise_floor))
    parts = (("credit/", credited), ("values/", credited), ("policy/hellinger_sq", measured))
    for prefix, counted in parts:
        if not bool(counted.any()):
            metrics |= {name: math.nan for name in metrics if name.startswith(prefix)}
    return metrics


def _spread(weights: Tensor, mask: Tensor) -> StepMetrics:
    """Return the coefficient of variation of all weights, whose mean is 1."""
    from dgpo_cli.algo.masked import masked_mean

    return {"credit/weight_cv": float(masked_mean((weights - 1.0).square(), mask).sqrt())}


def _tau_metrics(credit: Credit, rows: Tensor) -> StepMetrics:
    """Return the taus found for `rows` (bool [B]), and the share that each limit held.

    Rows where tau makes no difference have none, and are held by ties.
    """
    from dgpo_cli.algo.masked import masked_mean, masked_quantiles
    from dgpo_cli.core.types import LIMITS

    if credit.tau is None or credit.limit is None:
        return {}
    known = rows & credit.tau.isfinite()
    found = masked_quantiles(credit.tau, known, levels=(0.0, 0.5, 1.0))
    found = found if bool(known.any()) else [math.nan] * 3
    taus = dict(zip(("credit/tau_min", "credit/tau_p50", "credit/tau_max"), found, strict=True))
    held = {
        f"credit/held_by_{name}": float(masked_mean((credit.limit == code).float(), rows))
        for code, name in enumerate(LIMITS)
        if name != "none"
    }
    return taus | held


def _quantiles(name: str, values: Tensor, mask: Tensor) -> StepMetrics:
    from dgpo_cli.algo.masked import masked_quantiles

    found = masked_quantiles(values, mask, levels=tuple(QUANTILES.values()))
    return {f"{name}_{suffix}": value for suffix, value in zip(QUANTILES, found, strict=True)}


def rollout_metrics(
    groups: Sequence[ScoredGroup], *, weights: Mapping[str, float] = MappingProxyType({})
) -> StepMetrics:
    """Summarise a rollout; shares are of completions, or of groups for groups/*.

    weights: of the reward's terms, by name. Unscored completions have no part in the rewards.
    """
    verdicts = [verdict for group in groups for verdict in group.verdicts]
    completions = [completion for group in groups for completion in group.completions]
    rewards = [verdict.reward for verdict in verdicts if verdict.is_scored]
    lengths = [completion.length for completion in completions]
    outcomes = Counter(verdict.outcome for verdict in verdicts)
    right = [sum(v.outcome == "correct" for v in group.verdicts) for group in groups]
    cut = sum(completion.finish_reason == "length" for completion in completions)
    return {
        **_spread_of("reward/", rewards),
        **_term_metrics(groups, weights=weights),
        **{
            f"outcome/{name}": outcomes[name] / len(verdicts)
            for name in (OUTCOMES if weights or _is_scored(verdicts) else CHECKED_OUTCOMES)
        },
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
        **_turn_metrics(completions),
        **_source_metrics(groups),
    }


def _source_metrics(groups: Sequence[ScoredGroup]) -> StepMetrics:
    """Return share of the groups, mean reward and share right of each source of a mixture."""
    found: StepMetrics = {}
    for name in sorted({group.prompt.part for group in groups} - {""}):
        own = [group for group in groups if group.prompt.part == name]
        verdicts = [verdict for group in own for verdict in group.verdicts]
        rewards = [verdict.reward for verdict in verdicts if verdict.is_scored]
        right = sum(verdict.outcome == "correct" for verdict in verdicts)
        found[f"source/{name}_groups"] = len(own) / len(groups)
        found[f"source/{name}_reward"] = statistics.fmean(rewards) if rewards else math.nan
        found[f"source/{name}_correct"] = right / len(verdicts)
    return found


def _turn_metrics(completions: Sequence[Completion]) -> StepMetrics:
    """Return turns a completion, and the share of its tokens that the environment wrote; nothing
    where no completion has several turns."""
    turns = [len(completion.environment) + 1 for completion in completions]
    if max(turns) == 1:
        return {}
    shares = [1.0 - each.length / len(each.token_ids) for each in completions]
    return {
        "env/turns_mean": statistics.fmean(turns),
        "env/turns_max": float(max(turns)),
        "env/tokens_share": statistics.fmean(shares),
    }


def _spread_of(prefix: str, values: Sequence[float]) -> StepMetrics:
    """Return mean and standard deviation; NaN of no values."""
    return {
        f"{prefix}mean": statistics.fmean(values) if values else math.nan,
        f"{prefix}std": statistics.pstdev(values) if values else math.nan,
    }


def _term_metrics(groups: Sequence[ScoredGroup], *, weights: Mapping[str, float]) -> StepMetrics:
    """Return mean, spread and reward/<term>_decides of every term of the reward.

    A term decides a group if its weighted values vary most in it: it has the largest part in the
    order of the group's rewards. Terms that vary equally share the group.
    """
    verdicts = [verdict for group in groups for verdict in group.verdicts]
    if not weights and not _is_scored(verdicts):
        return {}
    unscored = sum(not verdict.is_scored for verdict in verdicts)
    metrics = {"reward/unscored": unscored / len(verdicts)}
    if not weights:
        return metrics
    decided = dict.fromkeys(weights, 0.0)
    for group in groups:
        for name, share in _deciding(group, weights=weights).items():
            decided[name] += share
    for name in weights:
        values = [dict(verdict.terms).get(name, math.nan) for verdict in verdicts]
        known = [value for value in values if not math.isnan(value)]
        metrics |= _spread_of(f"reward/{name}_", known)
        metrics[f"reward/{name}_decides"] = decided[name] / len(groups)
    return metrics


def _is_scored(verdicts: Sequence[Verdict]) -> bool:
    """Whether other than a checker of answers made some of these."""
    return any(v.outcome in ("scored", "error") or not v.is_scored for v in verdicts)


def _deciding(group: ScoredGroup, *, weights: Mapping[str, float]) -> Mapping[str, float]:
    """Return the terms that decide a group, with their shares of it; none of equal rewards."""
    rows = [dict(verdict.terms) for verdict in group.verdicts if verdict.is_scored]
    spreads: dict[str, float] = {}
    for name, weight in weights.items():
        # A term that does not apply adds nothing, as 0 does.
        values = [weight * (0.0 if math.isnan(row[name]) else row[name]) for row in rows]
        spreads[name] = statistics.pstdev(values) if values else 0.0
    most = max(spreads.values())
    first = [name for name, spread in spreads.items() if spread == most and most > 0]
    return dict.fromkeys(first, 1 / len(first)) if first else {}


def _quantile(values: Sequence[int], level: float) -> float:
    """Return the quantile, interpolated between the neighbouring values."""
    ordered = sorted(values)
    place = level * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])
