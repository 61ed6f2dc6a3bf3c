"""Memory of a run by part, in bytes on one device, from arithmetic alone.

A step peaks either in sampling (key-value cache, logits of a batch of rows) or in training
(gradients, activations, buffers of the token pass); weights, optimiser and the process itself
are always in memory.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

from dgpo_cli.planning.activations import (
    FLOAT32,
    backward_bytes,
    blocks_bytes,
    forward_bytes,
    kept_bytes,
    place_bytes,
)
from dgpo_cli.planning.budget import Device, MemoryNeed, MemoryPart
from dgpo_cli.planning.job import Job, StateKind
from dgpo_cli.policy.settings import CheckpointingKind
from dgpo_cli.policy.shape import capacity_for, final_room, tile_size

MIB = 1 << 20
GIB = 1 << 30

# The kinds of gradient checkpointing that auto takes, the fastest first; and the share of a device
# that the faster ones must leave free, because much of what is counted is assumed.
AUTOMATIC: tuple[CheckpointingKind, ...] = ("none", "selective", "full")
SPARE = 0.08

# NF4 with double quantisation: half a byte per weight, a one-byte scale per 64 weights, and a
# float32 scale per 256 of those. Source: QLoRA, arXiv 2305.14314, section 3.
NF4_BYTES = 0.5 + 1 / 64 + FLOAT32 / (64 * 256)

# Measured: a CPU process with Python, torch and transformers; peft on top.
_PROCESS_CPU = 420 * MIB
_PROCESS_PEFT = 45 * MIB
# Measured: one worker of the answer checker.
WORKER = 70 * MIB
# Context, kernels and cuBLAS workspaces of a process on a GPU; assumed.
_PROCESS_CUDA = 1 * GIB
# vLLM on a CPU: its default cache (VLLM_CPU_KVCACHE_SPACE), and the rest of its process.
_VLLM_CPU = 4 * GIB + 1 * GIB
# Part of its share that vLLM uses for activations and graphs on a GPU; assumed.
VLLM_WORKSPACE = 2 * GIB
# Context, graphs and buffers of a vLLM that sleeps; assumed, reports go from 0.8 to 7 GiB.
_ASLEEP = 5 * GIB // 2
# Buffers of the collectives; assumed.
_NCCL = 1 * GIB
# Not from CUDA's allocator, or never freed.
_FIXED = ("gradients", "sampler", "sampler asleep")
# Reserve of CUDA's allocator, as a share of what is allocated and freed.
_CACHE_CUDA = 0.1
# glibc serves blocks below 32 MiB from a heap, where aligned blocks do not fit into the holes that
# they leave: measured, as a share of what all blocks keep in one pass.
_HEAP_HOLES = 1.25
_HEAP_BLOCK = 32 * MIB
MALLOC = "MALLOC_MMAP_THRESHOLD_"
_MXFP4_BYTES = 17 / 32  # of a weight: four bits, and eight for each block of 32
# Bytes of eager attention for a query and a key of one head, while a layer is at work: measured in
# bfloat16 and float32 on Gemma 2, whose softmax is in float32, and on gpt-oss, whose is not.
_MATRIX_BYTES = 18
_SINK_MATRICES = 3.5


def memory_of(job: Job, device: Device) -> MemoryNeed:
    """Return the memory that a run needs on one device, by part."""
    parts = [part for part in _always(job, device) if part.bytes]
    for phase in (_sampling(job, device), _training(job, device)):
        found = [part for part in phase if part.bytes]
        parts += found + [p for p in (_allocator(job, device, found),) if p is not None]
    return MemoryNeed(tuple(parts))


def settled(job: Job, device: Device) -> Job:
    """Return the job with the kind of gradient checkpointing that auto takes: the fastest whose
    training fits the device and leaves a share of it free, else full.
    """
    if job.checkpointing != "auto" and not job.chosen:
        return job
    for kind in AUTOMATIC:
        job = replace(job, checkpointing=kind, chosen=True)
        if memory_of(job, device).during("training") <= device.room - SPARE * device.memory:
            break
    return job


def weight_bytes(job: Job) -> int:
    """Return the bytes of the base model, unsharded."""
    shape = job.shape
    if not job.packed:
        return shape.parameters * job.element
    rest = (shape.parameters - shape.linear_matrices) * job.element
    return rest + round(shape.linear_matrices * NF4_BYTES)


def cache_bytes_per_token(job: Job) -> int:
    """Return the bytes of keys and values of one token in all layers, in the model's dtype."""
    element = job.element if job.sampling.kind == "hf" else _sampler_element(job)
    return 2 * job.shape.layers * job.shape.keys * element


