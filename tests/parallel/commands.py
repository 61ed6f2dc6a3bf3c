"""The real `dgpo train --gpus N` in a process group of its own, with faults in its ranks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from tests.parallel.chaos import Fault
from tests.processes import left_behind, with_mark

_ROOT = Path(__file__).parents[2]
_TRAIN = (sys.executable, "-m", "dgpo_cli", "train", "--preset", "tiny")
_FAULTS = "DGPO_TEST_FAULTS"
# Runs at the start of every Python process; only ranks are meant, and not their workers.
_SITE = f"""
import os, sys
if "RANK" in os.environ and sys.orig_argv[-1:] and "train" in sys.orig_argv:
    import json
    from collections import Counter
    from tests.parallel.chaos import Fault, plant
    rank = int(os.environ["RANK"])
    faults = [Fault(**each) for each in json.loads(os.environ["{_FAULTS}"])]
    faults = [each for each in faults if each.rank in (None, rank)]
    if faults:
        plant(faults, Counter())
"""


class Command:
    """A command that runs. Its output is in a file, for its ranks outlive a pipe."""

    def __init__(
        self, out: Path, settings: Sequence[str], *more: str, faults: Sequence[Fault] = ()
    ) -> None:
        """more: further arguments, as --gpus 2."""
        self.out, self.log = out, out.with_name(f"{out.name}.txt")
        self._mark = f"{out}-{time.monotonic_ns()}"
        site = out.with_name("site")
        site.mkdir(exist_ok=True)
        (site / "sitecustomize.py").write_text(_SITE)
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(_ROOT), str(site)]),
            "OMP_NUM_THREADS": "1",
            "DGPO_TEST_MARK": self._mark,
            _FAULTS: json.dumps([asdict(fault) for fault in faults]),
        }
        given = [each for each in settings if not each.startswith("parallel.gpus=")]
        changes = [part for each in given for part in ("--set", each)]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*_TRAIN, *changes, "--out", str(out), *more],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def text(self) -> str:
        return self.log.read_text()

    def rank(self, number: int) -> int:
        """Return the process of a rank."""
        (found,) = (
            pid
            for pid in with_mark(f"DGPO_TEST_MARK={self._mark}")
            if _has(pid, f"RANK={number}") and _parent(pid) == self.process.pid
        )
        return found

    def wait_for_step(self, step: int) -> None:
        """Wait until the line of a step is written."""
        lines = self.out / "metrics.jsonl"
        self.wait_until(lambda: lines.exists() and lines.read_text().count("\n") >= step)

    def wait_until(self, true: Callable[[], bool], *, limit_s: float = 120) -> None:
        deadline = time.monotonic() + limit_s
        while not true():
            assert self.process.poll() is None and time.monotonic() < deadline, self.text
            time.sleep(0.02)

    def end(self, *, within_s: float = 120) -> int:
        """Wait for the end; return the exit code. Nothing may stay behind."""
        try:
            code = self.process.wait(within_s)
        finally:
            self.kill()
        left = left_behind(f"DGPO_TEST_MARK={self._mark}", within_s=5)
        assert not left, f"processes {left} stay behind"
        return code

    def kill(self) -> None:
        """Kill all of it; for a test that failed."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def _has(pid: int, variable: str) -> bool:
    try:
        return variable.encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0
