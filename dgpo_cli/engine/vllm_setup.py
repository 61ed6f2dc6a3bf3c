"""Builds the samplers that use vLLM from settings."""

from __future__ import annotations

import os
import secrets
import socket
from dataclasses import replace

from dgpo_cli.config.settings import Settings
from dgpo_cli.core.errors import ConfigError
from dgpo_cli.engine.stored import StoredPolicy
from dgpo_cli.engine.tolerance import (
    engine_dtype,
    logprob_tolerance,
    model_length,
    roughest_dtype,
)
from dgpo_cli.parallel.ranks import ALONE, Ranks
from dgpo_cli.policy.load import model_location
from dgpo_cli.policy.policy import Policy
from dgpo_cli.samplers.base import Sampler, TrainedWeights
from dgpo_cli.samplers.lockstep import Lockstep
from dgpo_cli.samplers.ranked import RankedRemoteSampler
from dgpo_cli.samplers.settings import VllmBackend, VllmServerBackend
from dgpo_cli.samplers.vllm.carriers import AdapterCarrier, Carrier, FullCarrier
from dgpo_cli.samplers.vllm.client import Fleet
from dgpo_cli.samplers.vllm.command import ServerFlags, transfer_name
from dgpo_cli.samplers.vllm.engine import OwnEngine
from dgpo_cli.samplers.vllm.sampler import Limits, VllmSampler
from dgpo_cli.samplers.vllm.server import Another, SharedServers

# vLLM's default, a share of the memory, would starve everything else on a CPU machine.
_CPU_CACHE_GIB = 2.0


