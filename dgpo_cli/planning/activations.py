"""Tensors that a decoder's forward pass keeps for its backward pass; no torch here.

Counted on packed rows (policy/packing.py) with torch's own attention kernels, for the blocks of
the Llama and Qwen families as transformers writes them. The tests count the same with autograd's
saved-tensor hooks.
"""

from __future__ import annotations

from dataclasses import dataclass

from dgpo_cli.policy.settings import CheckpointingKind
from dgpo_cli.policy.shape import ModelShape

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


def block_bytes(shape: ModelShape, training: Training) -> int:
    """Return the bytes that one block keeps per token, without attention's rectangle.

    An adapter is assumed on every linear layer.
    """
    d, i, q = shape.hidden, shape.intermediate, shape.queries
    e = training.product
    mlp = 3 * i * e  # gate before and after its activation, up
    sums = FLOAT32 * 2  # 1 / rms of both norms
    norms = 2 * d * FLOAT32  # both norms work in float32
    if training.full:
        norms += 2 * d * training.element  # the normed rows, for the gradient of the norms' weights
        inputs = (2 * d + q + i) * e  # of the four groups of linear layers, each once
    elif training.compute:
        inputs = e * (2 * d + q + i + training.rank * len(shape.linears))
    else:
        # LoRA multiplies in float32: a base in another dtype gives every layer a copy of its own.
        inputs = FLOAT32 * ((2 * d if e == FLOAT32 else 5 * d) + q + i)
        inputs += FLOAT32 * training.rank * len(shape.linears)
    return mlp + sums + norms + inputs


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
            per_token += shape.layers * block_bytes(shape, training)
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
    if training.checkpointing == "none":
        return tokens * flow
    attention = place_bytes(shape, training)
    if training.checkpointing == "selective":
        attention -= _attended(shape, training)
    return tokens * (flow + block_bytes(shape, training)) + places * attention


def forward_bytes(shape: ModelShape, *, tokens: int, element: int) -> int:
    """Return the most bytes of a forward pass without gradients: one block's MLP."""
    return tokens * (3 * shape.intermediate + 3 * shape.hidden) * element
