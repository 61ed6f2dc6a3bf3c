"""What a guard sees below itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dgpo_cli.parallel.guard import descendants

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

# Its first thread ends by itself (exit, not exit_group), a second one and a child live on.
HALF_DEAD = """
import ctypes, platform, subprocess, sys, threading, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
threading.Thread(target=time.sleep, args=(600,)).start()
print(child.pid, flush=True)
ctypes.CDLL(None).syscall({"x86_64": 60, "aarch64": 93}[platform.machine()], 0)
"""


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_process_whose_first_thread_has_ended_is_seen_with_what_it_started() -> None:
    root = subprocess.Popen(
        [sys.executable, "-c", f"import subprocess, sys; subprocess.run([sys.executable, '-c', "
         f"{HALF_DEAD!r}])"],
        stdout=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    try:
        assert root.stdout is not None
        child = int(root.stdout.readline())
        while len(below := descendants(root.pid)) != 2 or state(below[0]) != "Z":
            assert len(below) == 2, "none is lost on the way to that state"
        assert below[1] == child
    finally:
        for pid in (*descendants(root.pid), root.pid):
            subprocess.run(["kill", "-9", str(pid)], check=False)
        root.wait()
    assert descendants(root.pid) == []