def make_vllm_sampler(
    settings: Settings,
    *,
    backend: VllmBackend | VllmServerBackend,
    policy: Policy | StoredPolicy,
    ranks: Ranks = ALONE,
) -> Sampler:
    """Return a sampler on an engine that dgpo starts, or on running servers.

    ranks: every `tensor_parallel_size` of them share an engine on their devices; the first samples
        with it. Servers are the leader's.

    Raises:
        ConfigError: such a group is on several machines, or there are not so many devices.
    """
    if ranks.count == 1:
        devices = _own_devices(policy, backend) if isinstance(backend, VllmBackend) else None
        return _sampler(settings, backend=backend, policy=policy, weights=policy, devices=devices)
    size, devices = ranks.count, None
    if isinstance(backend, VllmBackend):
        size = backend.tensor_parallel_size
        devices = _shared_devices(ranks, policy=policy, size=size)
    lockstep = Lockstep(policy, ranks=ranks, use_device=policy.use_device)
    own = None
    if ranks.number % size == 0:
        own = _sampler(settings, backend=backend, policy=policy, weights=lockstep, devices=devices)
    return RankedRemoteSampler(own, ranks=ranks, among=ranks.count // size, lockstep=lockstep)


def _sampler(
    settings: Settings,
    *,
    backend: VllmBackend | VllmServerBackend,
    policy: Policy | StoredPolicy,
    weights: TrainedWeights,
    devices: str | None = None,
) -> VllmSampler:
    """weights: the policy, as this rank may read it. devices: of the engine; None: all of them."""
    fleet: Fleet
    if isinstance(backend, VllmBackend):
        sleeps = _sleeps(settings, backend=backend, policy=policy)
        flags = engine_flags(settings, backend=backend, policy=policy, sleeps=sleeps)
        fleet = OwnEngine(
            replace(flags, devices=devices),
            startup_timeout_s=backend.startup_timeout_s,
            sleeps=sleeps,
        )
    else:
        fleet = SharedServers(
            backend, model=model_location(settings.model.path), another=_another(policy)
        )
    roughest = roughest_dtype(settings)
    limits = Limits(
        # More than max_num_seqs would wait in the engine; seeded ones crash it on a CPU.
        max_in_flight=backend.max_num_seqs,
        retries=backend.retries,
        request_timeout_s=backend.request_timeout_s,
        tolerance=logprob_tolerance(settings),
        dtype=roughest,
    )
    run = secrets.token_hex(4)
    carrier: Carrier = FullCarrier(
        weights,
        fleet=fleet,
        sync_host=backend.sync_host if isinstance(backend, VllmServerBackend) else None,
        folder=backend.weight_transfer == "folder",
        keep=settings.rollout.overlap > 0,
    )
    if policy.has_adapter:
        carrier = AdapterCarrier(weights, fleet=fleet, run=run)
    return VllmSampler(weights, fleet=fleet, carrier=carrier, limits=limits, run=run)


def _another(policy: Policy | StoredPolicy) -> Another:
    """Return what to do about a server of another model: only a trainer could compare weights.

    A run trains a model further: its weights go to a server of the model that it began with.
    """
    if isinstance(policy, Policy):
        return "noted"
    return "given ours" if policy.is_checkpoint and not policy.has_adapter else "refused"


def _own_devices(policy: Policy | StoredPolicy, backend: VllmBackend) -> str | None:
    """Return the policy's device and those that follow, as CUDA_VISIBLE_DEVICES; None: the first,
    which vLLM takes by itself.

    Raises:
        ConfigError: there are not so many.
    """
    if policy.device.type != "cuda":
        return None
    import torch

    size, first = backend.tensor_parallel_size, policy.device.index or 0
    count = torch.cuda.device_count()
    if first + size > count:
        after = f" from model.device=cuda:{first} on" if first else ""
        raise ConfigError(
            f"rollout.backend.tensor_parallel_size={size}: torch sees {count - first} of them"
            f"{after}; set {count - first} or less" + (", or model.device=auto" if first else "")
        )
    return ",".join(map(visible_device, range(first, first + size))) if first else None


def _shared_devices(ranks: Ranks, *, policy: Policy | StoredPolicy, size: int) -> str | None:
    """Return the devices of the ranks that share an engine, as CUDA_VISIBLE_DEVICES; None on CPUs.

    Collective.
    """
    assert ranks.count % size == 0
    index = policy.device.index or 0
    own = visible_device(index) if policy.device.type == "cuda" else None
    start = ranks.number // size * size
    group = ranks.gather((socket.gethostname(), own))[start : start + size]
    if len({host for host, _ in group}) > 1:
        raise ConfigError(
            f"rollout.backend.tensor_parallel_size={size}: ranks {start} to {start + size - 1} "
            "are on different machines; set a divisor of the ranks on each machine"
        )
    return None if own is None else ",".join(str(device) for _, device in group)


def visible_device(index: int) -> str:
    """Return a GPU's name to a child process that is to see no other: torch counts those that
    CUDA_VISIBLE_DEVICES lists."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = [name.strip() for name in listed.split(",") if name.strip()]
    return names[index] if index < len(names) else str(index)


def engine_flags(
    settings: Settings, *, backend: VllmBackend, policy: Policy | StoredPolicy, sleeps: bool
) -> ServerFlags:
    """Return the engine's flags: the base model, and room for the policy's adapter."""
    model = settings.model
    return ServerFlags(
        model=model_location(model.path),
        revision=model.revision,
        dtype=engine_dtype(settings, backend),
        quantization=_quantization(settings, backend=backend, policy=policy),
        trust_remote_code=model.trust_remote_code,
        max_model_len=model_length(settings),
        max_num_seqs=backend.max_num_seqs,
        gpu_memory_utilization=backend.gpu_memory_utilization,
        cache_gib=backend.cache_gib or (_CPU_CACHE_GIB if policy.device.type == "cpu" else None),
        tensor_parallel_size=backend.tensor_parallel_size,
        enforce_eager=backend.enforce_eager,
        lora_rank=policy.adapter_rank,
        weight_transfer=None if policy.has_adapter else transfer_name(backend.weight_transfer),
        sleep=sleeps,
    )


def _quantization(
    settings: Settings, *, backend: VllmBackend, policy: Policy | StoredPolicy
) -> str | None:
    if backend.quantization != "auto":
        return None if backend.quantization == "none" else backend.quantization
    nf4 = settings.model.quantization == "nf4"
    # vLLM has no 4-bit kernels for CPUs: there the base is unpacked, and differs a little.
    return "bitsandbytes" if nf4 and policy.device.type == "cuda" else None


def _sleeps(settings: Settings, *, backend: VllmBackend, policy: Policy | StoredPolicy) -> bool:
    if backend.sleep == "auto":
        return policy.in_memory and policy.device.type == "cuda" and not settings.rollout.overlap
    return backend.sleep == "on"
