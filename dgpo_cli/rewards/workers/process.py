"""One worker process of the pool: starts it, sends, receives, kills. Never blocks."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any

from dgpo_cli.rewards.protocol import Check, Task, encode, take_frames

START_TIMEOUT_S = 120.0  # covers the import of sympy on a busy machine
MAX_ERROR_CHARS = 300
READ_BYTES = 1 << 16
EXIT_S = 0.5
# One thread per worker: the user sets their number, and memory is limited.
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


class WorkerProcess:
    """A worker, its pipes, and the indices of its unanswered tasks."""

    def __init__(self, check: Check, *, memory_bytes: int, log: Path | None = None) -> None:
        read_end, self._lifeline = os.pipe()
        try:
            self._process = subprocess.Popen(
                _command(read_end, memory_bytes, log),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                env=_environment(),
                pass_fds=(read_end,),
                process_group=0,  # Ctrl-C in a terminal reaches only the parent
            )
        except BaseException:
            os.close(self._lifeline)
            raise
        finally:
            os.close(read_end)
        assert self._process.stdin is not None and self._process.stdout is not None
        self.input_fd = self._process.stdin.fileno()
        self.output_fd = self._process.stdout.fileno()
        os.set_blocking(self.input_fd, False)
        os.set_blocking(self.output_fd, False)
        self._inbox = bytearray()
        self._outbox = memoryview(b"")
        self.ready = False
        self.ended = False
        self.start_error = ""  # why it did not start, if known
        self.refused = False  # the check itself said so
        self.told: dict[str, Any] = {}  # by the check, of itself
        self.tasks: deque[int] = deque()
        self.deadline: float | None = time.monotonic() + START_TIMEOUT_S
        self._send({"target": check.target, "options": check.options, "opens": check.opens})

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def idle(self) -> bool:
        return self.ready and not self.tasks and not self.ended

    @property
    def unsent(self) -> bool:
        """Whether part of the last message is not yet in the pipe."""
        return len(self._outbox) > 0

    def assign(self, indices: list[int], tasks: list[Task], *, timeout_s: float) -> None:
        """Send `tasks` with the caller's `indices`; the first deadline starts."""
        self.tasks.extend(indices)
        self.deadline = time.monotonic() + timeout_s
        self._send(tasks)

    def _send(self, message: Any) -> None:
        self._outbox = memoryview(encode(message))
        self.write()

    def write(self) -> None:
        """Write as much as the pipe takes."""
        try:
            while self.unsent:
                self._outbox = self._outbox[os.write(self.input_fd, self._outbox) :]
        except BlockingIOError:
            return
        except OSError:  # the worker is gone
            self.ended = True

    def read(self) -> list[Any]:
        """Return the received messages; set `ended` at the end of the pipe."""
        try:
            while data := os.read(self.output_fd, READ_BYTES):
                self._inbox += data
            self.ended = True
        except BlockingIOError:
            pass
        return take_frames(self._inbox)

    def has_exited(self) -> bool:
        return self._process.poll() is not None

    def kill(self) -> int:
        """Kill, wait, close the pipes; return the exit code. May be called twice."""
        if self._lifeline >= 0:
            self._kill_group()
            os.close(self._lifeline)
            self._lifeline = -1
            assert self._process.stdin is not None and self._process.stdout is not None
            self._process.stdin.close()
            self._process.stdout.close()
            self._read_errors()
        return self._process.wait()

    def _kill_group(self) -> None:
        """Kill the worker and what it has started: a sandbox of the user's, for one."""
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()

    def settle(self) -> None:
        """Let a process that has closed its pipe end by itself: its exit code says why it did."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=EXIT_S)

    def _read_errors(self) -> None:
        """Read the last line that Python printed before the worker redirected its pipes."""
        assert self._process.stderr is not None
        with self._process.stderr as errors:
            if not self.ready and not self.start_error:
                os.set_blocking(errors.fileno(), False)
                lines = (errors.read(READ_BYTES) or b"").decode(errors="replace").splitlines()
                self.start_error = lines[-1].strip()[:MAX_ERROR_CHARS] if lines else ""


def _command(lifeline: int, memory_bytes: int, log: Path | None) -> list[str]:
    from_main_thread = threading.current_thread() is threading.main_thread()
    arguments = (os.getpid(), lifeline, memory_bytes, int(from_main_thread), log or os.devnull)
    # -P: a json.py in the user's folder must not replace the standard library's.
    # -u: what a function prints is in the log when it is killed.
    return [
        sys.executable,
        "-P",
        "-u",
        "-m",
        "dgpo_cli.rewards.workers.worker",
        *map(str, arguments),
    ]


def _environment() -> dict[str, str]:
    package_parent = str(Path(__file__).resolve().parents[3])
    python_path = os.environ.get("PYTHONPATH")
    paths = package_parent if not python_path else os.pathsep.join([package_parent, python_path])
    return {**os.environ, **_ENVIRONMENT, "PYTHONPATH": paths}
