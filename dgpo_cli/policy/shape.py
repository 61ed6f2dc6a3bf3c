"""The numbers that determine memory and time: of a model's config, and of buffers. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from dgpo_cli.core.errors import ModelError

# Decoders of these families have exactly the linear layers counted here.
KNOWN_FAMILIES = frozenset({"llama", "mistral", "qwen2", "qwen3"})

# Families whose states cannot be selected by row, so that backend hf rejects them.
NOT_SAMPLED = frozenset({"recurrent_gemma", "rwkv", "xlstm"})


@dataclass(frozen=True, slots=True)
class LinearShape:
    """One linear layer of a decoder block."""

    name: str
    inputs: int
    outputs: int
    bias: bool


@dataclass(frozen=True, slots=True)
class ModelShape:
    """A dense decoder: attention with grouped keys, a gated MLP, two norms per block.

    tied: the output head is the input embedding. qk_norm: queries and keys are normed by head.
    softcap: attention logits have a soft-cap, which only eager attention computes.
    """

    family: str
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied: bool
    qkv_bias: bool
    output_bias: bool
    mlp_bias: bool
    qk_norm: bool
    softcap: bool = False

    @property
    def queries(self) -> int:
        """Total width of the query heads."""
        return self.heads * self.head_dim

    @property
    def keys(self) -> int:
        """Total width of the key heads, and of the value heads."""
        return self.kv_heads * self.head_dim

    @property
    def linears(self) -> tuple[LinearShape, ...]:
        """The linear layers of one block."""
        d, i, q, k = self.hidden, self.intermediate, self.queries, self.keys
        return (
            LinearShape("q_proj", d, q, self.qkv_bias),
            LinearShape("k_proj", d, k, self.qkv_bias),
            LinearShape("v_proj", d, k, self.qkv_bias),
            LinearShape("o_proj", q, d, self.output_bias),
            LinearShape("gate_proj", d, i, self.mlp_bias),
            LinearShape("up_proj", d, i, self.mlp_bias),
            LinearShape("down_proj", i, d, self.mlp_bias),
        )

    @property
    def block_matrices(self) -> int:
        """Weights in the linear layers of all blocks, without biases."""
        return self.layers * sum(x.inputs * x.outputs for x in self.linears)

    @property
    def head_weights(self) -> int:
        """Weights of the output head, tied or not."""
        return self.vocab * self.hidden

    @property
    def outside_blocks(self) -> int:
        """Weights of input embedding and output head, once if tied."""
        return self.head_weights * (1 if self.tied else 2)

    @property
    def small(self) -> int:
        """Biases and norms."""
        biases = sum(x.outputs for x in self.linears if x.bias)
        norms = 2 * self.hidden + (2 * self.head_dim if self.qk_norm else 0)
        return self.layers * (biases + norms) + self.hidden

    @property
    def parameters(self) -> int:
        return self.block_matrices + self.outside_blocks + self.small

    def adapter_parameters(self, *, rank: int, targets: str | tuple[str, ...]) -> int:
        """Return the weights of a LoRA adapter: rank x (inputs + outputs) per layer.

        Raises:
            ModelError: a target is not a linear layer of a block.
        """
        names = (targets,) if isinstance(targets, str) else targets
        known = {x.name: x for x in self.linears}
        if "all-linear" in names:
            names = tuple(known)
        unknown = [name for name in names if name not in known]
        if unknown:
            raise ModelError(
                f"adapter.targets={', '.join(unknown)}: not known to the plan; set all-linear, or "
                f"some of {', '.join(known)}"
            )
        return self.layers * rank * sum(known[n].inputs + known[n].outputs for n in set(names))


def shape_of(config: Mapping[str, Any], *, name: str) -> ModelShape:
    """Read the shape of a model from its config.json.

    Args:
        name: of the model, for messages.

    Raises:
        ModelError: numbers are missing, or the model is a mixture of experts.
    """
    text = config.get("text_config") or config
    if any(text.get(key) for key in ("num_experts", "num_local_experts", "n_routed_experts")):
        raise ModelError(f"{name}: a mixture of experts, which dgpo plan does not support")
    family = str(text.get("model_type", "unknown"))
    hidden, heads = _number(text, "hidden_size", name), _number(text, "num_attention_heads", name)
    biased = bool(text.get("attention_bias", False))
    return ModelShape(
        family=family,
        hidden=hidden,
        intermediate=_number(text, "intermediate_size", name),
        layers=_number(text, "num_hidden_layers", name),
        heads=heads,
        kv_heads=int(text.get("num_key_value_heads") or heads),
        head_dim=int(text.get("head_dim") or hidden // heads),
        vocab=_number(text, "vocab_size", name),
        tied=bool(config.get("tie_word_embeddings", text.get("tie_word_embeddings", False))),
        qkv_bias=family == "qwen2" or biased,
        output_bias=biased and family != "qwen2",
        mlp_bias=bool(text.get("mlp_bias", False)),
        qk_norm=family == "qwen3",
        softcap=text.get("attn_logit_softcapping") is not None,
    )


def sharing_problem(heads: int, *, ranks: int, name: str) -> str | None:
    """Return why ranks cannot share the heads of a model's attention equally, with the fix."""
    if heads % ranks == 0:
        return None
    return (
        f"parallel.sequence={ranks}: {name} has {heads} attention heads, which {ranks} ranks "
        f"cannot share equally; set parallel.sequence={math.gcd(heads, ranks)}"
    )


