"""Devices to plan for: a table of GPUs, and this machine's own."""

from __future__ import annotations

import contextlib
import difflib
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import psutil

from dgpo_cli.core.errors import ConfigError
from dgpo_cli.planning.budget import Device

_MIB = 1 << 20
_TERA = 1e12
_GIGA = 1e9
_SHEET = "NVIDIA's data sheet"


def _gpu(
    name: str, mib: int, bf16: float, fp32: float, bandwidth: float, link: float, sheet: str
) -> Device:
    flops = {"bfloat16": bf16 * _TERA, "float32": fp32 * _TERA}
    return Device(name, "cuda", mib * _MIB, None, flops, bandwidth * _GIGA, sheet, link * _GIGA)


# Memory in MiB as nvidia-smi reports it; dense bfloat16 tensor TFLOP/s with float32 sums (float16
# on the T4, which has no bfloat16); float32 TFLOP/s without tensor cores, which is what torch
# uses by default; GB/s of memory, and one way over NVLink or PCIe. Sources: the data sheets and
# white papers of each chip.
GPUS = {
    "h200": _gpu("H200", 143771, 989, 67, 4800, 450, f"{_SHEET}, H200 SXM"),
    "h100": _gpu("H100 80GB", 81559, 989, 67, 3350, 450, f"{_SHEET}, H100 SXM"),
    "a100": _gpu("A100 80GB", 81920, 312, 19.5, 2039, 300, f"{_SHEET}, A100 80GB SXM"),
    "a100-40": _gpu("A100 40GB", 40960, 312, 19.5, 1555, 300, f"{_SHEET}, A100 40GB SXM"),
    "l40s": _gpu("L40S", 46068, 362, 91.6, 864, 32, f"{_SHEET}, L40S"),
    "l4": _gpu("L4", 23034, 121, 30.3, 300, 32, f"{_SHEET}, L4"),
    "4090": _gpu("RTX 4090", 24564, 165.2, 82.6, 1008, 32, "NVIDIA's Ada white paper"),
    "3090": _gpu("RTX 3090", 24576, 71, 35.6, 936, 32, "NVIDIA's GA102 white paper"),
    # Its speed is that of 3,584 cores and 112 tensor cores at 1.777 GHz.
    "3060": _gpu("RTX 3060 12GB", 12288, 25.5, 12.7, 360, 32, "NVIDIA's specifications"),
    "t4": _gpu("T4", 15360, 65, 8.1, 320, 16, f"{_SHEET}, T4"),
}
NO_BFLOAT16 = frozenset({"T4"})


def named(name: str, *, setting: str = "--gpu") -> Device:
    """Return a GPU of the table; `setting` is what named it.

    Raises:
        ConfigError: it is not in the table.
    """
    if name not in GPUS:
        near = difflib.get_close_matches(name.lower(), GPUS, n=1, cutoff=0.7)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(
            f"{setting}={name}: not in the table; give one of {', '.join(GPUS)}, cpu, here{hint}"
        )
    return GPUS[name]


def chosen(name: str | None, *, meant_for: str | None, device: str) -> Device:
    """Return the device to plan for: the named one, else that of the preset, else this machine's.

    name: from the table, cpu or here. meant_for: the preset's. device: model.device.

    Raises:
        ConfigError: the name is not in the table.
    """
    wanted = name if name is not None else meant_for or "here"
    if wanted == "here":
        return here(device)
    if wanted == "cpu":
        return cpu()
    return named(wanted, setting="hardware" if name is None else "--gpu")


def elsewhere(name: str | None) -> Device | None:
    """Return the device that `chosen` finds for a name, all of it free and its speed left out if it
    is a CPU; None for this machine's own.

    Raises:
        ConfigError: the name is not in the table.
    """
    if name is None or name == "here":
        return None
    return replace(cpu(measure=False), free=None) if name == "cpu" else named(name)


