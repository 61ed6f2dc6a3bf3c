"""What the live panel costs: CPU of a frame after 10,000 steps, and its share of a tiny run.

    python benchmarks/panel.py [--steps 10000] [--frames 200]

Frames are drawn on a pseudo-terminal that is read by nobody but a thread of the same process, so
the numbers hold the work of writing as well. The share is the CPU of the drawing thread over the
CPU of the process, in a run of the embedded model in this process.
"""

from __future__ import annotations

import argparse
import os
import pty
import random
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

COLUMNS, ROWS = 100, 30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--train-steps", type=int, default=12)
    options = parser.parse_args()
    os.environ.update(COLUMNS=str(COLUMNS), LINES=str(ROWS), TERM="xterm-256color")
    leader, follower = pty.openpty()
    real, sys.stderr = sys.stderr, os.fdopen(follower, "w", encoding="utf-8")
    threading.Thread(target=_drain, args=(leader,), daemon=True).start()
    try:
        lines = [*frames(options.steps, options.frames), share(options.train_steps)]
    finally:
        sys.stderr = real
    print("\n".join(lines))


def _drain(leader: int) -> None:
    while os.read(leader, 65536):
        pass


def frames(steps: int, count: int) -> list[str]:
    """Time a frame in which a bar moved, one after a step, and taking a step's numbers."""
    from dgpo_cli.core.events import Sampled, StepDone, phase
    from dgpo_cli.core.types import Completion, Message, Prompt, ScoredGroup, Verdict
    from dgpo_cli.live.live import RunPanel

    draw = random.Random(0)
    metrics = {f"area/metric_{number}": draw.random() for number in range(60)}
    metrics |= {
        "reward/mean": 0.5,
        "policy/entropy": 0.1,
        "outcome/correct": 0.5,
        "outcome/wrong": 0.5,
        "completion/length_mean": 30.0,
        "credit/effective_fraction": 0.99,
        "time/step_s": 1.0,
        "time/sample_s": 0.5,
    }
    entropy = {"policy/entropy": 0.1}
    past = [{"step": n, "reward/mean": draw.random()} | entropy for n in range(1, steps)]
    prompt = Prompt("1", (Message("user", "1 + 1?"),), "2", "bench")
    one = Completion((1,), (0.0,), "\\boxed{2}" * 200, "stop", 0, 0)
    right = Verdict("correct", "2", 1.0)
    drawn = (ScoredGroup(prompt, (1,), (one,) * 16, (right,) * 16, (0.0,) * 16),) * 16
    view = RunPanel(
        name="bench",
        out=Path("runs/x"),
        steps=2 * steps,
        eval_every=0,
        start=steps - 1,
        past=(past, []),
    )
    moved, stepped, taken = [], [], []
    with phase(view, "sampling", total=10**9, unit="completions") as advance:
        view.on(StepDone(steps, metrics))
        view.live.frame()
        for number in range(count):
            advance(977)
            moved.append(_cpu(view.live.frame))
            if number % 10 == 0:
                step = steps + 1 + number // 10
                view.on(Sampled(step, drawn))
                taken.append(_cpu(lambda step=step: view.on(StepDone(step, metrics))))
                stepped.append(_cpu(view.live.frame))
    return [
        f"{name:<46} {1000 * statistics.median(times):6.2f} ms CPU, at most {1000 * max(times):.2f}"
        for name, times in (
            (f"frame, a bar has moved, {steps:,} steps behind", moved),
            ("frame after a step", stepped),
            ("taking the numbers of a step", taken),
        )
    ]


def share(steps: int) -> str:
    """Train the embedded model under the panel; return the share of the drawing thread."""
    from dgpo_cli.config.load import resolve
    from dgpo_cli.live.live import RunPanel
    from dgpo_cli.live.screen import Live
    from dgpo_cli.train import train

    resolved = resolve(preset="tiny", overrides=[f"train.steps={steps}", "eval.every=0"])
    spent: list[float] = []

    draw_on = Live._draw_on

    def timed(self: Live) -> None:
        start = time.thread_time()
        draw_on(self)
        spent.append(time.thread_time() - start)

    Live._draw_on = timed  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        cpu, wall = time.process_time(), time.monotonic()
        with RunPanel(name="tiny", out=out, steps=steps, eval_every=0) as view:
            train.run(
                resolved,
                out=out,
                resume="never",
                observer=view,
            )
        cpu, wall = time.process_time() - cpu, time.monotonic() - wall
    return (
        f"{steps} steps of tiny: {spent[0]:.2f} s of {cpu:.1f} s CPU are the panel's "
        f"({spent[0] / cpu:.2%}), in {wall:.0f} s"
    )


def _cpu(work: Any) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


if __name__ == "__main__":
    main()
