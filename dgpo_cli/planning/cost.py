"""Seconds of a step by phase, from counted work and a device's speed; no torch here.

Work is counted exactly (matrix products, attention, bytes moved); the share of a device's peak
that it reaches is assumed, here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from dgpo_cli.core.numbers import duration
from dgpo_cli.planning.activations import FLOAT32
from dgpo_cli.planning.budget import Device, PhaseTime
from dgpo_cli.planning.job import NODE, Job
from dgpo_cli.planning.memory import (
    cache_bytes_per_token,
    sampler_weights,
    vllm_cache,
    weight_bytes,
)
from dgpo_cli.planning.traffic import Compute, networks_of, traffic_of

# Share of the peak that training's products reach: dense kernels on a GPU; 4-bit weights are
# unpacked every time; a CPU's peak is measured by a product of the model's own size.
_MFU = {"cuda": 0.4, "cpu": 0.75, "mps": 0.3}
_MFU_PACKED = 0.25
# Share of the bandwidth, and of the peak, that decoding reaches.
_BANDWIDTH = 0.6
_MFU_DECODING = 0.3
# Without CUDA graphs a layer of one decoding step takes this long, however small the batch.
_LAUNCH_S = {"cuda": 8e-4, "cpu": 2e-4, "mps": 8e-4}
_VLLM_LAUNCH_S = 1e-4
# Most places in a completion whose value a credit rule by values estimates.
PLACES = 64
# Share of continuations that leave a completion at each of its tokens: one less the policy's mean
# probability of what it samples. Assumed; the embedded model's is 0.04.
LEAVING = 0.1
# An engine on several devices sums twice a layer, of few rows.
_SPLIT_S = 2e-5

ASSUMPTIONS = (
    f"training reaches {_MFU['cuda']:.0%} of a GPU's peak ({_MFU_PACKED:.0%} in 4 bits), "
    f"{_MFU['cpu']:.0%} of a CPU's measured one; sampling reaches {_BANDWIDTH:.0%} of the "
    "bandwidth; every completion has an advantage; checking answers and loading are not counted"
)


def times_of(job: Job, device: Device) -> tuple[PhaseTime, ...]:
    """Return the phases of a step; empty if the device's speed is unknown."""
    flops = device.flops.get(dtype_name(job.training.product))
    if not flops or not device.bandwidth:
        return ()
    phases = tuple(_phases(job, device, flops=flops))
    networks = networks_of(traffic_of(job), job, device, compute=compute_of(phases))
    if not networks:
        return phases
    found = networks[-1]
    hidden = found.seconds - found.exposed
    rate = f" at {found.gigabits} Gb/s a device" if job.layout.gpus > NODE else ""
    note = f"{duration(hidden)} more are hidden{rate}"
    return (*phases, PhaseTime("communication", found.exposed, note))


def compute_of(times: tuple[PhaseTime, ...]) -> Compute:
    """Return the seconds that exchanges of weights may hide behind."""
    seconds = {phase.name: phase.seconds for phase in times}
    forward = sum(seconds.get(name, 0.0) for name in ("reference", "policy forward"))
    return Compute(forward=forward, backward=seconds.get("backward", 0.0))


def dtype_name(element: int) -> str:
    """Return the arithmetic for numbers of `element` bytes."""
    return "float32" if element == FLOAT32 else "bfloat16"


def forward_flops(job: Job, *, rows: int) -> float:
    """Return the operations of a forward pass over `rows` typical rows, without the head.

    Shared prompts count once, except in attention.
    """
    places = job.typical_prompt + job.typical_completion
    return rows * (_products(job, tokens=job.tokens_of_a_row) + _attention(job, places=places))


def recomputed_flops(job: Job, *, rows: int) -> float:
    """Return the operations that backward adds to compute activations of typical rows again."""
    if job.checkpointing == "none":
        return 0.0
    if job.checkpointing == "selective":
        return rows * _products(job, tokens=job.tokens_of_a_row)
    return forward_flops(job, rows=rows)


def prefill_flops(job: Job) -> float:
    """Return the operations of a forward pass over every prompt of a step, once."""
    tokens = job.typical_prompt
    return job.prompts * (_products(job, tokens=tokens) + _attention(job, places=tokens))


def _products(job: Job, *, tokens: float) -> float:
    shape = job.shape
    share = shape.active_matrices / shape.block_matrices  # of experts, and of their adapter
    return 2.0 * (shape.active_matrices + share * job.adapter) * tokens


def _attention(job: Job, *, places: int) -> float:
    # Queries with keys, and weights with values: causal, so half the square.
    return 2.0 * 2 * job.shape.layers * job.shape.queries * places * places / 2


def head_flops(job: Job, *, rows: int) -> float:
    """Return the operations of one product of the predicted tokens with the output head."""
    return 2.0 * job.shape.head_weights * rows * job.typical_completion


