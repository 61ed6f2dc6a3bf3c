"""Models whose experts are stored in MXFP4 are unpacked to the values of the format."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GptOssConfig

from dgpo_cli.core.errors import ModelError
from dgpo_cli.policy.load import load_model
from dgpo_cli.policy.settings import ModelSettings

# The sixteen numbers of four bits (E2M1), and blocks of 32 with an exponent of two each.
# Source: OCP Microscaling Formats (MX) specification v1.0, sections 5.2 and 5.3.3.
NUMBERS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
EXPERTS, WIDTH = 4, 64


def unpacked(blocks: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Return [experts, inputs, outputs] of blocks [experts, outputs, n, 16], scales [..., n]."""
    numbers = torch.tensor([*NUMBERS, *(-x for x in NUMBERS)], dtype=torch.float64)
    pairs = torch.stack([numbers[(blocks & 15).long()], numbers[(blocks >> 4).long()]], dim=-1)
    values = pairs.flatten(-2) * torch.exp2(scales.double() - 127)[..., None]
    return values.flatten(-2).transpose(1, 2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small gpt-oss model as its checkpoints are: experts packed, all else in 16 bits."""
    torch.manual_seed(0)
    config = GptOssConfig(
        vocab_size=64,
        hidden_size=WIDTH,
        intermediate_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        num_local_experts=EXPERTS,
        num_experts_per_tok=2,
        sliding_window=8,
    )
    AutoModelForCausalLM.from_config(config).bfloat16().save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    for name in [n for n in tensors if n.endswith(("gate_up_proj", "down_proj"))]:
        _, inputs, outputs = tensors.pop(name).shape
        shape = (EXPERTS, outputs, inputs // 32)
        tensors[f"{name}_blocks"] = torch.randint(256, (*shape, 16), dtype=torch.uint8)
        tensors[f"{name}_scales"] = torch.randint(119, 123, shape, dtype=torch.uint8)
    save_file(tensors, file, metadata={"format": "pt"})
    text = json.loads((tmp_path / "config.json").read_text())
    text["quantization_config"] = {
        "quant_method": "mxfp4",
        "modules_to_not_convert": ["model.layers.*.self_attn", "model.layers.*.mlp.router"],
    }
    (tmp_path / "config.json").write_text(json.dumps(text))
    return tmp_path


def test_packed_experts_are_unpacked_to_the_numbers_of_their_format(folder: Path) -> None:
    model = load_model(ModelSettings(path=str(folder), dtype="float32", device="cpu"))
    stored = load_file(folder / "model.safetensors")
    for name in ("gate_up_proj", "down_proj"):
        key = f"model.layers.1.mlp.experts.{name}"
        expected = unpacked(stored[f"{key}_blocks"], stored[f"{key}_scales"])
        found = model.get_parameter(key)
        assert found.dtype == torch.float32
        assert torch.equal(found.double(), expected)
    assert not hasattr(model.config, "quantization_config")


def test_packed_experts_are_not_packed_again(folder: Path) -> None:
    settings = ModelSettings(path=str(folder), dtype="float32", device="cpu", quantization="nf4")
    with pytest.raises(ModelError, match="quantization"):
        load_model(settings)
