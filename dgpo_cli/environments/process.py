"""The parent's end of an environment: its process, its tasks, and conversations with deadlines."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dgpo_cli.core.errors import ConfigError, DgpoError
from dgpo_cli.core.types import Message, Outcome, Prompt
from dgpo_cli.environments.source import EnvSource
from dgpo_cli.rewards.protocol import encode, take_frames

START_TIMEOUT_S = 300.0  # a data set may be fetched
_PING_S = 5.0  # in which a process answers that nothing holds up
_READ_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Asked:
    """A conversation waits for the model's turn. messages: those after its last one."""

    messages: list[dict[str, Any]]
    tools: list[Any] | None


@dataclass(frozen=True, slots=True)
class EnvResult:
    """A conversation ended. reward: None if it failed, or ran into its deadline."""

    reward: float | None
    terms: Mapping[str, float | None] = field(default_factory=dict)
    outcome: Outcome | None = None
    note: str | None = None


class EnvProcess:
    """A process with an environment; started by the first use, again after it was killed."""

    def __init__(self, source: EnvSource, *, log: Path | None = None) -> None:
        """log: the file that gets what the environment prints; None: nowhere."""
        self.source, self._log = source, log
        self._process: _Pipes | None = None
        self._tasks: list[dict[str, Any]] = []

    def tasks(self) -> list[Prompt]:
        """Return the tasks as prompts.

        Raises:
            ConfigError: the environment cannot be opened, has no tasks, or begins one in a way
                that no prompt has.
        """
        self._open()
        if not self._tasks:
            raise ConfigError(f"{self._named}: it has no tasks")
        return [self._prompt(each) for each in self._tasks]

    def play(self, conversations: Mapping[int, tuple[str, int]]) -> None:
        """Begin conversations: the task and the seed of each, by number."""
        pipes = self._open()
        pipes.send(
            {"play": number, "task": task, "seed": seed}
            for number, (task, seed) in conversations.items()
        )

    def say(self, said: Mapping[int, Mapping[str, Any]]) -> None:
        """Give conversations the model's turn, by number."""
        if self._process is not None:  # else they are gone, as `answers` says
            self._process.send({"said": number, **turn} for number, turn in said.items())

    def answers(self, expected: Iterable[int]) -> dict[int, Asked | EnvResult]:
        """Return what each of the conversations asks, or its end.

        One that does neither before the deadline has timed out. If it holds up the whole process,
        that is killed, and all conversations in it fail.
        """
        found: dict[int, Asked | EnvResult] = {}
        waiting = set(expected)
        deadline = time.monotonic() + self.source.timeout_s
        while waiting and self._process is not None:
            left = deadline - time.monotonic()
            for message in self._heard(max(left, 0.0)):
                number = message.get("ask", message.get("end"))
                if number in waiting:
                    waiting.discard(number)
                    found[number] = _read(message)
            if left <= 0 and self._process is not None:
                note = f"no answer within prompts.timeout_s={self.source.timeout_s:g}"
                late = EnvResult(None, outcome="timeout", note=note)
                found |= dict.fromkeys(waiting, late)
                self._drop(waiting)
                return found
        gone = EnvResult(None, outcome="error", note="the process of the environment ended")
        return found | dict.fromkeys(waiting, gone)

    def _drop(self, numbers: Iterable[int]) -> None:
        """Break off conversations; kill the process if it does not answer."""
        assert self._process is not None
        self._process.send([*({"drop": number} for number in numbers), {"ping": True}])
        deadline = time.monotonic() + _PING_S
        while self._process is not None:
            left = deadline - time.monotonic()
            if any("pong" in message for message in self._heard(max(left, 0.0))):
                return
            if left <= 0:
                self.close()

    def _heard(self, timeout_s: float) -> list[Any]:
        """Return what came within a time; forget a process that ended."""
        assert self._process is not None
        messages = self._process.receive(timeout_s)
        if messages is None:
            self.close()
        return messages or []

    def close(self) -> None:
        """Kill the process."""
        if self._process is not None:
            self._process.kill()
            self._process = None

    @property
    def _named(self) -> str:
        return f"prompts.env={self.source.env}"

    def _open(self) -> _Pipes:
        if self._process is not None:
            return self._process
        pipes = _Pipes(self._log)
        source = self.source
        pipes.send([{"kind": source.kind, "env": source.env, "args": dict(source.args)}])
        deadline = time.monotonic() + START_TIMEOUT_S
        messages: list[Any] | None = []
        while messages == []:
            messages = pipes.receive(deadline - time.monotonic())
            if messages == [] and time.monotonic() >= deadline:
                pipes.kill()
                raise ConfigError(f"{self._named}: not open after {START_TIMEOUT_S:g} s")
        if messages is None or "error" in messages[0]:
            last = pipes.kill()
            told = messages[0]["error"] if messages else last or "its process ended"
            raise ConfigError(f"{self._named}: {told.removeprefix(f'{source.env}: ')}")
        self._tasks, self._process = messages[0]["tasks"], pipes
        return pipes

    def _prompt(self, task: Mapping[str, Any]) -> Prompt:
        messages = []
        for each in task["messages"]:
            role, content = each.get("role"), each.get("content")
            if role not in ("system", "user", "assistant") or not isinstance(content, str):
                raise ConfigError(
                    f"{self._named}: task {task['id']!r} begins with a message of the role "
                    f"{role!r} that is not a text; give system, user and assistant texts"
                )
            messages.append(Message(role, content))
        if not messages or messages[-1].role != "user":
            raise ConfigError(
                f"{self._named}: task {task['id']!r} must begin with the user's turn as its last"
            )
        return Prompt(task["id"], tuple(messages), task["answer"], self.source.env)


