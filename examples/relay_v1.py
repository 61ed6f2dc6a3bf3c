"""A taskset of the package verifiers: a relay of three sums, each with the model's last answer.

PYTHONPATH=examples dgpo train --preset tiny --set 'prompts={kind="verifiers", env="relay-v1"}' \\
    --set reward.kind=environment --set eval.every=0 --steps 20 --out runs/relay

It needs the extra dgpo-cli[verifiers]. verifiers finds the taskset as the module relay_v1.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable

import verifiers.v1 as vf

__all__ = ["RelayEnv", "RelayTaskset"]

# --8<-- [start:class]
SUM = re.compile(r"(\d+)([+-])(\d+)\?")
BOXED = re.compile(r"\\boxed\{(\d{1,4})\}")


class RelayTask(vf.Task[vf.TaskData]):
    @vf.reward
    async def right(self, trace: vf.Trace) -> float:
        """Return the share of the three turns with a right answer."""
        texts = [message.content or "" for message in trace.branches[-1].messages]
        right = 0
        for asked, said in zip(texts[::2], texts[1::2], strict=False):
            first, sign, second = SUM.findall(asked)[0]
            expected = int(first) + int(sign + second)
            right += BOXED.findall(said)[-1:] == [str(expected)]
        return right / 3


class RelayTaskset(vf.Taskset[RelayTask, vf.TasksetConfig]):
    def load(self) -> Iterable[RelayTask]:
        rng = random.Random(0)
        for _ in range(200):
            asked = f"{rng.randrange(10, 100)}+{rng.randrange(10, 100)}?"
            yield RelayTask(vf.TaskData(prompt=asked))


class RelayEnv(vf.Env[vf.SingleAgentEnvConfig]):
    async def run(self, task: vf.Task, agents: vf.Agents) -> None:
        async with agents.agent.interaction(task) as talk:
            said = await talk.turn()
            for less in (4, 7):
                found = BOXED.findall(said.last_reply)
                if said.terminated or not found:
                    break
                said = await talk.turn(f"{found[-1]}-{less}?")


# --8<-- [end:class]
