"""Every kind of adapter: it starts as its base, its gradient is the slow twin's, peft reads it."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from dgpo_cli.engine.checkpoint import load_trainer
from dgpo_cli.engine.learn import Learner
from dgpo_cli.policy.load import add_adapter, name_base
from dgpo_cli.policy.policy import Policy
from dgpo_cli.policy.quantization import packed_count
from dgpo_cli.policy.settings import LoraAdapter
from tests.engine import checkpoints, updates
from tests.engine.test_learner import finished, measured
from tests.engine.test_update import SHIFTS, twin_rule
from tests.policy import adapters, tiny, twins

EVERY = pytest.mark.parametrize("variant", adapters.VARIANTS)
SMOOTH = pytest.mark.parametrize("variant", ["lora", "rslora", "dora"])  # without dropout
EITHER = pytest.mark.parametrize("quantization", adapters.QUANTIZATIONS)


@EVERY
@EITHER
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_adapter_starts_exactly_as_its_reference(
    wide_folder: Path, variant: str, quantization: str, dtype: str
) -> None:
    policy = adapters.make(wide_folder, variant, dtype=dtype, quantization=quantization)
    learner = Learner(policy, updates.Capture(policy))
    batch = measured(learner)
    assert torch.count_nonzero(batch.stats.hellinger_sq) == 0
    assert torch.count_nonzero(batch.stats.entropy[batch.mask]) == int(batch.mask.sum())
    [result] = finished(learner, batch)
    assert result.applied and result.ratio_min == result.ratio_max == 1.0


def test_an_adapter_that_has_moved_is_not_its_reference(wide_folder: Path) -> None:
    for quantization in adapters.QUANTIZATIONS:
        policy = adapters.make(wide_folder, "dora", apart=0.02, quantization=quantization)
        d = updates.make_batch(policy).stats.hellinger_sq
        assert torch.count_nonzero(d) == sum(len(c) for _, c in updates.PAIRS)


@SMOOTH
@EITHER
def test_the_pass_that_trains_equals_the_slow_twin(
    wide_folder: Path, variant: str, quantization: str
) -> None:
    """Statistics and gradient, with 4-bit weights too: the twin has them as plain float64."""
    policy = adapters.make(wide_folder, variant, apart=0.05, quantization=quantization)
    twin = twin_of(policy, wide_folder, variant)
    capture = updates.Capture(policy)
    learner = Learner(policy, capture)
    batch = measured(learner)
    assert float(batch.credit.weights.max()) > 1.1
    finished(learner, batch)
    _, gradient = twins.update_gradient(
        twin,
        reference_of(twin),
        updates.PAIRS,
        advantages=updates.ADVANTAGES,
        shifts=[[0.0] * len(completion) for _, completion in updates.PAIRS],
        rule=twin_rule("token-mean"),
    )
    updates.assert_same_gradient(capture.gradients, gradient, error=1e-4)
    stats = twins.completion_stats(
        twin, reference_of(twin), updates.PAIRS[0], temperature=updates.TEMPERATURE
    )
    for found, expected, error in (
        (batch.stats.old_logprobs, stats.logprobs, 1e-4),
        (batch.stats.entropy, stats.entropy, 1e-4),
        (batch.stats.hellinger_sq, stats.hellinger_sq, 1e-5),
    ):
        assert found[0, : len(expected)].tolist() == pytest.approx(expected, abs=error)


@pytest.mark.parametrize("variant", ["lora", "dora"])
def test_recomputed_activations_of_packed_weights_change_no_gradient(
    wide_folder: Path, variant: str
) -> None:
    gradients = []
    for kind in ("none", "full", "selective"):
        policy = adapters.make(
            wide_folder, variant, apart=0.05, quantization="nf4", gradient_checkpointing=kind
        )
        assert policy.layers.checkpointing == kind
        gradients.append(updates.gradient_of(policy, updates.make_batch(policy)))
    for found in gradients[1:]:
        updates.assert_same_gradient(found, gradients[0], error=1e-6)


def twin_of(policy: Policy, folder: Path, variant: str) -> Any:
    packed = packed_count(policy.model) > 0
    return adapters.plain_twin(policy, folder, variant) if packed else twins.widened(policy.model)


def reference_of(twin: Any) -> Any:
    return copy.deepcopy(twin).unload()


def test_the_gradient_of_stored_statistics_equals_the_slow_twin(wide_folder: Path) -> None:
    """The other way into an update, for rollouts that are not fresh: ratios on both sides."""
    policy = adapters.make(wide_folder, apart=0.05, quantization="nf4")
    twin = twin_of(policy, wide_folder, "lora")
    batch = updates.make_batch(policy, shifts=SHIFTS)
    _, gradient = twins.update_gradient(
        twin,
        reference_of(twin),
        updates.PAIRS,
        advantages=updates.ADVANTAGES,
        shifts=SHIFTS,
        rule=twin_rule("token-mean"),
    )
    updates.assert_same_gradient(updates.gradient_of(policy, batch), gradient, error=1e-4)


def layer_of(**adapter: Any) -> tuple[Any, torch.Tensor]:
    """An adapted layer whose adapter is not zero, and the weight below it."""
    model = tiny.build_model("qwen2-untied")
    weight = model.model.layers[1].mlp.up_proj.weight.detach().clone()
    adapted = add_adapter(model, adapter=LoraAdapter(rank=4, alpha=12.0, **adapter), seed=0)
    layer = adapted.get_base_model().model.layers[1].mlp.up_proj
    tiny.nudge((p for p in layer.parameters() if p.requires_grad), scale=0.1)
    return layer, weight


def test_rslora_adds_alpha_over_the_root_of_rank_times_its_product() -> None:
    layer, weight = layer_of(rslora=True)
    product = layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    x = torch.randn(2, 32, generator=torch.Generator().manual_seed(0))
    expected = x @ (weight + 12.0 / math.sqrt(4) * product).T
    torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)


def test_dora_gives_every_row_its_own_norm() -> None:
    """m (W + s BA) / |W + s BA|, a row at a time. Source: DoRA, arXiv 2402.09353, equation 5."""
    layer, weight = layer_of(dora=True)
    sums = weight + 3.0 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    magnitude = layer.lora_magnitude_vector["default"].weight
    rows = [m * row / row.square().sum().sqrt() for m, row in zip(magnitude, sums, strict=True)]
    x = torch.randn(2, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(layer(x), x @ torch.stack(rows).T, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("variant", ["lora", "rslora", "dora"])
@EITHER
def test_plain_peft_loads_what_was_saved(
    wide_folder: Path, tmp_path: Path, variant: str, quantization: str
) -> None:
    from peft import AutoPeftModelForCausalLM

    policy = adapters.make(wide_folder, variant, apart=0.05, quantization=quantization)
    policy.save(tmp_path / "a")
    stored = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    assert stored["base_model_name_or_path"] == str(wide_folder)
    assert (stored["use_rslora"], stored["use_dora"]) == (variant == "rslora", variant == "dora")
    assert not list((tmp_path / "a").glob("*.bin"))
    found = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "a", dtype=torch.float32).eval()
    if quantization == "nf4":  # peft put it onto the unpacked base
        with torch.no_grad():
            for name, module in found.get_base_model().named_modules():
                if hasattr(module, "lora_A"):
                    twin = dict(policy.model.get_base_model().named_modules())[name]
                    module.base_layer.weight.copy_(unpacked(twin.base_layer.weight))
    ids = torch.arange(5, 15)[None]
    with torch.no_grad():
        expected = policy.model(input_ids=ids).logits
        torch.testing.assert_close(found(input_ids=ids).logits, expected, rtol=0.0, atol=2e-5)


def unpacked(weight: Any) -> torch.Tensor:
    import bitsandbytes as bnb

    plain: torch.Tensor = bnb.functional.dequantize_4bit(weight.data, weight.quant_state)
    return plain


def test_the_base_and_its_commit_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By the commit that the hub's cache has for the revision; else by what was asked for."""
    import huggingface_hub

    adapted = add_adapter(tiny.build_model(), adapter=LoraAdapter(rank=2), seed=0)
    commit = "0123456789abcdef0123456789abcdef01234567"
    cached = {"v1": str(tmp_path / "snapshots" / commit / "config.json")}
    monkeypatch.setattr(
        huggingface_hub,
        "try_to_load_from_cache",
        lambda repo, name, revision: cached.get(revision),
    )
    for revision, expected in (("v1", commit), ("v2", "v2"), (None, None)):
        name_base(adapted, settings=adapters.settings_of(Path("me/model"), revision=revision))
        config = adapted.peft_config["default"]
        assert (config.base_model_name_or_path, config.revision) == ("me/model", expected)
        adapted.save_pretrained(str(tmp_path / "a"), save_embedding_layers=False)
        stored = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
        assert (stored["base_model_name_or_path"], stored["revision"]) == ("me/model", expected)


@EITHER
@pytest.mark.parametrize("variant", ["rslora", "dora"])
def test_a_resumed_adapter_goes_on_to_the_bit(
    wide_folder: Path, tmp_path: Path, variant: str, quantization: str
) -> None:
    policy = adapters.make(wide_folder, variant, quantization=quantization)
    optimizer = checkpoints.adamw_of(policy)
    updates.run_update(policy, optimizer, updates.make_batch(policy))
    checkpoints.save(tmp_path / "c", policy, optimizer)
    again = adapters.make(
        wide_folder, variant, quantization=quantization, checkpoint=tmp_path / "c"
    )
    restored = checkpoints.adamw_of(again)
    load_trainer(tmp_path / "c", optimizer=restored)
    for one, opt in ((policy, optimizer), (again, restored)):
        assert updates.run_update(one, opt, updates.make_batch(one)).applied
    for (name, p), (other, q) in zip(policy.trainable(), again.trainable(), strict=True):
        assert name == other and torch.equal(p, q), name
