"""Starts the ranks of one machine, and ends all when one fails or the leader is done.

Rank 0 keeps the terminal; the output of each other rank is in a file. All are in the launcher's
process group, so that Ctrl-C, Ctrl-Z and fg reach every one. What the launcher itself is told, it
tells its ranks through a pipe each, and then it waits: a checkpoint may take minutes. If it is
killed, the system kills the ranks. No torch here.
"""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from dgpo_cli.core.errors import ConfigError, DgpoError
from dgpo_cli.parallel import guard
from dgpo_cli.parallel.heartbeat import Failure
from dgpo_cli.parallel.place import CONTROL, LISTENER, Start, await_meeting

_POLL_S = 0.1
_END_S = 30.0  # for the ranks to end once the leader is done
_AT_ONCE_S = 10.0  # once one has failed, or after a second signal; they end themselves in 6
_GRACE_S = 8.0  # between SIGTERM and SIGKILL; what guards vLLM needs 5
_TAIL = 1 << 16  # bytes of a log in which its error is looked for
_ASKED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_THREADS = "OMP_NUM_THREADS"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the ranks ended. error: what none of them could tell the user."""

    code: int
    error: str | None = None


@dataclass(slots=True)
class _Rank:
    """A rank that was started. control: our end of its pipe."""

    number: int
    process: subprocess.Popen[bytes]
    control: int
    log: Path | None

    def tell(self, **message: Any) -> None:
        with suppress(OSError):  # it has ended
            os.write(self.control, json.dumps(message).encode() + b"\n")

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()

    def is_stopped(self) -> bool:
        """Whether SIGSTOP or the like has stopped it, so that it hears nothing."""
        with suppress(OSError):
            look = os.WSTOPPED | os.WNOHANG | os.WNOWAIT
            return os.waitid(os.P_PID, self.process.pid, look) is not None
        return False

    def failure(self) -> Failure:
        """Return why it ended, from its log or its exit code."""
        log = None if self.log is None else str(self.log)
        return Failure(self.number, socket.gethostname(), self._reason(), log)

    def _reason(self) -> str:
        code = self.process.returncode
        if code == -signal.SIGKILL:
            return "was killed by SIGKILL, as the system does when memory runs out"
        if code < 0:
            return f"was killed by {signal.Signals(-code).name}"
        return _error_in(self.log) or f"ended with exit code {code}"


def log_of(run: Path, number: int) -> Path:
    """Return the file for the output of a rank."""
    return run / "ranks" / f"rank-{number:05d}.log"


def logs_in(run: Path) -> Iterator[tuple[int, Path]]:
    """Yield the numbers of ranks and their files."""
    for path in (run / "ranks").glob("rank-*.log"):
        if (number := path.stem.removeprefix("rank-")).isdigit():
            yield int(number), path


def redirect(log: Path) -> None:
    """Send this process's output to a file, from its beginning."""
    log.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for standard in (1, 2):
        os.dup2(descriptor, standard)
    os.close(descriptor)


