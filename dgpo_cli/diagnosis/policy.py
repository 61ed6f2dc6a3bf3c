"""A policy that has lost what it could: its right answers, or the variety that learning needs."""

from __future__ import annotations

import math
import statistics

from dgpo_cli.core.numbers import whole_percent
from dgpo_cli.core.types import Diagnosis
from dgpo_cli.diagnosis.facts import Facts
from dgpo_cli.diagnosis.history import WINDOW, History

# The entropy of a run that learns well falls about tenfold (the embedded model: 0.09 to 0.01 nats
# while nearly every answer becomes right), so the fall alone proves nothing.
GONE = 5.0
# A fall is one if it is this many times the scatter of the single steps, in logarithms.
SCATTER = 3.0
# Right answers from which a policy may be as sure as it is.
SOLVED = 0.9
# Share of the wrong answers that are in groups without a right one: the policy repeats itself.
STUCK = 0.5
# Share of the completions with a penalty for length from which length is what is learnt.
PENALISED = 0.5


def reward_fell(history: History, facts: Facts) -> Diagnosis | None:
    """Far fewer answers are right than when the run began: the updates break the policy."""
    found = history.fallen("outcome/correct") if history.has_window else None
    if found is None:
        return None
    before, now = found
    return Diagnosis(
        key="reward_fell",
        step=history.step,
        headline="The policy has become worse than it began",
        evidence=f"{whole_percent(before)} of the answers were right in the first steps, "
        f"{whole_percent(now)} are in {history.span}",
        advice=f"--set optim.lr={facts.lr / 10:.2g}: begin anew with a tenth of the learning rate",
    )


def entropy_collapsed(history: History, facts: Facts) -> Diagnosis | None:
    """The policy is sure of what it says, wrong answers included, and learns no more.

    Four things together: the entropy is a fifth or less of what the run began with, by more than
    the scatter of its steps; the reward no longer rises; answers are still wrong; and those are
    the answers of whole groups, so that no sample shows what would be better.
    """
    name = "policy/entropy"
    start = [value for value in history.first(name, count=WINDOW) if value > 0]
    now = [value for value in history.known(name) if value > 0]
    if not history.has_window or len(start) < 3 or len(now) < WINDOW:
        return None
    begun, left = statistics.median(start), statistics.median(now)
    logs = [math.log(value) for value in now]
    scatter = statistics.median(abs(value - math.log(left)) for value in logs) / 0.6745
    fall = math.log(begun / left)
    if fall < max(math.log(GONE), SCATTER * scatter) or history.rises("reward/mean"):
        return None
    right, stuck = history.share("outcome/correct"), history.share("groups/none_correct")
    if not right < SOLVED or not stuck >= STUCK * (1 - right):
        return None
    return Diagnosis(
        key="entropy_collapsed",
        step=history.step,
        headline="The entropy has collapsed: wrong answers are given with certainty",
        evidence=f"{left:.2g} nats in {history.span}, {whole_percent(left / begun)} of the "
        f"{begun:.2g} that the run began with; {whole_percent(right)} of the answers are right, "
        f"{whole_percent(stuck)} of the groups have no right one",
        advice=_variety(history, facts),
    )


def _variety(history: History, facts: Facts) -> str:
    if history.share("overlong/penalised") > PENALISED:
        return (
            "--set reward.overlong.buffer_tokens=0: most completions are punished for their "
            "length, and short ones are all that is left; begin anew without"
        )
    if facts.temperature < 1:
        return "--set rollout.temperature=1.0: sample the policy as it is, and begin anew"
    if facts.updates_per_step > 1 and facts.clip_high < 0.28:
        return "--set loss.clip_high=0.28: let unlikely tokens become likelier, and begin anew"
    return f"--set optim.lr={facts.lr / 3:.2g}: begin anew with a third of the learning rate"