def _sampler_element(job: Job) -> int:
    """Bytes per number in vLLM."""
    return job.sampling.element or job.element


def sampler_weights(job: Job) -> int:
    """Return the bytes of vLLM's weights on one device.

    They are split over the devices of an engine, and in 4 bits only where the trainer's are, or
    those that are stored so.
    """
    if job.packed:
        return weight_bytes(job) // job.sampling.split
    packed = job.shape.packed_matrices
    rest = _sampler_element(job) * (job.shape.parameters - packed)
    return (rest + round(packed * _MXFP4_BYTES)) // job.sampling.split


def sampler_share(job: Job, device: Device) -> int:
    """Return the bytes that vLLM takes on the device."""
    if job.sampling.kind != "vllm":
        return 0
    if device.kind == "cpu":
        return sampler_weights(job) + _VLLM_CPU
    return int(job.sampling.share * device.memory)


def vllm_cache(job: Job, device: Device) -> int:
    """Return the bytes of vLLM's share left for its cache; negative if it does not fit."""
    if device.kind == "cpu":
        return 4 * GIB
    return sampler_share(job, device) - sampler_weights(job) - VLLM_WORKSPACE


def _always(job: Job, device: Device) -> Iterator[MemoryPart]:
    cpu = device.kind == "cpu"
    process = _PROCESS_CPU + (0 if job.full else _PROCESS_PEFT) if cpu else _PROCESS_CUDA
    yield MemoryPart(
        "process", process, "always", "libraries" if cpu else "CUDA context, libraries"
    )
    if cpu:
        yield MemoryPart(
            "answer workers", job.workers * WORKER, "always", f"{job.workers} processes"
        )
    layout = job.layout
    shards = layout.shards
    if layout.gpus > 1 and not cpu:
        yield MemoryPart("collectives", _NCCL, "always", "NCCL's buffers, assumed")
    weights = weight_bytes(job) // shards
    kind = "NF4, double quantised" if job.packed else f"{8 * job.element} bits"
    yield MemoryPart("weights", weights, "always", kind)
    if job.full and job.distance and not layout.offload:
        note = "a second, frozen copy"
        if layout.sharded:
            note += f", {8 * job.product} bits"
        yield MemoryPart("reference", reference_bytes(job), "always", note)
    if not job.full:
        yield MemoryPart(
            "adapter", job.adapter * FLOAT32 // shards, "always", f"LoRA, rank {job.rank}"
        )
    if job.overlap and cpu:  # on a GPU they are kept in the host's memory
        kept = job.trained * FLOAT32 // shards
        yield MemoryPart("weights before", kept, "always", "of the last step, for rollout.overlap")
        if job.full:
            aside = "the sampler's, in case it restarts"
            yield MemoryPart("weights aside", weights, "always", aside)
    yield MemoryPart(
        "optimiser", state_bytes(job, job.state) // shards, "always", _STATES[job.state]
    )
    when: Literal["always", "sampling"] = "sampling" if job.sampling.sleeps else "always"
    yield MemoryPart("sampler", sampler_share(job, device), when, "vLLM: its own weights and cache")


def reference_bytes(job: Job) -> int:
    """Return the bytes of one device's part of a second model; sharded, it is stored rounded."""
    if not job.layout.sharded:
        return weight_bytes(job)
    return job.shape.parameters * job.product // job.layout.shards


_STATES = {
    "adamw": "AdamW, two float32 numbers per weight",
    "adamw8bit": "AdamW, two bytes per weight",
    "paged-adamw8bit": "AdamW in the host's memory",
}


