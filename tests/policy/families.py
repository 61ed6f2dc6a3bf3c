"""Tiny configurations of many families, by transformers' own names for them."""

from __future__ import annotations

from typing import Any

_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
_MLA = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 8,
    "q_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 8,
}
_ROUTED = {
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 2,
    "topk_group": 1,
    "moe_intermediate_size": 16,
    "first_k_dense_replace": 1,
}
_LINEAR = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_conv_kernel_dim": 4,
}
_MAMBA = {
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_d_ssm": 64,
    "mamba_d_state": 8,
    "mamba_n_groups": 2,
    "mamba_expand": 2,
    "mamba_chunk_size": 4,
}
_WINDOW = {"sliding_window": 6}
_GEMMA = _WINDOW | {"head_dim": 8, "query_pre_attn_scalar": 8}
_TURNS = ["linear_attention", "full_attention"]

ATTENTION: dict[str, dict[str, Any]] = {
    "bloom": {},  # ALiBi
    "cohere2": _WINDOW,
    "deepseek_v3": _MLA | _ROUTED,
    "deepseek_v32": _MLA | _ROUTED | {"index_topk": 64, "index_n_heads": 2, "index_head_dim": 8},
    "diffllama": {},
    "exaone4": _WINDOW,
    "falcon": {},
    "falcon_alibi": {
        "model_type": "falcon",
        "alibi": True,
        "new_decoder_architecture": False,
        "multi_query": False,
    },
    "gemma": {"head_dim": 8},
    "gemma2": _GEMMA | {"attn_logit_softcapping": 1.0, "final_logit_softcapping": 2.0},
    "gemma3_text": _GEMMA | {"layer_types": ["sliding_attention", "full_attention"]},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4},
    "gpt_neox": {},
    "gpt_oss": _WINDOW
    | {
        "head_dim": 8,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
    },
    "llama": {},
    "llama4_text": {
        "head_dim": 8,
        "num_local_experts": 2,
        "intermediate_size_mlp": 48,
        "attention_chunk_size": 6,
        "interleave_moe_layer_step": 1,
    },
    "mistral": _WINDOW,
    "mixtral": {"num_local_experts": 4},
    "mpt": {"d_model": 32, "n_heads": 4, "n_layers": 2},  # ALiBi
    "nemotron": {},
    "olmo2": {},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "phi": {},
    "phi3": _WINDOW,
    "qwen3": {"head_dim": 8},
    "qwen3_moe": _EXPERTS | {"head_dim": 8},
    "stablelm": {},
    "vaultgemma": _GEMMA | {"attn_logit_softcapping": 1.0},
}

# Layers with a state beside, or in place of, keys and values.
RECURRENT: dict[str, dict[str, Any]] = {
    "bamba": _MAMBA | {"attn_layer_indices": [1]},
    "falcon_h1": _MAMBA,
    "falcon_mamba": {"state_size": 8},
    "granitemoehybrid": _MAMBA
    | {
        "layer_types": ["mamba", "attention"],
        "num_local_experts": 2,
        "num_experts_per_tok": 1,
        "shared_intermediate_size": 16,
    },
    "jamba": {
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "num_experts": 2,
        "mamba_d_state": 8,
        "mamba_dt_rank": 4,
        "use_mamba_kernels": False,
    },
    "kimi_linear": _MLA
    | {
        "linear_head_dim": 8,
        "linear_num_heads": 4,
        "num_experts": 4,
        "num_experts_per_token": 2,
        "moe_intermediate_size": 16,
        "num_expert_group": 1,
        "topk_group": 1,
        "layer_types": _TURNS,
    },
    "lfm2": {"conv_bias": True, "layer_types": ["conv", "full_attention"]},
    "lfm2_moe": _EXPERTS | {"num_dense_layers": 1, "layer_types": ["conv", "full_attention"]},
    "mamba": {"state_size": 8, "time_step_rank": 4},
    "mamba2": {"num_heads": 8, "head_dim": 8, "state_size": 8, "n_groups": 2, "chunk_size": 4},
    "minimax": {"num_local_experts": 2, "block_size": 4, "layer_types": _TURNS},
    "nemotron_h": {
        "hybrid_override_pattern": "M*",
        "mamba_num_heads": 8,
        "mamba_head_dim": 8,
        "ssm_state_size": 8,
        "n_groups": 2,
        "chunk_size": 4,
    },
    "olmo_hybrid": _LINEAR | {"layer_types": _TURNS},
    "qwen3_5_text": _LINEAR | {"head_dim": 8, "layer_types": _TURNS},
    "qwen3_next": _EXPERTS
    | _LINEAR
    | {"head_dim": 8, "shared_expert_intermediate_size": 16, "layer_types": _TURNS},
    "zamba2": {
        "mamba_d_state": 8,
        "mamba_ngroups": 1,
        "n_mamba_heads": 8,
        "chunk_size": 4,
        "layers_block_type": ["mamba", "hybrid"],
        "num_mem_blocks": 1,
    },
}

# Those whose states transformers cannot hand from row to row.
NOT_SAMPLED: dict[str, dict[str, Any]] = {
    "recurrent_gemma": {"lru_width": 32, "attention_window_size": 6},
    "rwkv": {"attention_hidden_size": 32},
    "xlstm": {"num_heads": 4},
}

ALL = ATTENTION | RECURRENT | NOT_SAMPLED
