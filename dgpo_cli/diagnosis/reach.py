"""How far the policy has moved from its reference, and whether this run can move it far enough.

The measure is the most that the share of correct answers can differ between the two, sqrt(2 L d).
It adds up like a distance: at a constant learning rate it first grows linearly, in proportion to
the rate, and then ever slower. So a linear extrapolation bounds it at the last step.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from dgpo_cli.core.numbers import scientific, whole_percent
from dgpo_cli.core.types import Diagnosis
from dgpo_cli.diagnosis.facts import Facts
from dgpo_cli.diagnosis.history import WINDOW, History, Line, has_risen, number

# Updates before which nothing is diagnosed.
UPDATES = 20
# Least reach at the last step. The embedded model's reward begins to rise at 0.3, at any rate:
# full training and LoRA with lr 2e-4 pass 0.2 after 2 and 15 updates; LoRA with 2e-5 has 0.15
# after 100, and no more correct answers than at the start.
ENOUGH = 0.2
# Share of the run after which d should exceed the noise.
FAIR = 0.25
# Least mean d, in multiples of the noise: a policy that moved as far as the noise has 2.
VISIBLE = 2.0
# Mean d of a policy against itself if the run has not measured it. The embedded model in float32
# has 3e-14; bfloat16 logits make it 1e-4; float16 has three bits more, and d goes with the square
# of the error.
NOISE = {"float32": 1e-12, "float16": 1e-4 / 64, "bfloat16": 1e-4}
MEASURED = "noise/hellinger_sq_mean"
MAX_LR = {True: 1e-4, False: 1e-5}  # largest rate advised, with and without an adapter

_DISTANCE, _LENGTH = "policy/hellinger_sq_mean", "completion/length_mean"


class Reach(NamedTuple):
    """distance: d now. now, end: largest difference from the reference's share of correct answers,
    now and extrapolated to the last step; both may exceed 1."""

    distance: float
    now: float
    end: float


def update_too_small(history: History, facts: Facts) -> Diagnosis | None:
    """After many updates the policy is still its reference, or cannot leave it in this run."""
    reach = reach_of(history, facts)
    after = history.step - facts.warmup_steps
    updates = history.known("optim/updates", width=len(history.last))
    if (
        reach is None
        or after < UPDATES
        or sum(value > 0 for value in updates) < UPDATES
        or _rate_has_risen(history)
        or history.rises("reward/mean")
        or has_risen(history, "reward/mean")
    ):
        return None
    measured = history.newest(MEASURED, count=1) or history.first(MEASURED)[-1:]
    noise = measured[0] if measured and measured[0] > 0 else NOISE.get(facts.dtype, 0.0)
    unseen = reach.distance < VISIBLE * noise and after >= FAIR * facts.total_steps
    if not unseen and reach.end >= ENOUGH:
        return None
    return Diagnosis(
        key="update_too_small",
        step=history.step,
        headline="The learning rate is too small: the policy is still its reference",
        evidence=f"d is {scientific(reach.distance)} on average in {history.span}"
        + _few(reach, facts, step=history.step)
        + (f"; its noise is {scientific(noise)}" if unseen else ""),
        advice=_larger(facts, reach=reach, unseen=VISIBLE * noise if unseen else 0.0),
    )


def reach_of(history: History, facts: Facts) -> Reach | None:
    """Return how far the policy has moved and can move; None if too little is known."""
    now = _reaches(history.last)[-WINDOW:]
    distances = history.newest(_DISTANCE, count=WINDOW)
    if len(now) < WINDOW or len(distances) < WINDOW:
        return None
    middle = statistics.median(now)
    # Without the warm-up, and d is that before the update: an overestimate.
    pace = middle / max(1, history.step - 1 - facts.warmup_steps)
    before = _reaches(history.last[:-UPDATES])[-WINDOW:]
    if len(before) == WINDOW:
        pace = max(pace, (middle - statistics.median(before)) / UPDATES)
    left = max(0, facts.total_steps - history.step)
    return Reach(statistics.median(distances), middle, middle + pace * left)


def moved_at_most(distance: float, *, length: float) -> float:
    """Return the largest difference in the share of correct answers between policy and reference.

    The squared Hellinger distances of independent tokens add up to at least that of the
    completion, H^2, and the probability of any event differs by at most sqrt(2 H^2). Tokens of a
    completion depend on each other, so here this is an order of magnitude, not a bound.

    Args:
        distance: mean d of a token. length: tokens of a completion.

    Source: Le Cam and Yang, Asymptotics in Statistics (2000), chapter 3.
    """
    return math.sqrt(2 * length * distance)


def _reaches(lines: Sequence[Line]) -> list[float]:
    values = (
        moved_at_most(number(line, _DISTANCE), length=number(line, _LENGTH)) for line in lines
    )
    return [value for value in values if math.isfinite(value)]


def _rate_has_risen(history: History) -> bool:
    """Whether the learning rate rose recently, so that earlier steps do not count."""
    rates = history.known("optim/lr", width=UPDATES)
    return bool(rates) and min(rates) < rates[-1] / 2


def _few(reach: Reach, facts: Facts, *, step: int) -> str:
    if reach.end >= ENOUGH:
        return ""
    now = f", which changes at most {whole_percent(reach.now)} of the answers"
    if step >= facts.total_steps:
        return now
    return f"{now}; at this pace {whole_percent(reach.end)} by step {facts.total_steps}"


def _larger(facts: Facts, *, reach: Reach, unseen: float) -> str:
    """Advise a learning rate, as d grows with its square: one that takes d to ten times the noise,
    and the policy to where all answers may differ. unseen: d that is noise, or 0."""
    tiny = 1e-12
    wanted = math.sqrt(10 * unseen / max(reach.distance, unseen * tiny)) if unseen else 0.0
    wanted = max(wanted, 1 / max(reach.end, tiny) if reach.end < ENOUGH else 0.0)
    rate = facts.lr * max(10.0, 10 ** math.ceil(math.log10(wanted)))
    limit = max(MAX_LR[facts.has_adapter], 2 * facts.lr)
    why = (
        "an adapter needs about ten times the rate of full training"
        if facts.has_adapter
        else "d grows with its square"
    )
    return f"--set optim.lr={min(rate, limit):.2g}: {why}"
