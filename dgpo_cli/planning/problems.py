"""Why a run cannot work on a device, besides its memory; no torch here."""

from __future__ import annotations

from dgpo_cli.core.numbers import size
from dgpo_cli.planning.budget import Device
from dgpo_cli.planning.job import NODE, Job
from dgpo_cli.planning.memory import cache_bytes_per_token, sampler_share, vllm_cache
from dgpo_cli.policy.shape import NOT_SAMPLED, sharing_problem


def problems_of(job: Job, device: Device) -> tuple[str, ...]:
    """Return the reasons, besides total memory, why the run cannot work on the device."""
    lines = []
    if job.sampling.kind == "vllm" and device.kind != "cpu":
        need = job.row_tokens * cache_bytes_per_token(job) // job.sampling.split
        left = vllm_cache(job, device)
        if left < need:
            share = sampler_share(job, device)
            lines.append(
                f"rollout.backend.gpu_memory_utilization={job.sampling.share:g}: {size(share)} "
                "for vLLM is too little for weights, workspace and the cache of one row; raise it"
            )
    if job.layout.kind == "hybrid" and job.layout.gpus % job.layout.node:
        lines.append(
            f"parallel.gpus={job.layout.gpus}: parallel.kind=hybrid shards within a machine, here "
            f"one of {NODE} devices; set a multiple of {NODE}, or parallel.kind=shard"
        )
    if job.sampling.kind == "hf" and job.shape.family in NOT_SAMPLED:
        lines.append(
            f"rollout.backend.kind=hf: cannot sample from {job.shape.family}; "
            "set rollout.backend.kind=vllm"
        )
    shape, ranks = job.shape, job.layout.sequence
    unequal = sharing_problem(shape.heads, ranks=ranks, name=f"this {shape.family} model")
    if unequal is not None:
        lines.append(unequal)
    if job.state == "paged-adamw8bit" and device.kind != "cuda":
        lines.append("optim.kind=paged-adamw8bit: needs a CUDA device; set optim.kind=adamw8bit")
    return tuple(lines)
