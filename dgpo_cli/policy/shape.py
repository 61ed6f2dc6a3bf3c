"""The numbers that determine memory and time: of a model's config, and of buffers. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from dgpo_cli.core.errors import ModelError

# Decoders of these families have exactly the linear layers counted here.
KNOWN_FAMILIES = frozenset({"llama", "mistral", "qwen2", "qwen3"})
# And these have the experts that are counted here.
EXPERT_FAMILIES = frozenset({"gpt_oss", "mixtral", "olmoe", "qwen2_moe", "qwen3_moe"})
_EXPERT_KEYS = ("num_experts", "num_local_experts", "n_routed_experts")

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
class Experts:
    """The experts of a mixture: `count` gated MLPs of a width in each of `layers` blocks, of which
    a router takes `active` for a token.

    shared: width of one more that every token passes, with a gate of its own; 0: none.
    adapted: an adapter on all linear layers is on experts and router, too.
    biased: experts and router have biases. packed: the experts are stored in MXFP4.
    """

    count: int
    active: int
    width: int
    layers: int
    shared: int
    adapted: bool
    biased: bool = False
    packed: bool = False


@dataclass(frozen=True, slots=True)
class ModelShape:
    """A decoder: attention with grouped keys, a gated MLP, two norms per block.

    tied: the output head is the input embedding. qk_norm: width of the norms of queries and keys.
    eager: attention has a soft-cap on its logits or sinks, which only eager attention computes.
    sinks: one for each head of a block.
    experts: in place of the MLP in some blocks, or in all.
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
    qk_norm: int
    eager: bool = False
    sinks: bool = False
    experts: Experts | None = None

    @property
    def queries(self) -> int:
        """Total width of the query heads."""
        return self.heads * self.head_dim

    @property
    def keys(self) -> int:
        """Total width of the key heads, and of the value heads."""
        return self.kv_heads * self.head_dim

    @property
    def dense_layers(self) -> int:
        """Blocks without experts."""
        return self.layers - (self.experts.layers if self.experts else 0)

    @property
    def linears(self) -> tuple[LinearShape, ...]:
        """The linear layers of one block without experts."""
        return self._attention + self._mlp(self.intermediate)

    @property
    def _attention(self) -> tuple[LinearShape, ...]:
        d, q, k = self.hidden, self.queries, self.keys
        return (
            LinearShape("q_proj", d, q, self.qkv_bias),
            LinearShape("k_proj", d, k, self.qkv_bias),
            LinearShape("v_proj", d, k, self.qkv_bias),
            LinearShape("o_proj", q, d, self.output_bias),
        )

    def _mlp(self, width: int) -> tuple[LinearShape, ...]:
        d = self.hidden
        return (
            LinearShape("gate_proj", d, width, self.mlp_bias),
            LinearShape("up_proj", d, width, self.mlp_bias),
            LinearShape("down_proj", width, d, self.mlp_bias),
        )

    @property
    def block_matrices(self) -> int:
        """Weights in the matrices of all blocks, without biases."""
        return self._matrices(self.experts.count if self.experts else 0) + self._routers

    @property
    def active_matrices(self) -> int:
        """Those of them that a token is multiplied with."""
        return self._matrices(self.experts.active if self.experts else 0) + self._routers

    @property
    def linear_matrices(self) -> int:
        """Those of them that are linear layers, which can be stored in 4 bits."""
        return self._matrices(0)

    @property
    def packed_matrices(self) -> int:
        """Those of them that are stored in 4 bits."""
        found = self.experts
        return self._matrices(found.count) - self._matrices(0) if found and found.packed else 0

    def _matrices(self, experts: int) -> int:
        found = _weights(self._attention) * self.layers + _weights(self._mlp(self.intermediate)) * (
            self.dense_layers
        )
        if self.experts is not None:
            each, shared = (self._mlp(w) for w in (self.experts.width, self.experts.shared))
            gate = self.hidden if self.experts.shared else 0
            found += self.experts.layers * (experts * _weights(each) + _weights(shared) + gate)
        return found

    @property
    def _routers(self) -> int:
        mixture = self.experts
        return mixture.layers * mixture.count * self.hidden if mixture else 0

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
        biases = self.layers * sum(x.outputs for x in self._attention if x.bias)
        biases += self.dense_layers * sum(x.outputs for x in self._mlp(self.intermediate) if x.bias)
        if self.experts is not None and self.experts.biased:
            each = 2 * self.experts.width + self.hidden + 1  # 1: the router's
            biases += self.experts.layers * self.experts.count * each
        sinks = self.heads if self.sinks else 0
        return self.layers * (2 * self.hidden + self.qk_norm + sinks) + biases + self.hidden

    @property
    def parameters(self) -> int:
        return self.block_matrices + self.outside_blocks + self.small

    @property
    def active(self) -> int:
        """Weights without the experts that a token does not pass."""
        return self.active_matrices + self.outside_blocks + self.small

    def adapter_parameters(self, *, rank: int, targets: str | tuple[str, ...]) -> int:
        """Return the weights of a LoRA adapter: rank x (inputs + outputs) per layer.

        Raises:
            ModelError: a target is not a linear layer of a block.
        """
        names = (targets,) if isinstance(targets, str) else targets
        known = self._adapted
        if "all-linear" in names:
            names = tuple(known)
        unknown = [name for name in names if name not in known]
        if unknown:
            raise ModelError(
                f"adapter.targets={', '.join(unknown)}: not known to the plan; set all-linear, or "
                f"some of {', '.join(known)}"
            )
        return rank * sum(known[name] for name in set(names))

    @property
    def _adapted(self) -> dict[str, int]:
        """Weights of an adapter of rank 1 in all blocks, by the name of the layer."""
        found = {x.name: self.layers * _sides(x) for x in self._attention}
        mixture, dense = self.experts, self._mlp(self.intermediate)
        if mixture is None:
            return found | {x.name: self.layers * _sides(x) for x in dense}
        if self.family == "gpt_oss":
            return found
        if not mixture.adapted:
            shared = self._mlp(mixture.shared)
            for x, y in zip(dense, shared, strict=True):
                found[x.name] = self.dense_layers * _sides(x) + mixture.layers * _sides(y)
            return found | {"shared_expert_gate": mixture.layers * (self.hidden + 1)}
        # The first two products are one, of two ranks; dense blocks have no adapter on theirs.
        names = ("w1", "w3", "w2") if self.family == "mixtral" else tuple(x.name for x in dense)
        one = mixture.layers * mixture.count
        first, second = self.hidden + 2 * mixture.width, mixture.width + self.hidden
        found |= dict(zip(names, (one * first, one * first, one * second), strict=True))
        return found | {"gate": mixture.layers * (self.hidden + mixture.count)}


