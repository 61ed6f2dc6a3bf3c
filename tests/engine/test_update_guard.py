"""AdamW itself, and the updates that must not touch anything."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import pytest
import torch

from dgpo_cli.core.types import Batch
from dgpo_cli.engine.optimizers import build_adamw
from dgpo_cli.policy.policy import Policy
from tests.engine import updates

LR = 1e-3


def adamw_of(policy: Policy, *, weight_decay: float = 0.1) -> torch.optim.AdamW:
    return build_adamw(policy, lr=LR, betas=(0.9, 0.95), eps=1e-8, weight_decay=weight_decay)


def weights_of(policy: Policy) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in policy.trainable()}


def with_old_logprob(value: float) -> Callable[[Batch], Batch]:
    def change(batch: Batch) -> Batch:
        old = batch.stats.old_logprobs.clone()
        old[1, 2] = value  # a token of a completion with a negative advantage
        old[0, 1] = value  # and one of a completion with a positive one
        return dataclasses.replace(batch, stats=dataclasses.replace(batch.stats, old_logprobs=old))

    return change


def with_weight(value: float) -> Callable[[Batch], Batch]:
    def change(batch: Batch) -> Batch:
        weights = batch.credit.weights.clone()
        weights[0, 1] = value
        return dataclasses.replace(batch, credit=dataclasses.replace(batch.credit, weights=weights))

    return change


def with_advantage(value: float) -> Callable[[Batch], Batch]:
    def change(batch: Batch) -> Batch:
        advantages = batch.advantages.clone()
        advantages[7] = value
        return dataclasses.replace(batch, advantages=advantages)

    return change


BAD_BATCHES = {
    "old_logprobs nan": with_old_logprob(math.nan),
    "old_logprobs inf": with_old_logprob(math.inf),
    "old_logprobs -inf": with_old_logprob(-math.inf),
    "weights nan": with_weight(math.nan),
    "weights inf": with_weight(math.inf),
    "advantages nan": with_advantage(math.nan),
    "advantages inf": with_advantage(math.inf),
}


def assert_untouched(policy: Policy, change: Callable[[Batch], Batch]) -> None:
    """An update that moves, then a bad one that does not; then again as if it had not been."""
    batch = updates.make_batch(policy)
    optimizer = adamw_of(policy)
    assert updates.run_update(policy, optimizer, batch).applied
    weights, state = weights_of(policy), updates.bits(optimizer)
    result = updates.run_update(policy, optimizer, change(batch))
    assert not result.finite
    assert not result.applied
    assert all(torch.equal(p, weights[name]) for name, p in policy.trainable())
    for (name, value), (_, before) in zip(updates.bits(optimizer), state, strict=True):
        assert torch.equal(value, before), name
    assert all(p.grad is None for _, p in policy.trainable())


@pytest.mark.parametrize("kind", BAD_BATCHES)
def test_a_batch_that_is_not_finite_touches_nothing(policy: Policy, kind: str) -> None:
    assert_untouched(policy, BAD_BATCHES[kind])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_gradient_that_is_not_finite_touches_nothing(policy: Policy, value: float) -> None:
    """One number of one weight, with a finite loss."""
    _, weight = policy.trainable()[3]
    handles = []

    def plant(batch: Batch) -> Batch:
        def hook(gradient: torch.Tensor) -> torch.Tensor:
            gradient = gradient.clone()
            gradient.view(-1)[5] = value
            return gradient

        handles.append(weight.register_hook(hook))
        return batch

    assert_untouched(policy, plant)
    handles[0].remove()
    assert updates.run_update(policy, adamw_of(policy), updates.make_batch(policy)).finite


def test_after_a_bad_update_the_run_goes_on_as_if_it_had_not_been(policy: Policy) -> None:
    batch = updates.make_batch(policy)
    start = weights_of(policy)
    ends = []
    for bad in (False, True):
        with torch.no_grad():
            for name, parameter in policy.trainable():
                parameter.copy_(start[name])
        optimizer = adamw_of(policy)
        updates.run_update(policy, optimizer, batch)
        if bad:
            updates.run_update(policy, optimizer, with_old_logprob(math.nan)(batch))
        updates.run_update(policy, optimizer, batch)
        ends.append(weights_of(policy))
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in start)


def test_without_any_advantage_nothing_moves_and_nothing_is_wrong(policy: Policy) -> None:
    """Not even weight decay or momentum."""
    optimizer = adamw_of(policy)
    updates.run_update(policy, optimizer, updates.make_batch(policy))
    weights, state = weights_of(policy), updates.bits(optimizer)
    flat = updates.make_batch(policy, advantages=[0.0] * 9)
    result = updates.run_update(policy, optimizer, flat)
    assert (result.applied, result.finite) == (False, True)
    assert (result.loss, result.grad_norm, result.signal_tokens) == (0.0, 0.0, 0)
    assert (result.ratio_min, result.ratio_max, result.clipped_tokens) == (1.0, 1.0, 0)
    assert all(torch.equal(p, weights[name]) for name, p in policy.trainable())
    for (name, value), (_, before) in zip(updates.bits(optimizer), state, strict=True):
        assert torch.equal(value, before), name


def test_a_first_step_of_adamw_is_arithmetic(policy: Policy) -> None:
    """p (1 - lr wd) - lr g / (|g| + eps), the first moments being bias-corrected away."""
    batch = updates.make_batch(policy)
    before, gradients = weights_of(policy), updates.gradient_of(policy, batch)
    updates.run_update(policy, adamw_of(policy), batch)
    for name, parameter in policy.trainable():
        g = gradients[name].double()
        decay = 0.1 if parameter.ndim >= 2 else 0.0
        expected = before[name].double() * (1 - LR * decay) - LR * g / (g.abs() + 1e-8)
        torch.testing.assert_close(parameter.detach().double(), expected, rtol=0, atol=2e-7)


def test_weight_decay_shrinks_matrices_alone(policy: Policy) -> None:
    before = weights_of(policy)
    optimizer = adamw_of(policy, weight_decay=0.5)
    for _, parameter in policy.trainable():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    kinds = set()
    for name, parameter in policy.trainable():
        shrunk = parameter.ndim == 2
        kinds.add(shrunk)
        expected = before[name] * (1 - LR * 0.5) if shrunk else before[name]
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-6, atol=0)
    assert kinds == {True, False}


def test_the_optimiser_holds_every_trainable_parameter_once(lora_policy: Policy) -> None:
    held = [p for group in adamw_of(lora_policy).param_groups for p in group["params"]]
    wanted = [p for _, p in lora_policy.trainable()]
    assert len(held) == len(wanted)
    assert {id(p) for p in held} == {id(p) for p in wanted}
