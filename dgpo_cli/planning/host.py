"""Memory of a machine beside that of its devices, by part; no torch here."""

from __future__ import annotations

from collections.abc import Iterator

from dgpo_cli.planning.activations import FLOAT32, parked_bytes
from dgpo_cli.planning.budget import Device, MemoryPart
from dgpo_cli.planning.job import Job
from dgpo_cli.planning.memory import MIB, WORKER, reference_bytes, sampler_weights, state_bytes

# Python, torch and CUDA's libraries of one rank; assumed.
_PROCESS = 2048 * MIB
# A token of a batch: ids of 8 bytes and masks; then statistics, credit and the sampler's
# log-probabilities, float32.
_TOKEN = 8 + 1
_NUMBERS = 6 * FLOAT32
# A sampled token on the leader: a Python int and a float, each with its place in a tuple.
_OBJECT = 36 + 32


def host_of(job: Job, device: Device) -> tuple[MemoryPart, ...]:
    """Return what a machine's own memory holds; nothing on a CPU, whose ranks are counted each."""
    if device.kind == "cpu":
        return ()
    return tuple(part for part in _parts(job) if part.bytes)


def _parts(job: Job) -> Iterator[MemoryPart]:
    layout, node = job.layout, job.layout.node
    yield _part("processes", node * _PROCESS, f"{node} of dgpo, assumed")
    yield _part("answer workers", job.workers * WORKER, f"{job.workers} processes of the leader")
    tokens = job.rows * job.completion
    batch = job.rows * job.row_tokens * _TOKEN + tokens * _NUMBERS
    yield _part("batch", node * batch, "ids and tables of a step, in every process")
    yield _part("completions", tokens * _OBJECT, "of a step, in the leader")
    kept = f"at most rollout.top_k={job.kept} of each sampled token, in every process"
    yield _part("kept tokens", node * tokens * job.kept * FLOAT32, kept)
    parked = parked_bytes(
        job.shape, job.training, tokens=-(-job.micro_batch.tokens // layout.sequence)
    )
    yield _part("activations", node * parked, "the layers' inputs, pinned")
    if layout.offload and job.full and job.distance:
        yield _part("reference", node * reference_bytes(job), "pinned")
    if job.sampling.sleeps:
        yield _part("sampler asleep", node * sampler_weights(job), "vLLM's weights")
    if job.state == "paged-adamw8bit":
        yield _part("optimiser", node * state_bytes(job, "adamw8bit") // layout.shards, "paged")
    if job.overlap:
        yield _part("weights before", node * job.trained * FLOAT32 // layout.shards, "of a step")
    if layout.sharded:
        # Each rank writes its share, of one copy of the model, while training goes on.
        saved = (job.trained * FLOAT32 + state_bytes(job, job.state)) * node // layout.gpus
        yield _part("checkpoint", saved, "copied, then written while training goes on")


def _part(name: str, size: int, note: str) -> MemoryPart:
    return MemoryPart(name, size, "always", note)
