"""Slow twins of scoring and updating: one completion at a time, in float64, without padding,
by the model's own logits. Nothing of the engine is used."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tests.algo import twins

Pair = tuple[list[int], list[int]]
Spans = list[tuple[int, int]]


def widened(model: Any) -> Any:
    """Return a float64 copy of a model; its experts run one by one, as no kernel takes float64."""
    twin = copy.deepcopy(model).double().eval()
    twin.config._experts_implementation = "eager"
    return twin


def completion_logits(model: Any, pair: Pair, *, temperature: float) -> Tensor:
    """Return float64 [T, V]: what predicts each completion token, over the temperature."""
    prompt, completion = pair
    logits = model(input_ids=torch.tensor([prompt + completion]), use_cache=False).logits[0]
    return logits[len(prompt) - 1 : -1] / temperature


def completion_logprobs(model: Any, pair: Pair, *, temperature: float) -> Tensor:
    """Return float64 [T] with gradient: logit of the chosen token less the log of the sum."""
    logits = completion_logits(model, pair, temperature=temperature)
    total = logits.exp().sum(dim=-1).log()
    return torch.stack([logits[t, token] - total[t] for t, token in enumerate(pair[1])])


@dataclass(frozen=True)
class TwinStats:
    """Lists of T floats of one completion."""

    logprobs: list[float]
    entropy: list[float]
    hellinger_sq: list[float]


@torch.no_grad()
def completion_stats(policy: Any, reference: Any, pair: Pair, *, temperature: float) -> TwinStats:
    mine = completion_logits(policy, pair, temperature=temperature).tolist()
    other = completion_logits(reference, pair, temperature=temperature).tolist()
    return TwinStats(
        logprobs=completion_logprobs(policy, pair, temperature=temperature).tolist(),
        entropy=[twins.entropy(row) for row in mine],
        hellinger_sq=[twins.hellinger_sq(p, q) for p, q in zip(mine, other, strict=True)],
    )


def own_tokens(length: int, spans: Spans) -> list[int]:
    """Return the places that no span covers."""
    return [t for t in range(length) if not any(a <= t < b for a, b in spans)]


@dataclass(frozen=True)
class TwinUpdate:
    """How a loss is made; the fields are those of ALGORITHM's symbols."""

    temperature: float
    tau: float
    kappa: float
    clip_low: float
    clip_high: float
    aggregation: str
    max_tokens: int
    kl: float = 0.0


def update_gradient(
    policy: Any,
    reference: Any,
    pairs: list[Pair],
    *,
    advantages: list[float],
    shifts: list[list[float]],
    rule: TwinUpdate,
    environment: list[Spans] | None = None,
) -> tuple[float, dict[str, Tensor]]:
    """Return the loss and its gradient for every trainable parameter, completion by completion.

    policy, reference: float64 models. shifts: old_logprobs are the present ones plus these.
    environment: spans of each completion that the policy did not write.
    Completions without an advantage are computed like all others.
    """
    policy.zero_grad()
    spans = environment or [[] for _ in pairs]
    mine = [own_tokens(len(pair[1]), each) for pair, each in zip(pairs, spans, strict=True)]
    num_tokens = sum(map(len, mine))
    loss = torch.zeros((), dtype=torch.float64)
    for pair, advantage, shift, places in zip(pairs, advantages, shifts, mine, strict=True):
        stats = completion_stats(policy, reference, pair, temperature=rule.temperature)
        size = len(places)
        vocab = policy.get_output_embeddings().weight.shape[0]
        gates = [stats.entropy[t] / math.log(vocab) for t in places]
        distances = [stats.hellinger_sq[t] for t in places]
        _, weights = twins.dgpo_weights(distances, gates, tau=rule.tau, kappa=rule.kappa)
        logprobs = completion_logprobs(policy, pair, temperature=rule.temperature)
        with torch.no_grad():
            frozen = completion_logprobs(reference, pair, temperature=rule.temperature)
        total = torch.zeros((), dtype=torch.float64)
        for t, weight in zip(places, weights, strict=True):
            own = advantage * weight
            ratio = (logprobs[t] - (stats.logprobs[t] + shift[t])).exp()
            held = ratio
            if float(ratio.detach()) > 1 + rule.clip_high:
                held = torch.tensor(1 + rule.clip_high, dtype=torch.float64)
            if float(ratio.detach()) < 1 - rule.clip_low:
                held = torch.tensor(1 - rule.clip_low, dtype=torch.float64)
            plain_is_less = float((ratio * own).detach()) <= float((held * own).detach())
            total = total - (ratio * own if plain_is_less else held * own)
            q_over_p = (frozen[t] - logprobs[t]).exp()
            total = total + rule.kl * (q_over_p - q_over_p.log() - 1)
        divisor = {
            "token-mean": num_tokens,
            "sequence-mean": len(pairs) * size,
            "constant": len(pairs) * rule.max_tokens,
        }[rule.aggregation]
        loss = loss + total / divisor
    loss.backward()
    named = policy.named_parameters()
    return float(loss.detach()), {n: p.grad for n, p in named if p.requires_grad}
