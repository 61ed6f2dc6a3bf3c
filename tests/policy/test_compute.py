"""Products in bfloat16 over weights in float32."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch

from dgpo_cli.algo.credit import DgpoCredit
from dgpo_cli.algo.losses import ClipLoss
from dgpo_cli.engine.noise import noise_of_distance
from dgpo_cli.engine.piece import Recipe
from dgpo_cli.policy import packing
from dgpo_cli.policy.load import compute_dtype
from dgpo_cli.policy.load_policy import load_policy
from dgpo_cli.policy.policy import Policy
from dgpo_cli.policy.settings import LoraAdapter, ModelSettings, NoAdapter
from tests.policy import tiny

ROWS = tiny.rows_of_pairs(tiny.random_pairs([(3, 5), (3, 9), (4, 2), (6, 7)], seed=1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("compute") / "model"
    tiny.build_model("qwen2-untied").save_pretrained(made)
    tiny.char_tokenizer().save_pretrained(made)
    return made


def policy_of(folder: Path, *, lora: bool, **model: Any) -> Policy:
    return load_policy(
        ModelSettings(path=str(folder), device="cpu", **model),
        adapter=LoraAdapter(rank=3, alpha=6.0) if lora else NoAdapter(),
        seed=0,
        with_reference=True,
    )


def gradients(policy: Policy) -> torch.Tensor:
    with policy.training():
        policy.token_logprobs(ROWS, temperature=1.0).sum().backward()
    return torch.cat([p.grad.flatten() for _, p in policy.trainable() if p.grad is not None])


def test_auto_leaves_a_cpu_as_it_is_and_stored_leaves_every_device() -> None:
    assert compute_dtype(ModelSettings(device="cpu")) is None
    assert compute_dtype(ModelSettings(device="cpu", compute="bfloat16")) is torch.bfloat16
    assert compute_dtype(ModelSettings(device="cpu", compute="stored")) is None


@pytest.mark.parametrize("lora", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_equal_weights_are_exactly_0_apart_in_bfloat16_products(
    folder: Path, dtype: str, lora: bool
) -> None:
    policy = policy_of(folder, lora=lora, dtype=dtype, compute="bfloat16")
    found = policy.token_columns(ROWS, temperature=1.0, reference=True)
    assert not found.hellinger_sq.any()


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("lora", [True, False])
def test_weights_stay_in_float32_and_gradients_are_near_those_of_float32(
    folder: Path, lora: bool, checkpointing: bool
) -> None:
    how = {"gradient_checkpointing": checkpointing}
    exact = gradients(policy_of(folder, lora=lora, compute="stored", **how))
    policy = policy_of(folder, lora=lora, compute="bfloat16", **how)
    found = gradients(policy)
    assert {p.dtype for _, p in policy.trainable()} == {torch.float32}
    assert found.dtype == torch.float32
    apart = float((found - exact).norm() / exact.norm())
    assert 0 < apart < 0.03  # bfloat16 keeps 8 bits


def test_an_adapter_multiplies_in_bfloat16_and_samples_in_it(folder: Path) -> None:
    policy = policy_of(folder, lora=True, dtype="bfloat16", compute="bfloat16")
    seen = set()
    for name, module in policy.model.named_modules():
        if name.endswith(("lora_A.default", "lora_B.default")):
            module.register_forward_hook(lambda m, i, out: seen.add((i[0].dtype, out.dtype)))
    ids = torch.tensor([[5, 6, 7]])
    mask, positions = torch.ones_like(ids, dtype=torch.bool), torch.arange(3)[None]
    policy.next_logits(ids, mask=mask, positions=positions, cache=policy.new_cache())
    gradients(policy)
    assert seen == {(torch.bfloat16, torch.bfloat16)}


def test_grouped_queries_in_float32_attend_as_torch_groups_them() -> None:
    draw = functools.partial(torch.randn, generator=torch.Generator().manual_seed(0))
    query, key, value = draw(2, 6, 9, 4), draw(2, 2, 9, 4), draw(2, 2, 9, 4)
    found = packing._float32_attention([query, key, value], scaling=0.3)
    exact = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, is_causal=True, scale=0.3, enable_gqa=True
    )
    torch.testing.assert_close(found.transpose(1, 2), exact)


def test_the_noise_of_bfloat16_products_is_measured_over_weights_in_float32(folder: Path) -> None:
    pairs = tiny.random_pairs([(3, 9), (4, 7)], seed=1)
    recipe = Recipe(
        rule=DgpoCredit(),
        loss=ClipLoss(),
        temperature=1.0,
        max_completion_tokens=16,
        group_size=2,
        micro_batch_size=2,
    )
    policy = policy_of(folder, lora=True, compute="bfloat16")
    noise = noise_of_distance(policy, pairs, recipe=recipe)
    rounded = distance_of_rounding(folder)
    assert rounded / 30 < float(noise.mean()) < rounded * 30
    assert policy.computed_dtype is torch.bfloat16


def distance_of_rounding(folder: Path) -> float:
    """Return the mean distance that an adapter which moves next to nothing seems to have."""
    policy = policy_of(folder, lora=True, compute="bfloat16")
    tiny.nudge((weight for _, weight in policy.trainable()), scale=1e-4)
    with torch.no_grad():
        return float(
            policy.token_columns(ROWS, temperature=1.0, reference=True).hellinger_sq.mean()
        )