def state_bytes(job: Job, state: StateKind) -> int:
    """Return the bytes on the devices of the state of all trained weights."""
    if state == "paged-adamw8bit":
        return 0
    if state == "adamw8bit":
        # A float32 scale for every 256 numbers.
        return round(job.trained * 2 * (1 + FLOAT32 / 256))
    return job.trained * 2 * FLOAT32


def _sampling(job: Job, device: Device) -> Iterator[MemoryPart]:
    shape = job.shape
    if job.sampling.kind != "hf":
        if job.layout.sharded and job.full:
            largest = shape.head_weights * job.element
            yield MemoryPart("gathered tensor", largest, "sampling", "sent to vLLM one by one")
        return
    if job.layout.sharded:
        whole = shape.parameters * job.product
        yield MemoryPart("gathered model", whole, "sampling", "to sample from")
    rows = min(job.sampling.rows, job.rows)
    fixed = device.kind == "cuda" and not job.layout.sharded and not shape.eager
    fed = job.completion - 1
    room = capacity_for(job.prompt + fed) if fixed else final_room(prompt=job.prompt, fed=fed)
    cache = rows * room * cache_bytes_per_token(job)
    # One layer's old buffer, or its keys and values repeated per query head.
    layer = rows * room * shape.keys * job.element
    repeated = 2 * rows * room * shape.queries * job.element if shape.heads > shape.kv_heads else 0
    note = f"{rows} rows of {room:,} tokens"
    # At fixed addresses nothing is repeated, but a layer that moves is there three times at most.
    beside = 3 * layer if fixed else max(layer, repeated)
    yield MemoryPart("key-value cache", cache + beside, "sampling", note)
    # Logits, log-probabilities, probabilities in float32; their running sum in float64.
    logits = rows * shape.vocab * ((4 if fixed else 3) * FLOAT32 + 8)
    if job.element != FLOAT32 and device.kind != "cuda":
        logits += shape.head_weights * FLOAT32  # the head multiplies in float32
    yield MemoryPart("logits", logits, "sampling", "of the next token, in float32")


