"""A vLLM server process: started under a guard, and ended with everything it started."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

from dgpo_cli.core.errors import BackendError
from dgpo_cli.parallel.guard import KEEP

GRACE_S = 5.0  # between SIGTERM and SIGKILL
_POLL_S = 0.2
_KILLED_S = 15.0  # until killed processes are gone, even on a busy machine
_STDERR = 2
_SHORT = 60  # characters
# At the start of a line or word; quoted in a warning, it is not the reason.
_EXCEPTION = re.compile(r"(?<![^\s\]])(?:\w+\.)*\w*(?:Error|Exception): \S[^\n]*")


class OwnedProcess:
    """A command under parallel/guard.py, in its own session, with its output in a file.

    Ctrl-C in a terminal reaches only the parent. When the parent ends, in whatever way, so does
    the command with everything it started.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        folder: Path,
        log: Path | None,
        environment: Mapping[str, str],
    ) -> None:
        """folder: removed when the command has ended. log: None shows the output on stderr."""
        self.log = log
        read_end, self._lifeline = os.pipe()
        # Without a log, output goes to stderr: stdout is for dgpo's own.
        output = _STDERR if log is None else os.open(log, os.O_WRONLY | os.O_CREAT, 0o600)
        guard = [sys.executable, "-P", "-m", "dgpo_cli.parallel.guard"]
        try:
            self._guard = subprocess.Popen(
                [*guard, str(os.getpid()), str(read_end), str(GRACE_S), str(folder), *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(read_end,),
                start_new_session=True,
                env={**os.environ, **environment, "PYTHONPATH": _python_path()},
            )
        except BaseException:
            os.close(self._lifeline)
            raise
        finally:
            os.close(read_end)
            if log is not None:
                os.close(output)

    @property
    def pid(self) -> int:
        return self._guard.pid

    def exit_code(self) -> int | None:
        """Return the command's exit code, None while it runs."""
        return self._guard.poll()

    def wait(self) -> int:
        """Wait for the command to end; return its exit code."""
        return self._guard.wait()

    def wait_ready(self, is_ready: Callable[[], bool], *, timeout_s: float) -> None:
        """Wait until `is_ready`.

        Raises:
            BackendError: the command ended or took too long; everything is then ended.
        """
        deadline = time.monotonic() + timeout_s
        while not is_ready():
            if (code := self.exit_code()) is not None:
                reason = self.reason()
                self.close()
                raise BackendError(f"vLLM exited with code {code} during startup: {reason}")
            if time.monotonic() > deadline:
                self.close()
                raise BackendError(
                    f"vLLM was not ready after {timeout_s:g} s; raise "
                    f"rollout.backend.startup_timeout_s; end of its log: {self.reason()}"
                )
            time.sleep(_POLL_S)

    def reason(self) -> str:
        """Return the first error in the log, or else its last line, and keep a copy of the log."""
        if self.log is None:
            return "see its output above"
        try:
            text = self.log.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return "its log is gone"
        # The first error is the cause; later ones are consequences.
        if telling := _EXCEPTION.search(text):
            return f"{telling[0]} (full log: {_kept_log(text)})"
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return f"{lines[-1]} (full log: {_kept_log(text)})" if lines else "it is empty"

    def close(self, *, keep: bool = False) -> None:
        """End the command and everything it started, and wait. May be called twice.

        keep: keep the folder for another command.
        """
        if self._lifeline >= 0:
            if keep:
                with contextlib.suppress(BrokenPipeError):  # the guard has ended already
                    os.write(self._lifeline, KEEP)
            os.close(self._lifeline)
            self._lifeline = -1
        try:
            self._guard.wait(timeout=GRACE_S + _KILLED_S)
        except subprocess.TimeoutExpired:
            self._guard.kill()
            self._guard.wait()
        _kill_session(self._guard.pid)  # in case the guard itself was killed


def _kept_log(text: str) -> Path:
    """Copy a log to where it outlives the server's folder."""
    handle, path = tempfile.mkstemp(prefix="dgpo-vllm-", suffix=".log")
    with open(handle, "w", encoding="utf-8") as file:
        file.write(text)
    return Path(path)


def _kill_session(session: int) -> None:
    for pid in psutil.pids():
        with contextlib.suppress(OSError):  # it has ended, or is not ours
            if os.getsid(pid) == session:
                os.kill(pid, signal.SIGKILL)


def _python_path() -> str:
    parent = str(Path(__file__).resolve().parents[3])
    before = os.environ.get("PYTHONPATH")
    return parent if not before else os.pathsep.join([parent, before])


def own_folder(place: str | None) -> Path:
    """Make a folder that only this user can enter, in `place` or the temporary folder."""
    if place is not None:
        Path(place).mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix="dgpo-vllm-", dir=place or temporary_place()))


def temporary_place() -> str:
    """Return this machine's folder for temporary files."""
    # A Unix socket's path must be short; some systems' default is long.
    usual = tempfile.gettempdir()
    return usual if len(usual) < _SHORT else "/tmp"


def remove_tree(folder: Path) -> None:
    """Remove a folder, if it exists."""
    shutil.rmtree(folder, ignore_errors=True)
