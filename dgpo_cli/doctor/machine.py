"""Memory, disk, limits, threads and the hub, as dgpo finds them on this machine."""

from __future__ import annotations

import os
import shutil
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from dgpo_cli.core.numbers import size
from dgpo_cli.core.types import Finding
from dgpo_cli.planning.devices import host_memory
from dgpo_cli.samplers.http_json import basic
from dgpo_cli.samplers.settings import ServerUrl

_GIB = 1 << 30
_LEAST_MEMORY = 2 * _GIB
_LEAST_SHARED = 1 * _GIB
_LEAST_DISK = 10 * _GIB
_LEAST_FILES = 4096
_HUB_S = 4.0
_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
_TRUE = frozenset({"1", "true", "yes", "on"})


def findings() -> Iterator[Finding]:
    """Yield a finding for each part of the machine."""
    yield memory()
    yield space("shared memory", Path("/dev/shm"), least=_LEAST_SHARED, fix=_SHARED_FIX)
    yield space("disk here", Path.cwd(), least=_LEAST_DISK, fix="make room for checkpoints")
    yield space("disk of the hub's cache", cache_folder(), least=_LEAST_DISK, fix=_CACHE_FIX)
    yield open_files()
    yield threads()
    yield hub()


_SHARED_FIX = "vLLM and several GPUs need more: docker run --shm-size=8g"
_CACHE_FIX = "make room, or set HF_HOME to a larger disk"


def memory() -> Finding:
    total, free = host_memory()
    words = f"{size(free)} of {size(total)} free"
    if free < _LEAST_MEMORY:
        return Finding(
            "memory", "warn", words, "end other programs; the embedded model needs 1 GiB"
        )
    return Finding("memory", "ok", words)


def space(name: str, folder: Path, *, least: int, fix: str) -> Finding:
    """Report the free space on a folder's disk; a missing folder counts as its parent."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if folder == Path("/dev") and name == "shared memory":
        return Finding(name, "ok", "this system has no /dev/shm")
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return Finding(name, "warn", f"{folder}: {(error.strerror or 'unreadable').lower()}", fix)
    words = f"{size(free)} free at {folder}"
    return Finding(name, "ok", words) if free >= least else Finding(name, "warn", words, fix)


def cache_folder() -> Path:
    """Return the folder of the hub's cache."""
    if given := os.environ.get("HF_HUB_CACHE"):
        return Path(given).expanduser()
    home = os.environ.get("HF_HOME")
    return (Path(home).expanduser() if home else Path.home() / ".cache" / "huggingface") / "hub"


def open_files() -> Finding:
    try:
        import resource
    except ImportError:  # Windows
        return Finding("open files", "ok", "no limit on this system")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < _LEAST_FILES:
        high = "more" if hard == resource.RLIM_INFINITY else str(hard)
        return Finding("open files", "warn", f"at most {soft}", f"ulimit -n {high}")
    return Finding("open files", "ok", "no limit" if soft == resource.RLIM_INFINITY else str(soft))


def threads() -> Finding:
    """Compare OMP_NUM_THREADS with the cores that this process may use."""
    cores = cores_here()
    given = os.environ.get("OMP_NUM_THREADS", "")
    if not given:
        return Finding("threads", "ok", f"{cores} cores; OMP_NUM_THREADS is not set")
    words = f"OMP_NUM_THREADS={given}, {cores} cores"
    first = given.split(",")[0].strip()
    if not first.isdigit() or int(first) < 1:
        return Finding("threads", "warn", words, "set it to a number, or unset it")
    if int(first) > cores:
        return Finding("threads", "warn", words, f"export OMP_NUM_THREADS={cores}")
    return Finding("threads", "ok", words)


def cores_here() -> int:
    """Return the cores that this process may run on; a container's quota counts."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    with suppress(OSError, ValueError):  # no such file, or "max"
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        cores = min(cores, max(1, int(quota) // int(period)))
    return cores


def hub(*, timeout_s: float = _HUB_S) -> Finding:
    """Check that the hub answers, in a thread because looking its name up may hang."""
    for name in _OFFLINE:
        if os.environ.get(name, "").lower() in _TRUE:
            fix = f"unset {name} to download; local folders and what is cached work"
            return Finding("hub", "warn", f"not asked: {name} is set", fix)
    address = ServerUrl(os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/"))
    answer: list[str] = []
    asking = threading.Thread(target=_ask, args=(address, timeout_s, answer), daemon=True)
    asking.start()
    asking.join(timeout_s + 1)
    problem = answer[0] if answer else f"no answer within {timeout_s:.0f} s"
    if problem:
        fix = "check network and HF_ENDPOINT, or give local folders; the preset tiny needs no hub"
        return Finding("hub", "warn", f"{address}: {problem}", fix)
    return Finding("hub", "ok", f"{address} answers")


def _ask(address: ServerUrl, timeout_s: float, answer: list[str]) -> None:
    try:
        request = urllib.request.Request(f"{address}/api/models?limit=1", method="GET")
        if address.login is not None:
            request.add_header("Authorization", f"Basic {basic(address.login)}")
        with urllib.request.urlopen(request, timeout=timeout_s):
            answer.append("")
    except urllib.error.HTTPError as error:
        # It is there: only a failure of the server itself prevents downloads.
        answer.append("" if error.code < 500 else f"answers with {error.code}")
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        answer.append(str(reason)[:120] or type(error).__name__)
