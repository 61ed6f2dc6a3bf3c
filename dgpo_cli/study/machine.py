"""How many runs of a study this machine holds side by side, and what each of them may use."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from dgpo_cli.config.load import Resolved
from dgpo_cli.config.settings import Settings
from dgpo_cli.core.errors import DgpoError
from dgpo_cli.core.numbers import counted, size
from dgpo_cli.parallel.place import gpus_here
from dgpo_cli.planning import plan
from dgpo_cli.planning.devices import cpu
from dgpo_cli.policy.config_file import is_at_hand

_THREADS = "OMP_NUM_THREADS"
_GPUS = "CUDA_VISIBLE_DEVICES"
_PROCESS = 500 << 20  # bytes of a process that has loaded torch, besides what the plan counts


@dataclass(frozen=True, slots=True)
class Machine:
    """slots: the variables of each run side by side. about: why there are so many, in words."""

    slots: tuple[Mapping[str, str], ...]
    about: str


def share(resolved: Resolved, *, jobs: int | None, most: int) -> Machine:
    """Share this machine among runs with these settings.

    jobs: runs side by side; None: as many as it holds. most: there are no more runs than these.
    """
    settings = resolved.settings
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    gpus = gpus_here() if settings.model.device != "cpu" else 0
    if gpus:
        fits, why = _gpu_runs(settings, gpus=gpus), counted(gpus, "GPU")
    else:
        fits, why = _cpu_runs(resolved, cores=cores)
    count = max(1, min(jobs or fits, most))
    threads = os.environ.get(_THREADS, str(max(1, cores // count)))
    slots = tuple(
        {_THREADS: threads, **({_GPUS: _gpus_of(at, count, settings, gpus=gpus)} if gpus else {})}
        for at in range(count)
    )
    own = settings.train.threads
    used = counted(own or int(threads) if threads.isdigit() else 1, "thread")
    return Machine(slots, f"{count} side by side, {used} each ({why})")


def _gpu_runs(settings: Settings, *, gpus: int) -> int:
    """Return the runs that GPUs hold: one a GPU; with an engine beside the policy, one in all."""
    if settings.rollout.backend.kind != "hf":
        return 1
    return max(1, gpus // settings.parallel.gpus)


def _gpus_of(at: int, count: int, settings: Settings, *, gpus: int) -> str:
    """Return the GPUs of a run, as CUDA_VISIBLE_DEVICES has them; more runs than GPUs share."""
    listed = os.environ.get(_GPUS)
    names = listed.split(",")[:gpus] if listed else [str(number) for number in range(gpus)]
    each = max(1, gpus // count)
    if settings.rollout.backend.kind == "hf":
        each = min(each, settings.parallel.gpus) if count > 1 else settings.parallel.gpus
    first = at * each % gpus
    return ",".join((names + names)[first : first + min(each, gpus)])


def _cpu_runs(resolved: Resolved, *, cores: int) -> tuple[int, str]:
    """Return the runs that cores and memory hold: a core each, as small models need no more."""
    settings = resolved.settings
    of_cores = max(1, cores // settings.parallel.gpus)
    why = counted(cores, "core")
    if not is_at_hand(settings.model):
        return 1, "memory unknown before the model is here"
    device = cpu(measure=False)
    try:
        found = plan.run(
            lambda changes: resolved, device=device, typical=plan.Typical(), repair=False
        )
    except DgpoError:
        return 1, "memory unknown"
    need = found.memory.peak * settings.parallel.gpus + _PROCESS
    of_memory = max(1, int((device.free or device.memory) // need))
    if of_memory < of_cores:
        return of_memory, f"{size(need)} of memory each"
    return of_cores, why
