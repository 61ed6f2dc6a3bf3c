"""A small model's config for tests of the plan's arithmetic, and jobs on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dgpo_cli.planning.job import Job, Sampling
from dgpo_cli.policy.shape import ModelShape, shape_of

SMALL: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 96,
    "intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 300,
    "tie_word_embeddings": True,
}


_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
# Numbers beside those of SMALL, by what they are.
MIXTURES: dict[str, dict[str, Any]] = {
    "gpt_oss": {"model_type": "gpt_oss", "num_local_experts": 4, "num_experts_per_tok": 2},
    "mixtral": {"model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2},
    "olmoe": {
        "model_type": "olmoe",
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "eos_token_id": 1,
    },
    "qwen2_moe": {
        **_EXPERTS,
        "model_type": "qwen2_moe",
        "shared_expert_intermediate_size": 24,
    },
    "qwen2_moe, dense blocks": {
        **_EXPERTS,
        "model_type": "qwen2_moe",
        "shared_expert_intermediate_size": 24,
        "mlp_only_layers": [0],
    },
    "qwen3_moe": {**_EXPERTS, "model_type": "qwen3_moe"},
    "qwen3_moe, dense blocks": {**_EXPERTS, "model_type": "qwen3_moe", "decoder_sparse_step": 2},
}


def shape(config: Mapping[str, Any] = SMALL) -> ModelShape:
    return shape_of(config, name="x")


def job(**changes: Any) -> Job:
    """A full training of the small model; change what the test is about."""
    plain: dict[str, Any] = {
        "shape": shape(),
        "element": 4,
        "packed": False,
        "adapter": 0,
        "rank": 0,
        "distance": True,
        "checkpointing": "none",
        "state": "adamw",
        "prompt": 10,
        "completion": 30,
        "typical_prompt": 10,
        "typical_completion": 30,
        "prompts": 2,
        "group_size": 4,
        "updates": 1,
        "micro_rows": 4,
        "micro_tokens": 10_000,
        "sampling": Sampling("hf", rows=8, share=0.0),
        "workers": 0,
    }
    return Job(**{**plain, **changes})
