"""Runs a command and ends everything it started when the parent ends, in whatever way.

    python -m dgpo_cli.parallel.guard PARENT_PID LIFELINE_FD GRACE_S FOLDER COMMAND...

The parent holds the other end of the lifeline, a pipe. When it dies, even by SIGKILL, the pipe
ends and the guard stops the command and everything it started, then removes FOLDER unless the
parent asked to keep it.
vLLM needs this: its engine and workers outlive a killed server. Standard library only, for a
fast start.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

KEEP = b"k"  # written to the lifeline before it is closed: FOLDER stays
_POLL_S = 0.5
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
# Fields of /proc/PID/stat after the name; a process that has ended has one thread.
_STATE, _PARENT, _THREADS = 0, 1, 17


def main(arguments: list[str]) -> int:
    """Guard until the command or the parent ends; return the command's exit code."""
    parent, lifeline, grace_s = int(arguments[0]), int(arguments[1]), float(arguments[2])
    folder, command = arguments[3], arguments[4:]
    # Only the parent handles signals and then closes the lifeline: vLLM is never half stopped.
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    adopt_orphans()
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=_in_child)
    keep = True  # the parent lives and may start another command on the folder
    while process.poll() is None:
        readable, _, _ = select.select([lifeline], [], [], _POLL_S)
        if readable or os.getppid() != parent:
            keep = bool(readable) and os.read(lifeline, 1) == KEEP
            break
    end_all(os.getpid(), grace_s=grace_s)
    code = process.wait()
    if not keep or os.getppid() != parent:
        shutil.rmtree(folder, ignore_errors=True)
    return code if code >= 0 else 128 - code


def _in_child() -> None:
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    die_with_parent(signal.SIGTERM)  # if the guard itself is killed


def adopt_orphans() -> None:
    """Become the parent of orphans below this process, in place of init."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(number: int) -> None:
    """Get a signal when the thread that started this process ends."""
    _prctl(_PR_SET_PDEATHSIG, number)


def _prctl(option: int, value: int) -> None:
    """Call prctl, which only Linux has."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def end_all(root: int, *, grace_s: float) -> None:
    """End every process below `root`: SIGTERM, and SIGKILL after `grace_s` until none is left."""
    deadline = time.monotonic() + grace_s
    _signal_all(root, signal.SIGTERM)
    _signal_all(root, signal.SIGCONT)  # one that is stopped would not hear it
    while descendants(root) and time.monotonic() < deadline:
        _reap()
        time.sleep(0.05)
    while descendants(root):  # it may have started others before
        _signal_all(root, signal.SIGKILL)
        _reap()
        time.sleep(0.02)


def _signal_all(root: int, number: int) -> None:
    for pid in descendants(root):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _reap() -> None:
    """Reap orphans that have ended.

    This reaps the command too if it ends here; Popen.wait then reports 0.
    """
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def descendants(root: int) -> list[int]:
    """Return the processes below `root` that have not ended.

    Those below ended ones count too: a process of several threads looks ended as soon as its
    first thread is.
    """
    children: dict[int, list[int]] = {}
    living = set()
    for pid, parent, lives in _processes():
        children.setdefault(parent, []).append(pid)
        if lives:
            living.add(pid)
    found: list[int] = []
    waiting = [root]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return [pid for pid in found if pid in living]


def _processes() -> list[tuple[int, int, bool]]:
    """Return (process, parent, whether it lives) of all processes."""
    if not Path("/proc/self/stat").exists():
        listed = subprocess.run(
            ["ps", "-A", "-o", "pid=,ppid=,stat="], capture_output=True, text=True, check=False
        )
        rows = [line.split() for line in listed.stdout.splitlines()]
        return [(int(r[0]), int(r[1]), not r[2].startswith("Z")) for r in rows if len(r) == 3]
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                text = Path(entry.path, "stat").read_text(errors="replace")
            except OSError:
                continue
            fields = text.rpartition(")")[2].split()
            lives = fields[_STATE] != "Z" or int(fields[_THREADS]) > 1
            found.append((int(entry.name), int(fields[_PARENT]), lives))
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
