"""Slow twins of scoring and updating: one completion at a time, in float64, without padding,
by the model's own logits. Nothing of the engine is used."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tests.algo import twins

Pair = tuple[list[int], list[int]]


def widened(model: Any) -> Any:
    """Return a copy in float64."""
    return copy.deepcopy(model).double().eval()


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