def _read(message: Mapping[str, Any]) -> Asked | EnvResult:
    if "ask" in message:
        return Asked(message["messages"], message["tools"])
    if "error" in message:
        return EnvResult(None, outcome="error", note=message["error"])
    return EnvResult(message["reward"], message["terms"], message["outcome"], message["note"])


class _Pipes:
    """A started process and frames to and from it."""

    def __init__(self, log: Path | None) -> None:
        read_end, lifeline = os.pipe()
        from_main = int(threading.current_thread() is threading.main_thread())
        arguments = (os.getpid(), read_end, from_main, log or os.devnull)
        module = "dgpo_cli.environments.worker"
        try:
            self._process = subprocess.Popen(
                # -P: a json.py in the user's folder must not replace the standard library's.
                [sys.executable, "-P", "-m", module, *map(str, arguments)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                env=_environment(),
                pass_fds=(read_end,),
                process_group=0,  # Ctrl-C in a terminal reaches only the parent
            )
        except OSError as error:
            os.close(lifeline)
            raise DgpoError(f"the process of the environment does not start: {error}") from error
        finally:
            os.close(read_end)
        self._inbox = bytearray()
        self._end = weakref.finalize(self, _kill, self._process, lifeline, os.getpid())

    def send(self, messages: Iterable[Any]) -> None:
        """Send messages; a process that is gone is noticed by `receive`."""
        assert self._process.stdin is not None
        data = b"".join(map(encode, messages))
        try:
            while data:
                data = data[os.write(self._process.stdin.fileno(), data) :]
        except OSError:
            return

    def receive(self, timeout_s: float) -> list[Any] | None:
        """Return what came within a time; None if the process ended."""
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        poll = select.poll()  # select has no descriptors above 1023
        poll.register(descriptor, select.POLLIN)
        if not poll.poll(timeout_s * 1000):
            return []
        data = os.read(descriptor, _READ_BYTES)
        if not data:
            return None
        self._inbox += data
        frames = take_frames(self._inbox)
        return frames or self.receive(timeout_s)

    def kill(self) -> str:
        """Kill the process; return the last line that Python printed before it had its pipes."""
        assert self._process.stderr is not None
        _kill_group(self._process)  # what it has started has its pipes
        lines = self._process.stderr.read().decode(errors="replace").splitlines()
        self._end()
        return lines[-1].strip() if lines else ""


def _kill(process: subprocess.Popen[bytes], lifeline: int, owner: int) -> None:
    if os.getpid() != owner:  # a forked copy
        return
    _kill_group(process)
    os.close(lifeline)
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()
    process.wait()


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a process that was not waited for, and what it has started."""
    with suppress(ProcessLookupError, PermissionError):  # macOS: not permitted once it has ended
        os.killpg(process.pid, signal.SIGKILL)


def _environment() -> dict[str, str]:
    package_parent = str(Path(__file__).resolve().parents[2])
    python_path = os.environ.get("PYTHONPATH")
    paths = package_parent if not python_path else os.pathsep.join([package_parent, python_path])
    return {**os.environ, "PYTHONPATH": paths}
