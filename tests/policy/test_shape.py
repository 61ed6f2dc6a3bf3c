"""Sizes of models from their configs, against published counts, transformers and peft."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from dgpo_cli.core.errors import ModelError
from dgpo_cli.policy.config_file import find_config
from dgpo_cli.policy.load import add_adapter
from dgpo_cli.policy.settings import LoraAdapter, ModelSettings
from dgpo_cli.policy.shape import ModelShape, context_length, shape_of
from tests.policy.configs import MIXTURES, SMALL, shape

# Numbers of weights that the models' own safetensors files hold, tied heads once.
PUBLISHED = {
    "Qwen/Qwen2.5-0.5B": 494_032_768,
    "Qwen/Qwen2.5-1.5B": 1_543_714_304,
    "Qwen/Qwen2.5-3B": 3_085_938_688,
    "Qwen/Qwen2.5-7B": 7_615_616_512,
    "Qwen/Qwen2.5-14B": 14_770_033_664,
    "Qwen/Qwen2.5-32B": 32_763_876_352,
    "HuggingFaceTB/SmolLM2-135M-Instruct": 134_515_008,
    "Qwen/Qwen3-30B-A3B": 30_532_122_624,
    "Qwen/Qwen3-4B": 4_022_468_096,
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": 1_777_088_000,
    "openai/gpt-oss-20b": 20_914_757_184,  # unpacked
}


def shipped(path: str) -> ModelShape:
    return shape_of(find_config(ModelSettings(path=path)).config, name=path)


@pytest.mark.parametrize(("path", "count"), PUBLISHED.items())
def test_the_shipped_numbers_give_the_published_sizes(path: str, count: int) -> None:
    assert shipped(path).parameters == count


def test_an_instruct_model_has_the_shape_of_its_base() -> None:
    assert shipped("Qwen/Qwen2.5-7B-Instruct") == shipped("Qwen/Qwen2.5-7B")


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("tied", [True, False])
def test_weights_are_those_of_transformers(family: str, tied: bool) -> None:
    config: dict[str, Any] = {**SMALL, "model_type": family, "tie_word_embeddings": tied}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
    assert shape_of(config, name="x").parameters == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("targets", ["all-linear", ("q_proj", "down_proj")])
def test_adapters_are_those_of_peft(targets: str | tuple[str, ...]) -> None:
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**SMALL)).requires_grad_(False)
    adapted = add_adapter(model, adapter=LoraAdapter(rank=3, targets=targets), seed=0)
    trained = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    assert shape(SMALL).adapter_parameters(rank=3, targets=targets) == trained


def test_a_foreign_target_is_named() -> None:
    with pytest.raises(ModelError, match=r"adapter\.targets=lm_head.*q_proj"):
        shape(SMALL).adapter_parameters(rank=3, targets=("q_proj", "lm_head"))


def mixture(case: str) -> dict[str, Any]:
    return {**SMALL, "tie_word_embeddings": False, **MIXTURES[case]}


@pytest.mark.parametrize("case", MIXTURES)
def test_experts_have_the_weights_of_transformers_and_an_adapter_that_of_peft(case: str) -> None:
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**mixture(case)))
    found = shape(mixture(case))
    assert found.parameters == sum(p.numel() for p in model.parameters())
    for targets in ("all-linear", ("q_proj", "o_proj")):
        adapted = add_adapter(
            copy.deepcopy(model).requires_grad_(False),
            adapter=LoraAdapter(rank=3, targets=targets),
            seed=0,
        )
        trained = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
        assert found.adapter_parameters(rank=3, targets=targets) == trained


def test_a_token_is_multiplied_with_its_own_experts_alone() -> None:
    found = shape(mixture("qwen3_moe"))
    (experts,) = [found.experts]
    assert experts is not None and (experts.count, experts.active) == (4, 2)
    idle = 3 * 2 * 3 * 96 * 16  # two of four experts in each of three layers
    assert found.block_matrices - found.active_matrices == idle
    assert shape().active_matrices == shape().block_matrices


def test_experts_of_an_unknown_kind_are_refused() -> None:
    with pytest.raises(ModelError, match="x: dgpo plan cannot count the experts of deepseek_v3"):
        shape({**SMALL, "model_type": "deepseek_v3", "n_routed_experts": 8})


def test_a_missing_number_is_named() -> None:
    config = {key: value for key, value in SMALL.items() if key != "intermediate_size"}
    with pytest.raises(ModelError, match=r"x: its config\.json has no valid intermediate_size"):
        shape(config)


def test_a_folder_that_is_not_there_is_named(tmp_path: Any) -> None:
    with pytest.raises(
        ModelError, match=f"model.path={tmp_path}: no config.json in that folder; give"
    ):
        find_config(ModelSettings(path=str(tmp_path)))
    with pytest.raises(ModelError, match="no such folder"):
        find_config(ModelSettings(path=str(tmp_path / "none")))


def test_an_unknown_hub_model_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=r"model\.path=nobody/nothing.*local folder"):
        find_config(ModelSettings(path="nobody/nothing"))


@pytest.mark.parametrize(
    ("config", "length"),
    [
        ({"max_position_embeddings": 4096}, 4096),
        ({"n_positions": 1024}, 1024),
        ({}, None),
        ({"max_position_embeddings": -1}, None),
        ({"max_position_embeddings": 4096, "rope_parameters": {"rope_type": "default"}}, 4096),
        (
            {
                "max_position_embeddings": 40_960,
                "rope_scaling": {
                    "rope_type": "yarn",
                    "factor": 4.0,
                    "original_max_position_embeddings": 32_768,
                },
            },
            131_072,
        ),
        (
            {
                "max_position_embeddings": 131_072,
                "rope_parameters": {
                    "rope_type": "llama3",
                    "factor": 8.0,
                    "original_max_position_embeddings": 8192,
                },
            },
            131_072,
        ),
        (
            {
                "max_position_embeddings": 1000,
                "rope_parameters": {
                    "full_attention": {"rope_type": "linear", "factor": 8.0},
                    "sliding_attention": {"rope_type": "default"},
                },
            },
            8000,
        ),
    ],
)
def test_a_models_context_is_its_positions_and_how_far_they_are_stretched(
    config: dict[str, Any], length: int | None
) -> None:
    assert context_length(config) == length
