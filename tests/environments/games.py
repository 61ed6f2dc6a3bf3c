"""Environments for the tests: they count, fail, hang and talk too long."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Iterable
from typing import Any

from dgpo_cli import Environment, EnvScore, EnvTask, Episode


class Count(Environment):
    """Asks for the next number, `turns` times; a seed and what was said go into the terms."""

    def __init__(self, turns: int = 3, tools: bool = False) -> None:
        self.turns, self.tools = turns, tools

    def tasks(self) -> Iterable[EnvTask]:
        return [EnvTask(f"t{n}", f"{n}+1?", answer=str(n + 1), data=n) for n in range(4)]

    async def play(self, task: EnvTask, episode: Episode) -> EnvScore:
        said = await episode.turn()
        heard = [said.text]
        while len(heard) < self.turns and not said.over:
            said = await episode.turn(f"{len(heard)}+{task.data}?")
            heard += [] if said.over else [said.text]
        share = sum(len(text) for text in heard) / 100
        return EnvScore(share, terms={"turns": len(heard), "seed": episode.seed % 1000})


class Silent(Environment):
    """Has a task and does not play it."""

    def tasks(self) -> Iterable[EnvTask]:
        return [EnvTask("one", "1+1?")]


class Trouble(Count):
    """Does what the task's name says."""

    def tasks(self) -> Iterable[EnvTask]:
        names = ("fine", "early", "raise", "nan", "hang", "block", "greedy", "die")
        return [EnvTask(name, "1+1?") for name in names]

    async def play(self, task: EnvTask, episode: Episode) -> Any:
        if task.id == "early":
            raise OSError("no sandbox\nis left")
        said = await episode.turn()
        match task.id:
            case "raise":
                raise KeyError("missing")
            case "nan":
                return float("nan")
            case "hang":
                await asyncio.sleep(60)
            case "block":
                time.sleep(60)
            case "greedy":
                while True:
                    await episode.turn("2+2?")
            case "die":
                raise SystemExit(3)
        return bool(said.text)


class Helped(Count):
    """Has a process of its own beside it."""

    async def start(self) -> None:
        self.helper = subprocess.Popen(["sleep", "600"])