def key_repeats(keys: int, *, ranks: int) -> int:
    """Return how often ranks repeat each head of keys and values to share them equally.

    Heads of queries that ranks share equally are a multiple of what that gives.
    """
    return math.lcm(keys, ranks) // keys


def context_length(config: Mapping[str, Any]) -> int | None:
    """Return a model's context length in tokens; None if its config does not give it.

    Rotary positions may be scaled by a factor of the original length.
    """
    names = ("max_position_embeddings", "n_positions", "max_sequence_length")
    length = next((n for name in names if isinstance(n := config.get(name), int) and n > 0), None)
    if length is None:
        return None
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    reached = [
        int((each.get("original_max_position_embeddings") or length) * each["factor"])
        for each in (rope, *rope.values())
        if isinstance(each, Mapping) and isinstance(each.get("factor"), int | float)
    ]
    return max([length, *reached])


def _number(config: Mapping[str, Any], key: str, name: str) -> int:
    value = config.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ModelError(f"{name}: its config.json has no valid {key}, which dgpo plan needs")
    return value


_WIDE_BYTES = 8 << 20  # limit of a float32 copy of hidden states or weights


class TileSize(NamedTuple):
    """Tokens and vocabulary entries of a tile, and tokens of the slices it is reduced in."""

    rows: int
    columns: int
    slice_rows: int


def tile_size(width: int, *, cpu: bool) -> TileSize:
    """Return the tiles for hidden states of `width` numbers.

    The buffers of a pass are at most about 50 MiB on a CPU, whatever N and V. On a GPU they are
    about 400 MiB: there is no cache to slice for, and a tile must be worth its launches (measured
    on an H100 for D = 3584: benchmarks/gpu.py).
    """
    if cpu:
        fit = _power_of_two(_WIDE_BYTES // (4 * width))
        return TileSize(rows=min(1024, fit), columns=min(1024, fit), slice_rows=64)
    return TileSize(rows=2048, columns=16384, slice_rows=2048)


def _power_of_two(limit: int) -> int:
    """Return the largest power of two up to `limit`, at least 64."""
    return max(64, 1 << (max(1, limit).bit_length() - 1))


_BLOCK = 64


def room_for(tokens: int) -> int:
    """Return the capacity of a buffer that must hold `tokens`."""
    return tokens + max(_BLOCK, tokens // 4)


def final_room(*, prompt: int, fed: int) -> int:
    """Return the final capacity of a buffer.

    Args:
        prompt: tokens that fill it exactly at the start.
        fed: tokens added one by one.
    """
    room = prompt
    while room < prompt + fed:
        room = room_for(room + 1)
    return room
