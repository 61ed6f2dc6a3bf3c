"""The process that checks answers, started by the pool.

It exchanges frames on its original stdin and stdout and imports no torch. It ends with its parent,
in whatever way, and can be killed at any moment: it keeps no state.
"""

from __future__ import annotations

import ctypes
import fcntl
import importlib
import os
import resource
import select
import signal
import sys
from typing import TYPE_CHECKING, Any, BinaryIO

from dgpo_cli.rewards.protocol import CRASH_EXIT_CODE, HEADER, decode, encode

if TYPE_CHECKING:
    from collections.abc import Callable

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int, lifeline: int, *, from_main_thread: bool) -> None:
    """Let the kernel end this process when its parent ends, even inside C code.

    lifeline: read end of a pipe that only the parent can write to. Its end of file raises SIGIO,
        whose default action ends the process without Python code.
    from_main_thread: Linux sends the parent-death signal when the *thread* that started us ends,
        so it is used only if that thread lives as long as the parent. It helps if a forked
        sibling keeps the lifeline open.
    """
    if from_main_thread and sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    flags = fcntl.fcntl(lifeline, fcntl.F_GETFL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, flags | os.O_ASYNC | os.O_NONBLOCK)
    ended, _, _ = select.select([lifeline], [], [], 0)
    if ended or os.getppid() != parent:
        os._exit(0)


def take_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Keep stdin and stdout for frames; libraries that read or print get /dev/null."""
    incoming = os.fdopen(os.dup(0), "rb")
    outgoing = os.fdopen(os.dup(1), "wb", buffering=0)
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    return incoming, outgoing


def limit_memory(limit: int) -> None:
    """Make allocations beyond `limit` bytes of address space fail, on Linux."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def load(target: str) -> Callable[..., Any]:
    """Import "module:function" and warm up its module."""
    module_name, _, name = target.partition(":")
    module = importlib.import_module(module_name)
    check: Callable[..., Any] = getattr(module, name)
    if hasattr(module, "warm_up"):
        module.warm_up()
    return check


def read_message(incoming: BinaryIO) -> Any:
    """Return the next message; None at the end of the pipe."""
    header = incoming.read(HEADER.size)
    if len(header) < HEADER.size:
        return None
    (length,) = HEADER.unpack(header)
    return decode(incoming.read(length))


def serve(incoming: BinaryIO, outgoing: BinaryIO) -> None:
    """Answer tasks until the pipe ends."""
    setup = read_message(incoming)
    if setup is None:
        return
    try:
        check = load(setup["target"])
    except Exception as error:
        outgoing.write(encode({"error": f"{type(error).__name__}: {error}".rstrip(": ")}))
        return
    outgoing.write(encode({"ready": True}))
    while (tasks := read_message(incoming)) is not None:
        for gold, text, finish_reason in tasks:
            try:
                result = check(gold, text, finish_reason=finish_reason, **setup["options"])
            except MemoryError:
                # The interpreter may be damaged: no further task.
                os._exit(CRASH_EXIT_CODE)
            except Exception:
                result = ("crash", None)
            outgoing.write(encode(result))


def main() -> None:
    parent, lifeline, memory_bytes, from_main_thread = map(int, sys.argv[1:])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent(parent, lifeline, from_main_thread=bool(from_main_thread))
    incoming, outgoing = take_pipes()
    limit_memory(memory_bytes)
    serve(incoming, outgoing)


if __name__ == "__main__":
    main()
