"""CPU time to print the credit of long completions: `python benchmarks/heatmap.py [TOKENS]`.

The goal is under 1 s for 20,000 tokens, imports not counted, in every colour mode.
"""

from __future__ import annotations

import io
import math
import random
import sys
import time

from rich.console import Console

from dgpo_cli.report.heatmap import render
from dgpo_cli.report.ramp import Depth
from dgpo_cli.types import InspectedCompletion, InspectedToken, Inspection

WORDS = [" the", " of", " triangle", "\\frac", "{", "}", "12", " =", "\n\n", " x", "你", "é", "  "]
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


def main() -> None:
    """Print the CPU seconds of each mode and width, the slowest of three."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    shown = completion(count)
    inspection = Inspection("model", "reference", "dgpo", 0.2, 1.0, 1000, (shown,))
    modes: tuple[Depth, ...] = ("truecolor", "256", "16", "none")
    for width in (40, 80, 200):
        for mode in modes:
            times = []
            for _ in range(3):
                console = Console(
                    file=io.StringIO(),
                    width=width,
                    force_terminal=True,
                    color_system=SYSTEMS[mode],  # type: ignore[arg-type]
                )
                start = time.process_time()
                console.print(render(shown, inspection=inspection, width=width, top=20, color=mode))
                times.append(time.process_time() - start)
            print(f"{count} tokens, width {width:3}, {mode:9}: {max(times):.2f} s CPU")


if __name__ == "__main__":
    main()
