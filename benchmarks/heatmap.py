"""CPU time to print the credit of long completions: `python benchmarks/heatmap.py [TOKENS]`.

The goal is under 1 s for 20,000 tokens, imports not counted, in every view and colour mode.
"""

from __future__ import annotations

import io
import math
import random
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, get_args

from rich.console import Console, RenderableType

from dgpo_cli.core import text
from dgpo_cli.core.types import InspectedCompletion, InspectedToken, Inspection
from dgpo_cli.inspect.views import heatmap, pair_view, step_table
from dgpo_cli.inspect.views.measure import What
from dgpo_cli.ui.ramp import Depth

WORDS = [
    " The",
    ". ",
    " the",
    " of",
    " triangle",
    "\\frac",
    "{",
    "}",
    "12",
    " =",
    "\n\n",
    " x",
    "你",
    "é",
    "  ",
]
Draw = Callable[..., RenderableType]
MODES: tuple[Depth, ...] = ("truecolor", "256", "16", "none")
SYSTEMS = {"truecolor": "truecolor", "256": "256", "16": "standard", "none": None}


def completion(count: int) -> InspectedCompletion:
    """`count` tokens with scores drawn from an exponential distribution."""
    draw = random.Random(0)
    scores = [draw.expovariate(8.0) for _ in range(count)]
    powers = [math.exp(score / 0.2) for score in scores]
    total = math.fsum(powers)
    tokens = tuple(
        InspectedToken(at, draw.choice(WORDS), -0.5, 0.7, score, score, count * power / total)
        for at, (score, power) in enumerate(zip(scores, powers, strict=True))
    )
    return InspectedCompletion(
        prompt_id="bench",
        index=0,
        prompt="A long question",
        answer="1",
        outcome="correct",
        finish_reason="stop",
        reward=1.0,
        advantage=0.5,
        effective_fraction=0.5,
        tau=0.2,
        tokens=tokens,
    )


def views(first: InspectedCompletion, second: InspectedCompletion) -> dict[str, Draw]:
    """Every view, by name."""
    inspection = Inspection("model", "reference", "dgpo", 0.2, 1.0, 1000, (first, second))

    def tokens(**changes: Any) -> Draw:
        return lambda **look: heatmap.render(
            first, inspection=inspection, top=20, **(look | changes)
        )

    found: dict[str, Draw] = {"passages": tokens(), "full": tokens(whole=True)}
    for what in get_args(What):
        found[f"full {what}"] = tokens(whole=True, what=what)
    found["steps"] = lambda **look: step_table.render(first, inspection=inspection, **look)
    found["pair"] = lambda **look: pair_view.render(first, second, inspection=inspection, **look)
    return found


def seconds(draw: Draw, *, width: int, color: Depth) -> float:
    """CPU seconds of drawing once, on a console of its own and with nothing remembered."""
    console = Console(
        file=io.StringIO(),
        width=width,
        force_terminal=True,
        color_system=SYSTEMS[color],  # type: ignore[arg-type]
    )
    text.visible.cache_clear()
    start = time.process_time()
    console.print(draw(width=width, color=color))
    return time.process_time() - start


def main() -> None:
    """Print the CPU seconds of each view at each width, the slowest of all colour modes."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    first = completion(count)
    parted = count // 3
    tokens = (*first.tokens[:parted], *(replace(t, id=-1) for t in first.tokens[parted:]))
    second = replace(first, outcome="wrong", advantage=-0.5, tokens=tokens)
    slowest = 0.0
    for name, draw in views(first, second).items():
        for width in (40, 80, 200):
            times = {mode: seconds(draw, width=width, color=mode) for mode in MODES}
            mode = max(times, key=lambda each: times[each])
            slowest = max(slowest, times[mode])
            print(f"{count} tokens, {name:14} width {width:3}: {times[mode]:.2f} s CPU at {mode}")
    print(f"slowest {slowest:.2f} s CPU")


if __name__ == "__main__":
    main()
