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
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO

from dgpo_cli.core.errors import DgpoError
from dgpo_cli.rewards.protocol import CRASH_EXIT_CODE, HEADER, decode, encode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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


def take_pipes(log: str) -> tuple[BinaryIO, BinaryIO]:
    """Keep stdin and stdout for frames; what code reads is empty, what it prints goes to `log`."""
    incoming = os.fdopen(os.dup(0), "rb")
    outgoing = os.fdopen(os.dup(1), "wb", buffering=0)
    printed = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(printed, 1)
    os.dup2(printed, 2)
    return incoming, outgoing


def limit_memory(limit: int) -> None:
    """Make allocations beyond `limit` bytes of address space fail, on Linux; 0: no limit."""
    if limit == 0:
        return
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


def opened(setup: dict[str, Any]) -> tuple[Callable[[list[Any]], Iterator[Any]], dict[str, Any]]:
    """Return what answers tasks, and what it tells of itself."""
    function, options = load(setup["target"]), setup["options"]
    if setup["opens"]:
        answers, told = function(**options)
        return answers, told
    return partial(_checked, function, options), {}


def _checked(check: Callable[..., Any], options: dict[str, Any], tasks: list[Any]) -> Iterator[Any]:
    for gold, text, finish_reason in tasks:
        try:
            yield check(gold, text, finish_reason=finish_reason, **options)
        except MemoryError:
            raise
        except Exception:
            yield ("crash", None)


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
        answers, told = opened(setup)
    except (Exception, SystemExit) as error:
        # An error of ours is a whole sentence.
        said = str(error) if isinstance(error, DgpoError) else _named(error)
        outgoing.write(encode({"error": said}))
        return
    outgoing.write(encode({"ready": True, "told": told}))
    while (tasks := read_message(incoming)) is not None:
        try:
            for result in answers(tasks):
                outgoing.write(encode(result))
        except MemoryError:
            # The interpreter may be damaged: no further task.
            os._exit(CRASH_EXIT_CODE)


def _named(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".rstrip(": ")


def main() -> None:
    parent, lifeline, memory_bytes, from_main_thread = map(int, sys.argv[1:5])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent(parent, lifeline, from_main_thread=bool(from_main_thread))
    incoming, outgoing = take_pipes(sys.argv[5])
    limit_memory(memory_bytes)
    serve(incoming, outgoing)


if __name__ == "__main__":
    main()
