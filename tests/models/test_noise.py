"""The noise floor of the distance: a policy against itself in two layouts."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch

from dgpo_cli.algo.losses import ClipLoss
from dgpo_cli.models import noise
from dgpo_cli.models.accumulate import Plan
from dgpo_cli.models.noise import noise_metrics, noise_of_distance, noise_pairs
from tests.algo import twins
from tests.models import tiny, updates

PLAN = Plan(loss=ClipLoss(), temperature=0.8, max_completion_tokens=20, micro_batch_size=4)


@pytest.mark.parametrize("family", ["qwen2-tied", "gemma2-softcap", "granite-scaled"])
def test_it_is_what_rounding_makes_of_the_distance(family: str) -> None:
    """Models that are packed and models that are padded; float32 is right to 1e-7 of a logit."""
    found = noise_of_distance(tiny.make_policy(family), updates.PAIRS, plan=PLAN)
    assert len(found) == sum(len(completion) for _, completion in updates.PAIRS)
    assert (found >= 0).all() and float(found.max()) < 1e-11


def test_a_difference_between_the_layouts_is_measured_token_by_token(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Plant one: the second layout's hidden states are moved, each token's by its own amount."""
    policy = tiny.make_policy("qwen2-untied")
    plain = noise.hidden_states
    seen: dict[bool, list[torch.Tensor]] = {True: [], False: []}

    def planted(policy: Any, rows: Any) -> torch.Tensor:
        states = plain(policy, rows)
        alone = len(rows.mask) == 1
        if alone:
            states = states + 0.05 * torch.arange(len(states))[:, None]
        seen[alone].append(states)
        return states

    monkeypatch.setattr(noise, "hidden_states", planted)
    pairs = updates.PAIRS[:3]
    found = noise_of_distance(policy, pairs, plan=PLAN).tolist()
    both = [torch.cat(seen[alone]) for alone in (False, True)]
    logits = [(policy.head.logits(states) / 0.8).tolist() for states in both]
    expected = [twins.hellinger_sq(p, q) for p, q in zip(*logits, strict=True)]
    assert max(expected) > 1e-2
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-10)


@pytest.mark.parametrize("size", [1, 2, 4, 9])
def test_no_completion_has_the_same_layout_twice(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even where training has one completion a micro-batch."""
    policy = tiny.make_policy()
    plain = noise.hidden_states
    layouts: list[list[int]] = []

    def noted(policy: Any, rows: Any) -> torch.Tensor:
        layouts.append(rows.mask.sum(dim=1).tolist())
        return plain(policy, rows)

    monkeypatch.setattr(noise, "hidden_states", noted)
    plan = dataclasses.replace(PLAN, micro_batch_size=size)
    found = noise_of_distance(policy, updates.PAIRS, plan=plan)
    lengths = [len(completion) for _, completion in updates.PAIRS]
    assert len(found) == sum(lengths) and float(found.max()) < 1e-11
    for length in lengths:
        own = [tuple(layout) for layout in layouts if length in layout]
        assert len(set(own)) >= 2, length


def test_half_precision_has_a_larger_floor_than_full() -> None:
    floors = {}
    for dtype in (torch.float32, torch.bfloat16):
        policy = tiny.make_policy(dtype=dtype)
        found = noise_of_distance(policy, updates.PAIRS, plan=PLAN)
        floors[dtype] = noise_metrics(found, dtype=dtype)["noise/floor"]
    assert floors[torch.float32] < 1e-11
    assert 1e-5 < floors[torch.bfloat16] < 1e-2


def test_metrics_are_arithmetic_and_the_floor_is_never_below_the_dtypes_rounding() -> None:
    numbers = torch.arange(201.0) * 1e-12
    metrics = noise_metrics(numbers, dtype=torch.float32)
    assert metrics == pytest.approx(
        {
            "noise/hellinger_sq_mean": 1e-10,
            "noise/hellinger_sq_p99": 1.98e-10,
            "noise/hellinger_sq_max": 2e-10,
            "noise/floor": 1.98e-10,
        }
    )
    still = noise_metrics(torch.zeros(5), dtype=torch.float32)
    assert still["noise/floor"] == 2.0**-46 and still["noise/hellinger_sq_max"] == 0.0
    assert noise_metrics(torch.zeros(5), dtype=torch.bfloat16)["noise/floor"] == 2.0**-14
    assert math.isnan(noise_metrics(torch.tensor([math.nan]), dtype=torch.float32)["noise/floor"])


@pytest.mark.parametrize(("batch", "count"), [(1, 1), (8, 1), (15, 1), (32, 4), (64, 8), (999, 8)])
def test_few_completions_are_measured_from_the_longest_to_the_shortest(
    batch: int, count: int
) -> None:
    pairs = [([1] * 3, [2] * (1 + (7 * i) % batch)) for i in range(batch)]
    chosen = [len(completion) for _, completion in noise_pairs(pairs)]
    lengths = sorted((len(completion) for _, completion in pairs), reverse=True)
    assert len(chosen) == count
    assert chosen[0] == lengths[0] and chosen == sorted(chosen, reverse=True)
    if count > 1:
        assert chosen[-1] == lengths[-1]
        assert len(set(chosen)) == count


def test_no_weight_gets_a_gradient_and_nothing_is_drawn() -> None:
    policy = tiny.make_policy()
    before = torch.get_rng_state()
    found = noise_of_distance(policy, updates.PAIRS, plan=PLAN)
    assert not found.requires_grad
    assert torch.equal(torch.get_rng_state(), before)
    assert not policy.model.training
