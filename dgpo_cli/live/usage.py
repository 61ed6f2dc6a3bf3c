"""Memory of this process and of its device, read without importing anything heavy."""

from __future__ import annotations

import resource
import sys

import psutil

from dgpo_cli.live.state import Memory


def memory() -> Memory:
    """Return what is used now, and at most so far; what this system does not tell is None."""
    device, device_peak, device_total = _device()
    now = _resident()
    return Memory(
        now=now,
        peak=max(now, _peak()),  # the kernel brings its own up to date only now and then
        device=device,
        device_peak=device_peak,
        device_total=device_total,
    )


def _resident() -> int:
    return int(psutil.Process().memory_info().rss)


def _peak() -> int:
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024  # kibibytes but on a Mac


def _device() -> tuple[int | None, int | None, int | None]:
    """Bytes of the current CUDA device: reserved by torch now and at most, and in all."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None, None, None
    cuda = torch.cuda
    total = cuda.get_device_properties(cuda.current_device()).total_memory
    return cuda.memory_reserved(), cuda.max_memory_reserved(), total
