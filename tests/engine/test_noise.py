"""The noise floor of the distance: a policy against itself, rounded differently."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from dgpo_cli.engine.noise import noise_metrics, noise_of_distance, noise_pairs
from tests.algo import twins
from tests.engine import updates
from tests.policy import tiny

RECIPE = updates.recipe_of()


@pytest.mark.parametrize("family", ["qwen2-tied", "gemma2-softcap", "granite-scaled"])
def test_it_is_what_rounding_makes_of_the_distance(family: str) -> None:
    """Models that are packed, padded or scaled; float32 is right to 1e-7 of a logit."""
    found = noise_of_distance(tiny.make_policy(family), updates.PAIRS, recipe=RECIPE)
    assert len(found) == sum(len(completion) for _, completion in updates.PAIRS)
    assert (found >= 0).all() and 1e-16 < float(found.max()) < 1e-11


def test_the_difference_of_both_passes_is_measured_token_by_token(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Plant one: the second pass's hidden states are moved, each token's by its own amount."""
    policy = tiny.make_policy("qwen2-untied")
    plain = policy.token_hidden
    seen: list[torch.Tensor] = []

    def planted(rows: Any) -> torch.Tensor:
        states = plain(rows)
        if len(seen) % 2:
            states = states + 0.05 * torch.arange(len(states))[:, None]
        seen.append(states)
        return states

    monkeypatch.setattr(policy, "token_hidden", planted)
    recipe = updates.recipe_of(micro_batch_size=2)
    found = noise_of_distance(policy, updates.PAIRS[:4], recipe=recipe).tolist()
    logits = [
        (policy.head.logits(torch.cat(seen[at::2])) / recipe.temperature).tolist() for at in (0, 1)
    ]
    expected = [twins.hellinger_sq(p, q) for p, q in zip(*logits, strict=True)]
    assert len(seen) == 4 and max(expected) > 1e-2
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-10)


def test_a_policy_that_has_hardly_moved_has_a_distance_of_about_the_noise() -> None:
    """Under bfloat16 d is what rounding makes of it, 20 times the distance and more; in float32 the
    same weights show their distance."""

    def distance(policy: Any) -> float:
        rows = tiny.rows_of_pairs(updates.PAIRS)
        stats = updates.token_stats(
            policy, rows, temperature=0.8, micro_batch_size=4, with_reference=True
        )
        return float(stats.hellinger_sq[rows.mask].mean())

    policy = tiny.make_lora_policy(apart=1e-4, dtype=torch.bfloat16)
    shown = distance(policy)
    made = float(noise_of_distance(policy, updates.PAIRS, recipe=RECIPE).mean())
    policy.model.float()
    assert distance(policy) < shown / 20
    assert shown / 3 < made < 10 * shown


def test_measuring_leaves_the_policy_as_it_was() -> None:
    policy = tiny.make_policy(dtype=torch.bfloat16)
    rows = tiny.rows_of_pairs(updates.PAIRS)
    before = policy.token_hidden(rows)
    found = [noise_of_distance(policy, updates.PAIRS, recipe=RECIPE) for _ in range(2)]
    assert torch.equal(*found) and float(found[0].max()) > 0.0
    assert torch.equal(policy.token_hidden(rows), before)


def test_half_precision_has_a_larger_floor_than_full() -> None:
    floors = {}
    for dtype in (torch.float32, torch.bfloat16):
        policy = tiny.make_policy(dtype=dtype)
        found = noise_of_distance(policy, updates.PAIRS, recipe=RECIPE)
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
    found = noise_of_distance(policy, updates.PAIRS, recipe=RECIPE)
    assert not found.requires_grad
    assert torch.equal(torch.get_rng_state(), before)
    assert not policy.model.training