def _weights(linears: tuple[LinearShape, ...]) -> int:
    return sum(x.inputs * x.outputs for x in linears)


def _sides(linear: LinearShape) -> int:
    return linear.inputs + linear.outputs


def shape_of(config: Mapping[str, Any], *, name: str) -> ModelShape:
    """Read the shape of a model from its config.json.

    Args:
        name: of the model, for messages.

    Raises:
        ModelError: numbers are missing, or the model has experts that are not counted.
    """
    text = config.get("text_config") or config
    family = str(text.get("model_type", "unknown"))
    hidden, heads = _number(text, "hidden_size", name), _number(text, "num_attention_heads", name)
    kv_heads = int(text.get("num_key_value_heads") or heads)
    head_dim = int(text.get("head_dim") or hidden // heads)
    biased = bool(text.get("attention_bias", family == "gpt_oss"))
    norms = {"olmoe": (heads + kv_heads) * head_dim, "qwen3": 2 * head_dim}
    return ModelShape(
        family=family,
        hidden=hidden,
        intermediate=_number(text, "intermediate_size", name),
        layers=_number(text, "num_hidden_layers", name),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocab=_number(text, "vocab_size", name),
        tied=bool(config.get("tie_word_embeddings", text.get("tie_word_embeddings", False))),
        qkv_bias=biased or family == "qwen2" or bool(text.get("qkv_bias", family == "qwen2_moe")),
        output_bias=biased and family != "qwen2",
        mlp_bias=bool(text.get("mlp_bias", False)),
        qk_norm=norms.get(family.removesuffix("_moe"), 0),
        eager=family == "gpt_oss" or text.get("attn_logit_softcapping") is not None,
        sinks=family == "gpt_oss",
        experts=_experts(text, family=family, name=name),
    )


def _experts(config: Mapping[str, Any], *, family: str, name: str) -> Experts | None:
    key = next((key for key in _EXPERT_KEYS if config.get(key)), None)
    if key is None:
        return None
    if family not in EXPERT_FAMILIES:
        raise ModelError(
            f"{name}: dgpo plan cannot count the experts of {family}, only those of "
            f"{', '.join(sorted(EXPERT_FAMILIES))}"
        )
    layers = _number(config, "num_hidden_layers", name)
    step, dense = int(config.get("decoder_sparse_step") or 1), config.get("mlp_only_layers") or ()
    sparse = [n for n in range(layers) if n not in dense and (n + 1) % step == 0]
    own = "moe_intermediate_size" if "moe_intermediate_size" in config else "intermediate_size"
    return Experts(
        count=_number(config, key, name),
        active=_number(config, "num_experts_per_tok", name),
        width=_number(config, own, name),
        layers=len(sparse),
        shared=int(config.get("shared_expert_intermediate_size") or 0),
        adapted=family not in ("gpt_oss", "qwen2_moe"),
        biased=family == "gpt_oss",
        packed=(config.get("quantization_config") or {}).get("quant_method") == "mxfp4",
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


def capacity_for(tokens: int) -> int:
    """Return the capacity of a buffer at a fixed address that must hold `tokens`.

    Quarters of powers of two: attention reads at most a quarter too much, and the few sizes are
    those of other batches.
    """
    quarter = max(_BLOCK, 1 << max(0, (tokens - 1).bit_length() - 3))
    return -(-tokens // quarter) * quarter
