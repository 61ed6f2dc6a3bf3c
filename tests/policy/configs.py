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
