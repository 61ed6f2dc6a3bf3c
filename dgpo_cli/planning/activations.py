"""Tensors that a decoder's forward pass keeps for its backward pass; no torch here.

Counted on packed rows (policy/packing.py) with torch's own attention kernels, for the blocks of
the Llama and Qwen families as transformers writes them. The tests count the same with autograd's
saved-tensor hooks.
"""

from __future__ import annotations

from dataclasses import dataclass

from dgpo_cli.policy.settings import CheckpointingKind
from dgpo_cli.policy.shape import Experts, ModelShape

FLOAT32 = 4


@dataclass(frozen=True, slots=True)
class Training:
    """How a model is trained, as far as its activations depend on it.

    element: bytes per number of the base model. rank: of the LoRA adapter; 0 trains every weight.
    checkpointing: not auto. compute: bytes per number of matrix products if autocast rounds them.
    repeats: whether attention repeats keys and values for their queries.
    """

    element: int
    rank: int
    checkpointing: CheckpointingKind
    compute: int | None = None
    repeats: bool = False

    @property
    def full(self) -> bool:
        return self.rank == 0

    @property
    def product(self) -> int:
        """Bytes per number of a matrix product."""
        return self.compute or self.element


def blocks_bytes(shape: ModelShape, training: Training) -> int:
    """Return the bytes that all blocks keep per token, without attention's rectangle."""
    found = shape.dense_layers * block_bytes(shape, training)
    if shape.experts is not None:
        found += shape.experts.layers * block_bytes(shape, training, experts=shape.experts)
    return found


def block_bytes(shape: ModelShape, training: Training, *, experts: Experts | None = None) -> int:
    """Return the bytes that one block keeps per token, without attention's rectangle.

    An adapter is assumed on every linear layer. experts: of a block that has them.
    """
    d, q = shape.hidden, shape.queries
    sums = FLOAT32 * 2  # 1 / rms of both norms
    norms = 2 * d * FLOAT32  # both norms work in float32
    if training.full:
        norms += 2 * d * training.element  # the normed rows, for the gradient of the norms' weights
    rest = sums + norms + _inputs(training, layers=3, rows=d) + _inputs(training, layers=1, rows=q)
    if shape.qk_norm:
        normed = shape.queries + shape.keys
        rest += normed * FLOAT32 + (normed * training.element if training.full else 0)
        rest += FLOAT32 * (shape.heads + shape.kv_heads)
    if experts is not None:
        return rest + _expert_bytes(shape, training, experts=experts)
    if shape.experts is not None and shape.experts.adapted and not training.full:
        return rest + 3 * shape.intermediate * training.product  # see ModelShape._adapted
    return rest + _mlp_bytes(shape, training, width=shape.intermediate)


def _inputs(training: Training, *, layers: int, rows: int) -> int:
    """Return the bytes per token of the input, `rows` wide, of linear layers that share it."""
    if training.full:
        return rows * training.product
    if training.compute:
        return training.product * (rows + training.rank * layers)
    # LoRA multiplies in float32: a base in another dtype gives every layer a copy of its own.
    copies = 1 if training.product == FLOAT32 else layers
    return FLOAT32 * (rows * copies + training.rank * layers)


def _mlp_bytes(shape: ModelShape, training: Training, *, width: int) -> int:
    kept = 3 * width * training.product  # gate before and after its activation, up
    kept += _inputs(training, layers=2, rows=shape.hidden)
    return kept + _inputs(training, layers=1, rows=width)


def _expert_bytes(shape: ModelShape, training: Training, *, experts: Experts) -> int:
    d, e, k = shape.hidden, training.product, experts.active
    # For each of a token's experts: as in an MLP, and the output, for the gradient of its weight.
    each = 3 * experts.width + d
    if training.full or experts.adapted:  # inputs of both products
        each += d + experts.width
    kept = k * each * e
    # The router's input and probabilities; numbers and weights of the chosen, and their order.
    kept += d * e + experts.count * FLOAT32 + k * (4 * 8 + 3 * FLOAT32)
    if experts.shared:
        kept += _mlp_bytes(shape, training, width=experts.shared) + d * e
    return kept


def place_bytes(shape: ModelShape, training: Training) -> int:
    """Return the bytes that one block keeps per place in attention's rectangle: queries, keys,
    values, and what attention gives.
    """
    keys = shape.queries if training.repeats else shape.keys
    return (shape.queries + 2 * keys) * training.product + _attended(shape, training)


def _attended(shape: ModelShape, training: Training) -> int:
    """Return the bytes per place of attention's output and each head's log-sum-exp."""
    return shape.queries * training.product + FLOAT32 * shape.heads


def kept_bytes(shape: ModelShape, training: Training, *, tokens: int, places: int) -> int:
    """Return the bytes that a forward pass over `tokens` tokens keeps until backward.

    places: of attention's rectangle; more than tokens if sequences share a prefix.
    """
    e = training.element
    last_norm = shape.hidden * (FLOAT32 + (e if training.full else 0)) + FLOAT32
    per_token = last_norm
    per_token += 2 * shape.head_dim * e  # the rotary angles' cosines and sines
    attention = 0
    match training.checkpointing:
        case "full":
            per_token += shape.layers * shape.hidden * e  # the input of every block
        case "selective":
            per_token += shape.layers * shape.hidden * e
            attention = shape.layers * _attended(shape, training)
        case "offload":
            per_token += min(2, shape.layers) * shape.hidden * e  # one at work, one on its way
        case _:
            per_token += blocks_bytes(shape, training)
            attention = shape.layers * place_bytes(shape, training)
            if not training.full:
                # Nothing before the first norm is trained: it keeps no input.
                per_token -= shape.hidden * FLOAT32 + FLOAT32
    return tokens * per_token + places * attention


def parked_bytes(shape: ModelShape, training: Training, *, tokens: int) -> int:
    """Return the bytes that a forward pass keeps in the host's memory until backward."""
    if training.checkpointing != "offload":
        return 0
    return tokens * shape.layers * shape.hidden * training.element


def backward_bytes(shape: ModelShape, training: Training, *, tokens: int, places: int) -> int:
    """Return the most bytes that backward needs on top of what forward kept.

    The peak is at the last block's MLP, while everything before it is still kept: the gradients
    of its product's factors, less what backward has released. With gradient checkpointing that
    block is recomputed first.
    """
    d, i, e = shape.hidden, shape.intermediate, training.product
    # LoRA's share of a gradient exists before the two are added, in float32 like the adapter.
    own = training.compute or FLOAT32
    flow = (i + 2 * d) * e if training.full else i * (own + e) + d * own
    block, experts = block_bytes(shape, training), shape.experts
    if experts is not None:
        flow = (experts.active * (experts.width + 2 * d) + d) * e
        block = block_bytes(shape, training, experts=experts)
    if training.checkpointing == "none":
        return tokens * flow
    attention = place_bytes(shape, training)
    if training.checkpointing == "selective":
        attention -= _attended(shape, training)
    return tokens * (flow + block) + places * attention


def forward_bytes(shape: ModelShape, *, tokens: int, element: int) -> int:
    """Return the most bytes of a forward pass without gradients: one block's MLP."""
    width = 3 * shape.intermediate + 3 * shape.hidden
    if shape.experts is not None:
        width = shape.experts.active * 3 * (shape.experts.width + shape.hidden)
    return tokens * width * element
