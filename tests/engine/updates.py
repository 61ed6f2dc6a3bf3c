"""Batches to update on, and an optimiser that keeps the gradients it is given."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import torch
from torch import Tensor

from dgpo_cli.algo.credit import DgpoCredit
from dgpo_cli.algo.losses import ClipLoss
from dgpo_cli.core.events import NOBODY, Observer
from dgpo_cli.core.types import Batch, TokenStats
from dgpo_cli.engine.learn import Learner
from dgpo_cli.engine.piece import Recipe, Update
from dgpo_cli.policy.batching import Rows
from dgpo_cli.policy.policy import Policy
from dgpo_cli.policy.scoring import token_stats
from tests.policy import tiny

TEMPERATURE = 0.8
MAX_TOKENS = 20
# Three groups of three; lengths are uneven, and the second group has no advantage.
SHAPES = [(4, 6), (4, 11), (4, 1), (9, 17), (9, 3), (9, 8), (2, 5), (2, 2), (2, 13)]
PAIRS = tiny.random_pairs(SHAPES)
ADVANTAGES = [1.1, -0.4, -0.7, 0.0, 0.0, 0.0, -0.5, 1.2, 0.3]
SIGNAL_TOKENS = 6 + 11 + 1 + 5 + 2 + 13
CREDIT = DgpoCredit(tau=0.05, kappa=1.0)


def random_shifts(*, spread: float = 0.3) -> list[list[float]]:
    """What old_logprobs are moved by, so that ratios lie on both sides of both bounds."""
    rng = random.Random(9)
    return [[rng.uniform(-spread, spread) for _ in range(count)] for _, count in SHAPES]


def padded(values: list[list[float]], like: Tensor) -> Tensor:
    out = torch.zeros(like.shape)
    for row, own in enumerate(values):
        out[row, : len(own)] = torch.tensor(own)
    return out


def make_batch(
    policy: Policy,
    *,
    shifts: list[list[float]] | None = None,
    advantages: list[float] = ADVANTAGES,
    credit: Any = CREDIT,
    rows: Rows | None = None,
) -> Batch:
    """Score PAIRS and move old_logprobs by `shifts`, as after some updates on other rows."""
    rows = rows or tiny.rows_of_pairs(PAIRS)
    stats = token_stats(
        policy, rows, temperature=TEMPERATURE, micro_batch_size=4, with_reference=True
    )
    if shifts is not None:
        old = stats.old_logprobs + padded(shifts, rows.mask)
        stats = TokenStats(old, stats.entropy, stats.hellinger_sq)
    return Batch(
        prompt_ids=rows.prompt_ids,
        prompt_mask=rows.prompt_mask,
        completion_ids=rows.completion_ids,
        mask=rows.mask,
        advantages=torch.tensor(advantages),
        stats=stats,
        credit=credit.credit(stats, rows.mask, vocab_size=policy.vocab_size),
        filled=rows.filled,
    )


class Capture(torch.optim.SGD):
    """Moves nothing; keeps the gradients of the last step by name."""

    def __init__(self, policy: Policy) -> None:
        self.named = policy.trainable()
        self.gradients: dict[str, Tensor] = {}
        super().__init__([p for _, p in self.named], lr=0.0)

    def step(self, closure: Any = None) -> None:
        assert closure is None
        self.gradients = {n: p.grad.clone() for n, p in self.named if p.grad is not None}


def recipe_of(**changes: Any) -> Recipe:
    given: dict[str, Any] = {
        "rule": CREDIT,
        "loss": ClipLoss(),
        "temperature": TEMPERATURE,
        "max_completion_tokens": MAX_TOKENS,
        "group_size": 3,
        "micro_batch_size": 4,
    }
    return Recipe(**given | changes)


def rows_at(batch: Batch, index: Tensor) -> Batch:
    """Return a batch of these rows."""

    def take(part: Any) -> Any:
        values = {field.name: getattr(part, field.name) for field in dataclasses.fields(part)}
        return dataclasses.replace(
            part, **{name: v[index] for name, v in values.items() if isinstance(v, Tensor)}
        )

    whole = take(batch)
    return dataclasses.replace(whole, stats=take(batch.stats), credit=take(batch.credit))


def run_update(
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    *,
    index: Tensor | None = None,
    observer: Observer = NOBODY,
    **changes: Any,
) -> Update:
    """Update once on a batch whose statistics are known, or on its rows `index`."""
    part = batch if index is None else rows_at(batch, index)
    recipe = recipe_of(group_size=len(part.advantages), **changes)
    [update] = Learner(policy, optimizer, observer=observer).update(part, recipe=recipe)
    return update


def gradient_of(policy: Policy, batch: Batch, **changes: Any) -> dict[str, Tensor]:
    capture = Capture(policy)
    assert run_update(policy, capture, batch, **changes).applied
    return capture.gradients


def assert_same_gradient(
    found: dict[str, Tensor], expected: dict[str, Tensor], *, error: float = 2e-5
) -> None:
    """Equal to a small part of each parameter's own norm."""
    assert found.keys() == expected.keys()
    whole = float(torch.stack([e.double().norm() for e in expected.values()]).norm())
    assert whole > 1e-3
    for name, gradient in found.items():
        exact = expected[name].double()
        # Biases of keys have a gradient of 0 but for rounding: softmax does not see them.
        limit = max(error * float(exact.norm()), 1e-6 * whole)
        assert float((gradient.double() - exact).norm()) <= limit, name


def bits(optimizer: torch.optim.Optimizer) -> list[tuple[str, Tensor]]:
    """Every tensor of an optimiser's state, cloned."""
    return [
        (f"{i} {name}", value.clone())
        for i, state in optimizer.state_dict()["state"].items()
        for name, value in state.items()
    ]
