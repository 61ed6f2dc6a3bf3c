"""Weights in 4 bits: what is packed and what is not, what they stand for, and what is refused."""

from __future__ import annotations

import builtins
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from dgpo_cli.core.errors import ModelError
from dgpo_cli.policy import quantization
from dgpo_cli.policy.head import head_of
from dgpo_cli.policy.load import load_adapter, load_model
from tests.engine import checkpoints, updates
from tests.policy import adapters, tiny

# The 16 values of NF4. Source: QLoRA, arXiv 2305.14314, appendix E.
NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
    -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
    0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
    0.7229568362236023, 1.0,
)  # fmt: skip


def packed(folder: Path, **changes: Any) -> Any:
    return load_model(adapters.settings_of(folder, quantization="nf4", **changes))


def linears(model: Any) -> dict[str, Any]:
    return {n: m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_linear_layers_are_packed_and_the_head_norms_and_embedding_are_not(
    wide_folder: Path, dtype: str
) -> None:
    plain = load_model(adapters.settings_of(wide_folder, dtype=dtype))
    model = packed(wide_folder, dtype=dtype)
    found = linears(model)
    assert len(found) == 2 * 7 + 1
    for name, module in found.items():
        if name == "lm_head":
            continue
        assert module.weight.dtype == torch.uint8
        assert module.weight.numel() * 2 == linears(plain)[name].weight.numel()
        assert module.weight.quant_state.nested, "the scales are quantised as well"
        assert module.compute_dtype == getattr(torch, dtype)
    rest = {n: p for n, p in model.named_parameters() if not quantization.is_packed(p)}
    assert {"lm_head.weight", "model.embed_tokens.weight", "model.norm.weight"} <= rest.keys()
    for name, parameter in rest.items():
        assert torch.equal(parameter, plain.get_parameter(name)), name
    counted = sum(quantization.size_of(p) for p in model.parameters())
    assert counted == sum(p.numel() for p in plain.parameters())


def test_a_packed_weight_is_the_nearest_of_16_values_times_its_blocks_largest(
    wide_folder: Path,
) -> None:
    """The arithmetic written out, block by block of 64."""
    plain = linears(load_model(adapters.settings_of(wide_folder)))
    model = packed(wide_folder)
    name = "model.layers.1.mlp.up_proj"
    weight = linears(quantization.unpack(model, dtype=torch.float32))[name].weight
    values = torch.tensor(NF4)
    for found, block in zip(
        weight.reshape(-1, 64), plain[name].weight.detach().reshape(-1, 64), strict=True
    ):
        largest = block.abs().max()
        nearest = values[(block[:, None] / largest - values).abs().argmin(dim=1)] * largest
        # The blocks' largest numbers are kept in 8 bits themselves.
        torch.testing.assert_close(found, nearest, rtol=0.0, atol=0.02 * float(largest))


def test_an_unpacked_model_computes_what_the_packed_one_did_and_is_a_plain_one(
    wide_folder: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    model = packed(wide_folder)
    ids = torch.arange(5, 15)[None]
    with torch.no_grad():
        before = model(input_ids=ids).logits
        plain = quantization.unpack(model, dtype=torch.float32)
        torch.testing.assert_close(plain(input_ids=ids).logits, before, rtol=0.0, atol=1e-5)
        assert {type(m) for m in linears(plain).values()} == {torch.nn.Linear}
        plain.save_pretrained(tmp_path / "m")
        assert "quantization_config" not in json.loads((tmp_path / "m/config.json").read_text())
        again = AutoModelForCausalLM.from_pretrained(tmp_path / "m")
        torch.testing.assert_close(again(input_ids=ids).logits, before, rtol=0.0, atol=1e-5)
        assert not torch.allclose(
            load_model(adapters.settings_of(wide_folder))(input_ids=ids).logits, before, atol=1e-2
        )


@pytest.mark.parametrize("variant", ["lora", "dora"])
def test_updates_move_the_adapter_and_no_byte_of_the_base(
    wide_folder: Path, tmp_path: Path, variant: str
) -> None:
    """And plain peft loads the adapter onto the packed base, to the same logits."""
    policy = adapters.make(wide_folder, variant, quantization="nf4")
    before = adapters.packed_bytes(policy)
    assert sum(t.dtype == torch.uint8 for n, t in before.items() if n.endswith("weight")) == 14
    optimizer = checkpoints.adamw_of(policy)
    start = [p.detach().clone() for _, p in policy.trainable()]
    for _ in range(3):
        result = updates.run_update(policy, optimizer, updates.make_batch(policy))
        assert result.applied and result.finite
    after = adapters.packed_bytes(policy)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    moved = [
        n for (n, p), q in zip(policy.trainable(), start, strict=True) if not torch.equal(p, q)
    ]
    assert len(moved) == len(start) and all("lora_" in name for name in moved)
    checkpoints.save(tmp_path / "c", policy, optimizer)
    assert not (tmp_path / "c" / "model.safetensors").exists()
    loaded = load_adapter(packed(wide_folder), folder=tmp_path / "c", trainable=False)
    ids = torch.arange(5, 15)[None]
    with torch.no_grad():
        expected = policy.model(input_ids=ids).logits
        assert torch.equal(loaded.eval()(input_ids=ids).logits, expected)


def test_a_gradient_flows_after_the_model_has_sampled(
    wide_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Processors with AVX512-BF16 would put the weights into a layout that has none.

    The processor here may have it or not: the switch is set as it is on one that has.
    """
    import bitsandbytes.nn.modules as modules

    monkeypatch.setattr(modules, "has_avx512bf16", lambda: True)

    def convert(*arguments: Any, **others: Any) -> Any:
        raise AssertionError("the weights were put into the layout for inference")

    monkeypatch.setattr(modules, "_convert_weight_packed_for_cpu", convert)
    policy = adapters.make(wide_folder, apart=0.05, quantization="nf4", dtype="bfloat16")
    gradient = updates.gradient_of(policy, updates.make_batch(policy))  # statistics come first
    first = [g for n, g in gradient.items() if "layers.0" in n and "lora_A" in n]
    assert len(first) == 7 and all(g.any() for g in first)


def test_without_bitsandbytes_the_error_says_what_to_install(
    wide_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = builtins.__import__

    def absent(name: str, *arguments: Any, **others: Any) -> Any:
        if name == "bitsandbytes":
            raise ImportError("No module named 'bitsandbytes'")
        return plain(name, *arguments, **others)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(ModelError) as caught:
        packed(wide_folder)
    assert str(caught.value) == (
        "model.quantization=nf4: needs the package bitsandbytes "
        "(No module named 'bitsandbytes'); pip install 'dgpo-cli[qlora]'"
    )


def test_a_device_that_packs_nothing_is_refused() -> None:
    settings = adapters.settings_of(Path("m"), quantization="nf4")
    with pytest.raises(ModelError, match=r"cpu and cuda, not on mps; set model\.device=cpu"):
        quantization.loading_arguments(settings, device=torch.device("mps"))


def test_a_model_without_linear_layers_to_pack_is_refused(wide_folder: Path) -> None:
    model = load_model(adapters.settings_of(wide_folder))
    with pytest.raises(ModelError, match="did not pack its linear layers"):
        quantization.check_loaded(
            model, settings=adapters.settings_of(wide_folder, quantization="nf4")
        )


def test_a_folder_of_packed_weights_is_not_taken_for_a_plain_one(
    wide_folder: Path, tmp_path: Path
) -> None:
    model = packed(wide_folder)
    model.save_pretrained(tmp_path / "m")
    shutil.copy(wide_folder / "tokenizer_config.json", tmp_path / "m")
    with pytest.raises(ModelError, match=r"already quantised; .* set model\.quantization=nf4"):
        load_model(adapters.settings_of(tmp_path / "m"))
    ids = torch.arange(5, 15)[None]
    with torch.no_grad():
        again = packed(tmp_path / "m")
        assert torch.equal(again(input_ids=ids).logits, model(input_ids=ids).logits)


def test_a_head_that_is_no_plain_matrix_is_refused(wide_folder: Path) -> None:
    import bitsandbytes as bnb

    model = tiny.build_model("qwen2-untied", hidden_size=64)
    head = bnb.nn.Linear4bit(64, tiny.VOCAB, bias=False, quant_type="nf4")
    head.weight.data = model.lm_head.weight.data.clone()
    model.lm_head = head.to("cpu")
    if not quantization.is_packed(model.lm_head.weight):
        model.lm_head.weight = model.lm_head.weight._quantize("cpu")
    with pytest.raises(ModelError, match=r"head is stored as uint8 .* whose lm_head is not quant"):
        head_of(model)
    model.lm_head = torch.nn.Linear(64, tiny.VOCAB)
    model.lm_head.weight = torch.nn.Parameter(torch.zeros(4, 4, 4))
    with pytest.raises(ModelError, match=r"\[4, 4, 4\], not as a plain matrix"):
        head_of(model)


def test_a_family_that_reads_weights_by_itself_is_refused(tmp_path: Path) -> None:
    tiny.build_model("mamba").save_pretrained(tmp_path)
    told = (
        r"model\.quantization=nf4: MambaForCausalLM does not run with packed weights; set model\."
    )
    with pytest.raises(ModelError, match=told):
        load_model(adapters.settings_of(tmp_path, quantization="nf4"))
