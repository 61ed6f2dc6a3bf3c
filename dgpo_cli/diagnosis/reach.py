"""How far the policy has come from its reference, and whether this run can take it far enough.

The measure is the most that the share of right answers can differ between the two, sqrt(2 L d). It
adds up like a distance: at a constant learning rate it grows in a straight line at first and ever
slower later, in proportion to the rate. So a straight line says what it can be at the last step.
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

# Updates before which nothing is said.
UPDATES = 20
# Reach at the last step below which a run is in vain. The embedded model's reward begins to show
# a rise at 0.3, at whatever rate: full training and LoRA with lr 2e-4 pass this after 2 and 15
# updates; LoRA with 2e-5 has 0.15 after 100, and no more right answers than at first.
ENOUGH = 0.2
# Share of the run after which d should have left the noise, if the run is to be one of learning.
FAIR = 0.25
# Mean d of a policy that has moved as far as the noise is twice that of the noise alone.
VISIBLE = 2.0
# Mean d of a policy against itself where the run has not measured it: in float32 3e-14 was seen on
# the embedded model; bfloat16 logits make it 1e-4, float16 has three bits more, and d goes with
# the square of the error.
NOISE = {"float32": 1e-12, "float16": 1e-4 / 64, "bfloat16": 1e-4}
MEASURED = "noise/hellinger_sq_mean"
MAX_LR = {True: 1e-4, False: 1e-5}  # with and without an adapter: no larger rate is advised

_DISTANCE, _LENGTH = "policy/hellinger_sq_mean", "completion/length_mean"


class Reach(NamedTuple):
    """distance: d now. now, end: share of right answers that may differ from the reference's, now
    and, in a straight line, at the last step of the run; neither is held to 1."""

    distance: float
    now: float
    end: float


def update_too_small(history: History, facts: Facts) -> Diagnosis | None:
    """After many updates the policy is still its reference, or can move no answers in this run."""
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
    """Return how far the policy has come and can come; None where too little is known."""
    now = _reaches(history.last)[-WINDOW:]
    distances = history.newest(_DISTANCE, count=WINDOW)
    if len(now) < WINDOW or len(distances) < WINDOW:
        return None
    middle = statistics.median(now)
    # The warm-up counts as no step, and d is that before the update: rather too fast than too slow.
    pace = middle / max(1, history.step - 1 - facts.warmup_steps)
    before = _reaches(history.last[:-UPDATES])[-WINDOW:]
    if len(before) == WINDOW:
        pace = max(pace, (middle - statistics.median(before)) / UPDATES)
    left = max(0, facts.total_steps - history.step)
    return Reach(statistics.median(distances), middle, middle + pace * left)


def moved_at_most(distance: float, *, length: float) -> float:
    """Return how far the share of right answers may differ between policy and reference.

    The squared Hellinger distances of independent tokens add up to no less than that of the
    completion, H^2, and the probability of any event differs by sqrt(2 H^2) at most. Tokens of a
    completion depend on each other, so for them this is an order of magnitude and no bound.

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
    """Whether the learning rate was raised lately: what was done before says nothing of it."""
    rates = history.known("optim/lr", width=UPDATES)
    return bool(rates) and min(rates) < rates[-1] / 2


def _few(reach: Reach, facts: Facts, *, step: int) -> str:
    if reach.end >= ENOUGH:
        return ""
    now = f", which changes {whole_percent(reach.now)} of the answers at most"
    if step >= facts.total_steps:
        return now
    return f"{now}; going on like this, {whole_percent(reach.end)} by step {facts.total_steps}"


def _larger(facts: Facts, *, reach: Reach, unseen: float) -> str:
    """d grows with the square of the rate: advise what takes it to ten times the noise, and the
    policy to where all answers may differ. unseen: d below which it is noise, or 0."""
    tiny = 1e-12
    wanted = math.sqrt(10 * unseen / max(reach.distance, unseen * tiny)) if unseen else 0.0
    wanted = max(wanted, 1 / max(reach.end, tiny) if reach.end < ENOUGH else 0.0)
    rate = facts.lr * max(10.0, 10 ** math.ceil(math.log10(wanted)))
    limit = max(MAX_LR[facts.has_adapter], 2 * facts.lr)
    why = (
        "an adapter wants about ten times the rate of full training"
        if facts.has_adapter
        else "d grows with the square of it"
    )
    return f"--set optim.lr={min(rate, limit):.2g}: {why}"