def _training(job: Job, device: Device) -> Iterator[MemoryPart]:
    shape, training, layout = job.shape, job.training, job.layout
    if job.sampling.sleeps:
        yield MemoryPart("sampler asleep", _ASLEEP, "training", "what vLLM keeps; assumed")
    micro = job.micro_batch
    # Ranks that share a micro-batch have a part of its tokens each, and of its attention heads.
    tokens, places = -(-micro.tokens // layout.sequence), -(-micro.places // layout.sequence)
    predicted = -(-micro.predicted // layout.sequence)
    # Trained weights and their gradients are in float32.
    yield MemoryPart("gradients", job.trained * FLOAT32 // layout.shards, "training", "float32")
    note = f"{tokens:,} tokens"
    if job.checkpointing != "none" or job.chosen:
        note += f", checkpointing: {job.checkpointing}"
    kept = kept_bytes(shape, training, tokens=tokens, places=places)
    back = backward_bytes(shape, training, tokens=tokens, places=places)
    reference = forward_bytes(shape, tokens=tokens, element=training.product) if job.distance else 0
    yield MemoryPart("activations", max(kept + back, reference), "training", note)
    yield MemoryPart(
        "statistics pass",
        _pass_bytes(job, device, predicted=predicted, back=back),
        "training",
        f"{predicted:,} predicted tokens",
    )
    if layout.sharded:
        yield from _gathered(job, activations=max(kept + back, reference))
    elif job.full and job.compute is not None and job.compute < job.element:
        again = job.checkpointing != "none"
        kept = shape.block_matrices // (shape.layers if again else 1)
        note = "for the products" + (", a layer at a time" if again else "")
        yield MemoryPart("rounded weights", kept * job.compute, "training", note)
    if job.eager:
        each = _SINK_MATRICES * training.product if shape.sinks else _MATRIX_BYTES
        layers = shape.layers if job.checkpointing == "none" else 1
        matrices = round(places * job.row_tokens * shape.heads * each) * layers
        yield MemoryPart("attention matrices", matrices, "training", "eager attention")
    mixture = shape.experts
    if mixture is not None and not job.full and mixture.adapted:
        # peft adds the adapter to the experts' weights; backward needs the sum.
        weights = 3 * mixture.count * mixture.width * shape.hidden
        again = job.checkpointing != "none"
        size = weights * (job.product * (1 if again else mixture.layers) + FLOAT32)
        note = "with their adapter" + (", a layer at a time" if again else "")
        yield MemoryPart("adapted experts", size, "training", note)
    if job.packed:
        largest = max(x.inputs * x.outputs for x in shape.linears)
        yield MemoryPart("unpacked layer", largest * job.element, "training", "one at a time")


def _gathered(job: Job, *, activations: int) -> Iterator[MemoryPart]:
    """Yield what sharding gathers, at the moment that needs most: the backward pass of a layer, or
    that of the embedding, when the activations are gone.

    The reference's embedding and head are released before backward.
    """
    whole, trained = job.product, job.layer if job.full else job.adapter // job.shape.layers
    # Gradients are whole too: those of the layer at work, and those of the one before in float32,
    # on their way to their owners, with what arrives.
    summed = FLOAT32 + FLOAT32 / job.layout.shards
    layers = round(job.layer * whole + trained * (whole + summed))
    yield MemoryPart("gathered layer", layers, "training", "and the gradients of two")
    # The stream that gathers has blocks of its own, which serve nothing else.
    buffer = max(job.layer, job.root) * whole
    yield MemoryPart("gather buffer", buffer, "training", "the next layer; the largest so far")
    yield MemoryPart("gathered heads", job.root * whole, "training", "embedding and head")
    if job.full:
        head = job.shape.head_weights * whole
        last = round(job.root * (whole + summed)) - activations - layers
        yield MemoryPart("head's gradient", max(head, last), "training", "until backward ends")


def _pass_bytes(job: Job, device: Device, *, predicted: int, back: int) -> int:
    """Return the bytes that the token pass adds to activations; its tiles end before backward."""
    shape = job.shape
    width = shape.hidden
    # Hidden states of the predicted tokens, of policy and reference, and the slopes in float32.
    kept = predicted * width * (job.training.element * (2 if job.distance else 1) + FLOAT32)
    tiles = tile_size(width, cpu=device.kind == "cpu")
    rows = min(tiles.rows, predicted)
    buffers = FLOAT32 * tiles.columns * (rows * (2 if job.distance else 1) + width)
    buffers += FLOAT32 * min(rows, tiles.slice_rows) * tiles.columns + 3 * FLOAT32 * rows * width
    sharded = job.layout.sharded  # its heads are gathered rounded, and their gradient is a part
    if job.full and job.compute is not None and device.kind == "cuda" and not sharded:
        buffers += shape.head_weights * job.compute * (2 if job.distance else 1)
    full = job.full and not sharded
    head = shape.head_weights * FLOAT32 * (2 if shape.tied else 1) if full else 0
    return kept + max(0, buffers - back) + head


def _allocator(job: Job, device: Device, parts: list[MemoryPart]) -> MemoryPart | None:
    """Return the allocator's reserve for the parts of a phase."""
    if not parts:
        return None
    when: Literal["sampling", "training"] = (
        "sampling" if parts[0].when == "sampling" else "training"
    )
    moving = sum(part.bytes for part in parts if part.name not in _FIXED)
    if device.kind != "cpu":
        return MemoryPart("allocator", round(_CACHE_CUDA * moving), when, "assumed: a tenth")
    # Set, the variable makes glibc return freed blocks at once.
    if when == "sampling" or sys.platform != "linux" or MALLOC in os.environ:
        return None
    micro, shape, training = job.micro_batch, job.shape, job.training
    tokens = micro.tokens
    if tokens * job.shape.intermediate * job.element >= _HEAP_BLOCK:
        return None
    made = tokens * blocks_bytes(shape, training)
    made += shape.layers * micro.places * place_bytes(shape, training)
    return MemoryPart("allocator", round(_HEAP_HOLES * made), when, "holes in glibc's heap")
