"""A taskset of verifiers: a sum, and then the next one from the model's own answer."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import verifiers.v1 as vf

__all__ = ["SumsEnv", "SumsTaskset"]


class SumsData(vf.TaskData):
    answer: int = 0


class SumsTask(vf.Task[SumsData]):
    @vf.reward(weight=2.0)
    async def digits(self, task: SumsData, trace: vf.Trace) -> float:
        said = [m.content or "" for m in trace.branches[-1].messages if m.role == "assistant"]
        return len(re.findall(r"\d", "".join(said))) / 100

    @vf.metric
    async def turns(self, trace: vf.Trace) -> float:
        return float(trace.num_turns)


class SumsConfig(vf.TasksetConfig):
    count: int = 3


class SumsTaskset(vf.Taskset[SumsTask, SumsConfig]):
    def load(self) -> Iterable[SumsTask]:
        for n in range(self.config.count):
            yield SumsTask(SumsData(id=f"s{n}", prompt=f"{n}+1?", answer=n + 1))


class SumsEnv(vf.Env[vf.SingleAgentEnvConfig]):
    async def run(self, task: Any, agents: vf.Agents) -> None:
        async with agents.agent.interaction(task) as talk:
            await talk.turn()
            if task.data.id == "s2":
                raise OSError("no board")
            await talk.turn("1+1?")
