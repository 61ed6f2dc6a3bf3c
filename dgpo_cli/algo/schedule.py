"""The learning rate of every step: linear warm-up, then constant, linear or cosine."""

from __future__ import annotations

import math
from typing import Literal


def learning_rate(
    step: int,
    *,
    peak: float,
    warmup_steps: int,
    total_steps: int,
    schedule: Literal["constant", "linear", "cosine"],
) -> float:
    """Return the rate of `step`, counted from 0.

    The warm-up starts at peak / warmup_steps, so that no step has a rate of 0; the decaying
    schedules would reach 0 at step `total_steps`, which never runs.
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    if schedule == "constant":
        return peak
    done = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return (
        peak * (1.0 - done) if schedule == "linear" else peak * (1 + math.cos(math.pi * done)) / 2
    )