def _phases(job: Job, device: Device, *, flops: float) -> Iterator[PhaseTime]:
    reached = (_MFU_PACKED if job.packed and device.kind != "cpu" else _MFU[device.kind]) * flops
    speed = reached * job.layout.sequence  # of the devices that share a micro-batch
    passes = job.passes

    def seconds(rows: int, *, forward: float = 1.0, head: float = 1.0) -> float:
        work = forward * forward_flops(job, rows=rows) + head * head_flops(job, rows=rows)
        return work / speed

    # Rows of all updates but the first are measured before it and run again in their own update.
    measured, trained = passes.measured_rows, passes.trained_rows
    once = seconds(-(-job.rows // job.layout.lanes))
    yield _sampling(job, device, flops=flops)
    if job.continuations:
        yield _values(job, device, flops=flops)
    if job.overlap:
        # The completions are scored once more by the weights that sampled them.
        yield PhaseTime("old log-probs", once, "compute")
    if job.distance:
        yield PhaseTime("reference", seconds(passes.reference_rows), "compute")
    # Besides the logits, the pass that trains sums a mean row of the head.
    yield PhaseTime("policy forward", seconds(measured) + seconds(trained, head=2.0), "compute")
    # Full training: gradients of inputs and of weights; LoRA: of inputs alone.
    backward = seconds(trained, forward=2.0 if job.full else 1.0, head=2.0 if job.full else 0.0)
    backward += recomputed_flops(job, rows=trained) / speed
    yield PhaseTime("backward", backward, "compute")
    # AdamW reads weight, gradient and two moments, and writes all but the gradient.
    moved = job.updates * job.trained * FLOAT32 * 7 / job.layout.shards
    yield PhaseTime("optimiser", moved / (_BANDWIDTH * device.bandwidth), "bandwidth")


def _sampling(job: Job, device: Device, *, flops: float) -> PhaseTime:
    """Estimate decoding: every step reads all weights and the cache of its rows once."""
    kind = job.sampling.kind
    total, split = job.rows, job.sampling.split
    length = job.typical_prompt + job.typical_completion
    each = max(1, length * cache_bytes_per_token(job))
    limit, engines = job.sampling.rows or total, max(1, job.layout.gpus // split)
    if kind != "hf":
        room = vllm_cache(job, device) if kind == "vllm" else int(0.8 * device.memory)
        limit = max(1, min(limit, split * max(0, room) // each))
    rows = min(total, engines * limit)
    per_engine = math.ceil(rows / engines)
    steps = math.ceil(total / rows) * job.typical_completion
    middle = job.typical_prompt + job.typical_completion / 2
    weights = weight_bytes(job) if kind == "hf" else sampler_weights(job)
    cached = per_engine * middle * cache_bytes_per_token(job) * _cache_passes(job)
    memory_s = (weights + cached / split) / (_BANDWIDTH * device.bandwidth)
    work = 2.0 * (job.shape.active_matrices + job.shape.head_weights) * per_engine
    compute_s = work / split / (_MFU_DECODING * flops)
    launch = (_LAUNCH_S[device.kind] if kind == "hf" else _VLLM_LAUNCH_S) * job.shape.layers
    slowest = max(memory_s, compute_s, launch)
    bound = {memory_s: "bandwidth", compute_s: "compute", launch: "launches"}[slowest]
    if split > 1:
        slowest += 2 * job.shape.layers * _SPLIT_S
    if device.kind == "cpu" and slowest != launch:
        slowest += launch  # a CPU prepares the next launch only after the last is done
    prefill_s = prefill_flops(job) / (_MFU[device.kind] * flops * job.layout.gpus)
    note = f"{bound}, {rows:,} rows at a time"
    return PhaseTime("sampling", steps * slowest + prefill_s, note, beside=samples_beside(job))


def _values(job: Job, device: Device, *, flops: float) -> PhaseTime:
    """Estimate the continuations, as sampling of prompts that end in the middle of a completion.

    Those of a place that run through the next are not sampled again.
    """
    length = max(2, job.typical_completion)
    places = min(PLACES, length)
    new = 1.0 - (1.0 - LEAVING) ** (length / places)
    continued = replace(
        job,
        prompts=math.ceil(job.rows * places * new),
        group_size=job.continuations,
        typical_prompt=job.typical_prompt + length // 2,
        typical_completion=length // 2,
    )
    found = _sampling(continued, device, flops=flops)
    return PhaseTime("values", found.seconds, f"about {continued.rows:,} continuations")


def _cache_passes(job: Job) -> float:
    """Return how often a decoding step reads or writes the cache.

    transformers repeats keys and values for every query head: read, written larger, read again.
    """
    shape = job.shape
    if job.sampling.kind != "hf" or shape.heads == shape.kv_heads:
        return 1.0
    return 1.0 + 2.0 * shape.heads / shape.kv_heads


def samples_beside(job: Job) -> bool:
    """Whether sampling costs a step only the time by which it exceeds training.

    dgpo's own engine shares the device with the trainer: running together, each is slower.
    """
    return job.overlap and job.sampling.kind == "vllm-server"
