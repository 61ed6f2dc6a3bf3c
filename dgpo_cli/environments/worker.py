"""The process of an environment: it tells its tasks and plays them, many at a time.

It exchanges frames on its original stdin and stdout (rewards/protocol.py) and ends with its parent.
What comes in: the setup, then {"play": number, "task": id, "seed": n}, {"said": number, ...} and
{"drop": number}. What goes out: {"tasks": [...]}, then {"ask": number, "messages": [...],
"tools": ...} and {"end": number, ...}.
"""

from __future__ import annotations

import asyncio
import math
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any, BinaryIO

from dgpo_cli.core.errors import DgpoError
from dgpo_cli.core.own_code import where_it_failed
from dgpo_cli.core.types import OUTCOMES
from dgpo_cli.environments.environment import (
    Environment,
    EnvTask,
    Episode,
    Said,
    as_score,
)
from dgpo_cli.rewards.protocol import encode
from dgpo_cli.rewards.workers.worker import die_with_parent, read_message, take_pipes

MAX_NOTE = 500  # characters of an error that are told


def opened(setup: dict[str, Any]) -> Environment:
    """Return the environment that the settings name."""
    if setup["kind"] == "verifiers":
        from dgpo_cli.environments.from_verifiers import FromVerifiers

        return FromVerifiers(setup["env"], setup["args"])
    from dgpo_cli.core.own_code import load_own

    kind = load_own(setup["env"])
    if not (isinstance(kind, type) and issubclass(kind, Environment)):
        raise DgpoError("is not a class derived from dgpo_cli.Environment")
    if kind.play is Environment.play or kind.tasks is Environment.tasks:
        lacking = "play" if kind.play is Environment.play else "tasks"
        raise DgpoError(f"the class has no {lacking}; define it")
    made: Environment = kind(**setup["args"])
    return made


class Stage:
    """The conversations in progress."""

    def __init__(self, environment: Environment, outgoing: BinaryIO) -> None:
        self._environment, self._outgoing = environment, outgoing
        self._tasks: dict[str, EnvTask] = {}
        self._waiting: dict[int, asyncio.Future[Said]] = {}
        self._playing: dict[int, asyncio.Task[None]] = {}

    def open(self) -> None:
        """Tell all tasks."""
        for task in self._environment.tasks():
            if task.id in self._tasks:
                raise DgpoError(f"two tasks have the id {task.id!r}")
            self._tasks[task.id] = task
        self._send(
            {
                "tasks": [
                    {"id": each.id, "messages": each.opening, "answer": each.answer}
                    for each in self._tasks.values()
                ]
            }
        )

    def hear(self, message: dict[str, Any]) -> None:
        """Handle a message of the parent."""
        match message:
            case {"play": number, "task": name, "seed": seed}:
                play = self._play(number, self._tasks[name], seed)
                self._playing[number] = asyncio.get_running_loop().create_task(play)
            case {"said": number, **said}:
                future = self._waiting.pop(number, None)
                if future is not None and not future.done():
                    future.set_result(Said(**said))
            case {"drop": number}:
                if (playing := self._playing.pop(number, None)) is not None:
                    playing.cancel()
            case {"ping": _}:
                self._send({"pong": True})

    async def _play(self, number: int, task: EnvTask, seed: int) -> None:
        async def ask(messages: list[dict[str, Any]], tools: list[Any] | None) -> Said:
            future = asyncio.get_running_loop().create_future()
            self._waiting[number] = future
            self._send({"ask": number, "messages": messages, "tools": tools})
            said: Said = await future
            return said

        try:
            result = await self._environment.play(task, Episode(task, seed=seed, ask=ask))
            self._send({"end": number, **_told(as_score(result))})
        except Exception as error:
            self._send({"end": number, "error": described(error, of=self._environment)})
        finally:
            self._waiting.pop(number, None)
            self._playing.pop(number, None)

    def _send(self, message: dict[str, Any]) -> None:
        # Small and read at once: the parent waits for nothing else.
        self._outgoing.write(encode(message))


def _told(score: Any) -> dict[str, Any]:
    if not math.isfinite(score.reward):
        raise DgpoError(f"the reward is {score.reward}; return a finite number")
    if score.outcome is not None and score.outcome not in OUTCOMES:
        raise DgpoError(f"the outcome {score.outcome!r} is not one of {', '.join(OUTCOMES)}")
    terms = {str(name): float(value) for name, value in score.terms.items()}
    return {
        "reward": float(score.reward),
        "terms": {name: value if math.isfinite(value) else None for name, value in terms.items()},
        "outcome": score.outcome,
        "note": score.note,
    }


def described(error: BaseException, *, of: Environment | None) -> str:
    """Return an error in one line: of the user's code file, line and type too.

    of: the environment, if it was made.
    """
    if isinstance(error, DgpoError):
        text = " ".join(str(error).split())
    else:
        file = getattr(sys.modules.get(type(of).__module__), "__file__", None)
        text = where_it_failed(error, folder=Path(file).parent if file else Path.cwd())
    return text[:MAX_NOTE]


async def serve(incoming: BinaryIO, outgoing: BinaryIO) -> None:
    """Answer the parent until the pipe ends."""
    setup = read_message(incoming)
    if setup is None:
        return
    environment: Environment | None = None
    try:
        environment = opened(setup)
        await environment.start()
        stage = Stage(environment, outgoing)
        stage.open()
    except Exception as error:
        outgoing.write(encode({"error": described(error, of=environment)}))
        return
    loop, ended = asyncio.get_running_loop(), asyncio.Event()

    def listen() -> None:
        while (message := read_message(incoming)) is not None:
            loop.call_soon_threadsafe(stage.hear, message)
        loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=listen, daemon=True).start()
    await ended.wait()
    await environment.stop()


def main() -> None:
    parent, lifeline, from_main_thread = map(int, sys.argv[1:4])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent(parent, lifeline, from_main_thread=bool(from_main_thread))
    incoming, outgoing = take_pipes(sys.argv[4])
    asyncio.run(serve(incoming, outgoing))
    os._exit(0)


if __name__ == "__main__":
    main()