class Launcher:
    """Starts ranks and waits for them."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        start: Start,
        run: Path,
        stop_signal: str,
        timeout_s: float = math.inf,
        tell: Callable[[str], None] = print,
    ) -> None:
        """run: the run folder. stop_signal: train.stop_signal. timeout_s: parallel.timeout_s.

        tell: shows a note.
        """
        self._timeout_s, self._say = timeout_s, tell
        self._command, self._start, self._folder = list(command), start, run
        self._warning = None if stop_signal == "none" else signal.Signals[stop_signal]
        self._ranks: list[_Rank] = []
        self._caught: list[int] = []
        self._passed = self._times = 0
        self._first: Failure | None = None
        self._deadline: float | None = None
        self._leader_told = False

    def run(self) -> Outcome:
        """Start the ranks; return when all have ended.

        Raises:
            ConfigError: the address is not this machine's, or its port is in use.
            DgpoError: machine 0 cannot be reached, or the system starts no more processes.
        """
        start, listener = self._start, self._listen()
        if start.address is not None:
            await_meeting(
                *(start.address, start.port),
                name="--rdzv-endpoint",
                limit_s=self._timeout_s,
                tell=self._say,
            )
        guard.adopt_orphans()
        with _terminal_restored(), self._catching():
            try:
                self._spawn_all(listener)
                killed = not self._wait()
            finally:
                for rank in self._ranks:  # those that are left were told to end
                    rank.kill()
                # Also what ranks have left: their children are now this process's.
                guard.end_all(os.getpid(), grace_s=_GRACE_S)
        return self._outcome(killed=killed)

    def _listen(self) -> socket.socket | None:
        """Open the socket of the ranks' store where rank 0 is, so that its port is ours."""
        start = self._start
        if start.node != 0:
            return None
        if start.address is None:
            return socket.create_server(("127.0.0.1", 0))
        try:
            six = socket.has_dualstack_ipv6()
            family = socket.AF_INET6 if six else socket.AF_INET
            return socket.create_server(("", start.port), family=family, dualstack_ipv6=six)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise ConfigError(
                f"--rdzv-endpoint {start.address}:{start.port}: {reason}; give another port"
            ) from error

    def _spawn_all(self, listener: socket.socket | None) -> None:
        start = self._start
        address = start.address or "127.0.0.1"
        port = start.port if start.address is not None else 0
        if listener is not None:
            port = listener.getsockname()[1]
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
        common = {
            "WORLD_SIZE": str(start.count),
            "LOCAL_WORLD_SIZE": str(start.here),
            "MASTER_ADDR": address,
            "MASTER_PORT": str(port),
            "PYTHONPATH": _python_path(),
            "TORCH_CPP_LOG_LEVEL": os.environ.get("TORCH_CPP_LOG_LEVEL", "ERROR"),
            _THREADS: os.environ.get(_THREADS, str(max(1, cores // start.here))),
        }
        try:
            for local in range(start.here):
                number = start.node * start.here + local
                place = {"RANK": str(number), "LOCAL_RANK": str(local)}
                self._ranks.append(self._spawn(number, {**common, **place}, listener))
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            reason = (error.strerror or str(error)).lower()
            raise DgpoError(f"{where}a rank does not start: {reason}") from error
        finally:
            if listener is not None:
                listener.close()

    def _spawn(self, number: int, place: dict[str, str], listener: socket.socket | None) -> _Rank:
        log = log_of(self._folder, number) if number else None
        theirs, ours = os.pipe()
        os.set_blocking(ours, False)
        passed = [theirs]
        environment = {**os.environ, **place, CONTROL: str(theirs)}
        environment.pop(LISTENER, None)
        if number == 0 and listener is not None:
            passed.append(listener.fileno())
            environment[LISTENER] = str(listener.fileno())
        output = None
        if log is not None:
            log.parent.mkdir(parents=True, exist_ok=True)
            output = log.open("wb")
        try:
            process = subprocess.Popen(
                self._command,
                env=environment,
                stdin=None if log is None else subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=passed,
                preexec_fn=_end_with(os.getpid()),
            )
        finally:
            os.close(theirs)
            if output is not None:
                output.close()
        return _Rank(number, process, ours, log)

    def _wait(self) -> bool:
        """Wait until all ranks have ended; return False if that takes too long."""
        running = list(self._ranks)
        while running:
            self._pass_signals()
            for rank in [each for each in running if each.process.poll() is not None]:
                running.remove(rank)
                self._note_end(rank)
            if self._deadline is not None:
                if time.monotonic() > self._deadline:
                    return not running
                for rank in running:
                    if rank.is_stopped():
                        rank.kill()
            if running:
                time.sleep(_POLL_S)
        return True

    def _note_end(self, rank: _Rank) -> None:
        """Tell the others if a rank failed, or if the leader is done."""
        leader = rank.number == 0
        if rank.process.returncode != 0 and self._first is None and not (leader and _told(rank)):
            self._first = rank.failure()
            self._tell(failed=asdict(self._first))
            self._end_within(_AT_ONCE_S)
        if leader:
            self._leader_told = _told(rank)
            self._tell(ended=True)
            self._end_within(_END_S if rank.process.returncode == 0 else _AT_ONCE_S)

    def _end_within(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        self._deadline = until if self._deadline is None else min(until, self._deadline)

    def _tell(self, **message: Any) -> None:
        for rank in self._ranks:
            rank.tell(**message)

    def _outcome(self, *, killed: bool) -> Outcome:
        leader = self._ranks[0].number == 0
        # None: killed just now, because it did not end.
        codes = [1 if (c := rank.process.returncode) is None else c for rank in self._ranks]
        code = codes[0] if leader else next((code for code in codes if code), 0)
        code = code if code >= 0 else 128 - code
        if killed and (not leader or not self._leader_told):
            code = code or 1
        if leader and self._leader_told:
            return Outcome(code)
        asked = [each for each in self._caught if each != self._warning]
        if len(asked) > 1 and leader:
            # Told to end at once, a process may be aborted by a thread of torch.
            return Outcome(128 + asked[-1], "stopped at once; run the same command to resume")
        if self._first is not None:
            return Outcome(code or 1, f"{self._first}; run the same command to resume")
        if killed:
            return Outcome(code, "the ranks did not end by themselves and were killed")
        return Outcome(code)

    # Signals.

    @contextmanager
    def _catching(self) -> Iterator[None]:
        """Take signals down; what the starter of this process ignores stays ignored."""
        numbers = [each for each in _ASKED if signal.getsignal(each) != signal.SIG_IGN]
        if self._warning is not None and self._warning not in numbers:
            numbers.append(self._warning)
        before = {number: signal.signal(number, self._take) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _take(self, number: int, frame: FrameType | None) -> None:
        self._caught.append(number)

    def _pass_signals(self) -> None:
        for number in self._caught[self._passed :]:
            self._passed += 1
            self._times += number != self._warning
            self._tell(stop=[number, self._times])
            if self._times > 1:
                self._end_within(_AT_ONCE_S)


def _told(rank: _Rank) -> bool:
    """Whether rank 0 ended by itself, so that it has told the user why, or by a usual signal."""
    return rank.process.returncode >= 0 or -rank.process.returncode in _ASKED


def _end_with(parent: int) -> Callable[[], None]:
    """Return what a child runs before its program: it is killed when its parent dies."""

    def prepare() -> None:
        guard.die_with_parent(signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

    return prepare


def _error_in(log: Path | None) -> str | None:
    """Return the last error that dgpo wrote into a log, else its last line."""
    if log is None:
        return None
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
            text = file.read().decode(errors="replace")
    except OSError:
        return None
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    found = errors or lines
    return found[-1] if found else None


def _python_path() -> str:
    """Return PYTHONPATH with this package's place first."""
    own, before = str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH")
    return own if not before else os.pathsep.join([own, before])


@contextmanager
def _terminal_restored() -> Iterator[None]:
    """Give the terminal its mode back: a rank 0 that is killed cannot."""
    try:
        descriptor = sys.stdin.fileno()
        mode = termios.tcgetattr(descriptor)
    except (AttributeError, OSError, ValueError, termios.error):
        yield
        return
    try:
        yield
    finally:
        with suppress(OSError, termios.error):
            if os.tcgetpgrp(descriptor) == os.getpgrp():
                termios.tcsetattr(descriptor, termios.TCSADRAIN, mode)


def run_command(arguments: Sequence[str]) -> list[str]:
    """Return the command that a rank runs: this one."""
    return [sys.executable, "-P", "-m", "dgpo_cli", *arguments]
