"""An environment of three turns: a relay of sums, each with the model's own last answer.

dgpo train --preset tiny --set 'prompts={kind="environment", env="examples/relay.py:Relay"}' \\
    --set reward.kind=environment --set eval.every=0 --steps 20 --out runs/relay

The first turn asks "12+7?". The answer of the model is taken at its word: if it is 18, the next
question is "18-5?". The reward is the share of the turns with a right answer.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable

from dgpo_cli import Environment, EnvScore, EnvTask, Episode

# --8<-- [start:class]
BOXED = re.compile(r"\\boxed\{(\d{1,4})\}")


class Relay(Environment):
    """A relay of `turns` sums; `count` tasks."""

    def __init__(self, turns: int = 3, count: int = 200) -> None:
        self.turns, self.count = turns, count

    def tasks(self) -> Iterable[EnvTask]:
        """Return sums of two numbers below 100."""
        rng = random.Random(0)
        for number in range(self.count):
            first, second = rng.randrange(10, 100), rng.randrange(10, 100)
            yield EnvTask(f"relay-{number}", f"{first}+{second}?", data=first + second)

    async def play(self, task: EnvTask, episode: Episode) -> EnvScore:
        """Ask `turns` times; a turn without an answer ends the relay."""
        rng = random.Random(episode.seed)
        expected, right = task.data, 0
        said = await episode.turn()
        for turn in range(1, self.turns + 1):
            found = BOXED.findall(said.text)
            right += bool(found) and int(found[-1]) == expected
            if not found or said.over or turn == self.turns:
                break
            answer, less = int(found[-1]), rng.randrange(1, 10)
            expected = answer - less
            said = await episode.turn(f"{answer}-{less}?")
        share = right / self.turns
        return EnvScore(share, terms={"right": right, "asked": turn})


# --8<-- [end:class]