def here(setting: str, *, measure: bool = True) -> Device:
    """Return the device that `model.device` would use on this machine.

    measure: on a CPU, time a matrix product and a copy, a third of a second.
    """
    import torch

    if setting.startswith("cuda") or (setting == "auto" and torch.cuda.is_available()):
        if not torch.cuda.is_available():
            raise ConfigError(f"model.device={setting}: torch sees no CUDA device; give --gpu NAME")
        index = int(setting.partition(":")[2] or 0)
        return _cuda(index)
    if setting == "mps" or (setting == "auto" and torch.backends.mps.is_available()):
        total, free = host_memory()
        return Device("Apple GPU", "mps", total, free, {}, 0.0, "this machine")
    return cpu(measure=measure)


def whole(setting: str) -> Device:
    """Return the device that `model.device` would use, with all its memory as room.

    What others hold of it now is left out, so that a run decides alike whenever it starts.
    """
    return replace(here(setting, measure=False), free=None)


def cpu(*, measure: bool = True) -> Device:
    """Return this machine's CPU, with its speed measured or left unknown."""
    total, free = host_memory()
    flops, bandwidth = _calibrate() if measure else ({}, 0.0)
    return Device("CPU", "cpu", total, free, flops, bandwidth, "this machine, measured now")


def share_of(device: Device, *, ranks: int) -> Device:
    """Return what a rank has of a device that several share: of a CPU a part, of a GPU all."""
    if ranks == 1 or device.kind == "cuda":
        return device
    return replace(
        device,
        memory=device.memory // ranks,
        free=None if device.free is None else device.free // ranks,
        flops={name: speed / ranks for name, speed in device.flops.items()},
        bandwidth=device.bandwidth / ranks,
        source=f"{device.source}; shared by {ranks} ranks",
    )


def _cuda(index: int) -> Device:
    import torch

    free, total = torch.cuda.mem_get_info(index)
    name = torch.cuda.get_device_name(index)
    plain = name.lower().replace(" ", "").replace("-", "")
    known = None
    for gpu in GPUS.values():
        chip = gpu.name.split()[-1] if gpu.name.startswith("RTX") else gpu.name.split()[0]
        if chip.lower() in plain and abs(gpu.memory - total) < 0.1 * gpu.memory:
            known = gpu
    speed = (known.flops, known.bandwidth) if known else ({}, 0.0)
    link = known.link if known else 0.0
    return Device(name, "cuda", total, free, *speed, "this machine", link)


def host_memory() -> tuple[int, int]:
    """Return the bytes of memory available to this process: in total, and free now.

    A container's limit counts if it is lower than the machine's.
    """
    memory = psutil.virtual_memory()
    total, free = memory.total, memory.available
    for limit_file, used_file in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        (
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        ),
    ):
        with contextlib.suppress(OSError, ValueError):  # "max" without a limit
            limit = int(Path(limit_file).read_text())
            if limit < total:
                total = limit
                free = min(free, limit - int(Path(used_file).read_text()))
    return total, free


def _calibrate() -> tuple[dict[str, float], float]:
    """Time a matrix product in each dtype and a copy; return operations and bytes a second."""
    import torch

    flops = {}
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        left, right = torch.ones(512, 576, dtype=dtype), torch.ones(576, 1536, dtype=dtype)
        flops[name] = 2 * 512 * 576 * 1536 / _best(partial(torch.matmul, left, right))
    source = torch.ones(8 << 20)
    target = torch.empty_like(source)
    return flops, 2 * source.nbytes / _best(lambda: target.copy_(source))


def _best(run: Callable[[], object], *, rounds: int = 6, limit_s: float = 0.1) -> float:
    """Return the shortest time of a few runs, in seconds."""
    best, started = float("inf"), time.perf_counter()
    for number in range(rounds):
        before = time.perf_counter()
        run()
        if number:  # the first one warms up
            best = min(best, time.perf_counter() - before)
        if number and time.perf_counter() - started > limit_s:
            break
    return best
