"""Counts processes and interrupts them (Linux)."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path


def with_mark(mark: str) -> list[int]:
    """Processes that have `mark` in their environment and have not ended.

    A variable of the environment goes to everything that a process starts, in whatever session.
    """
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
                environment = (entry / "environ").read_bytes()
            except OSError:
                continue
            if state != "Z" and mark.encode() in environment:
                found.append(int(entry.name))
    return found


def left_behind(mark: str, *, within_s: float) -> list[int]:
    """Return what is still there after so long, at once if nothing is."""
    deadline = time.monotonic() + within_s
    while (found := with_mark(mark)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


def interrupt_until_told(process: subprocess.Popen[str], log: Path) -> None:
    """Press Ctrl-C in a process group and wait until the run, which writes to `log`, has told.

    Two signals that come before Python gets to the first one count as one.
    """
    os.killpg(process.pid, signal.SIGINT)
    deadline = time.monotonic() + 60
    while "stopping with a checkpoint after this step" not in log.read_text():
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.002)
