"""A policy that has lost its correct answers, or the variety that learning needs."""

from __future__ import annotations

import math
import statistics

from dgpo_cli.core.numbers import whole_percent
from dgpo_cli.core.types import Diagnosis
from dgpo_cli.diagnosis.facts import Facts
from dgpo_cli.diagnosis.history import WINDOW, History

# The entropy of a run that learns well falls about tenfold (the embedded model: 0.09 to 0.01 nats
# while nearly every answer becomes correct), so a fall alone proves nothing.
GONE = 5.0
# Least fall, in multiples of the scatter of single steps, in logarithms.
SCATTER = 3.0
# Share of correct answers above which low entropy is no problem.
SOLVED = 0.9
# Share of the wrong answers in all-wrong groups: the policy repeats itself.
STUCK = 0.5
# Share of completions with a length penalty above which the policy learns length.
PENALISED = 0.5


def reward_fell(history: History, facts: Facts) -> Diagnosis | None:
    """Far fewer answers are correct than at the start: the updates break the policy."""
    found = history.fallen("outcome/correct") if history.has_window else None
    if found is None:
        return None
    before, now = found
    return Diagnosis(
        key="reward_fell",
        step=history.step,
        headline="The policy is worse than at the start",
        evidence=f"{whole_percent(before)} of the answers were correct in the first steps, "
        f"{whole_percent(now)} in {history.span}",
        advice=f"--set optim.lr={facts.lr / 10:.2g}: restart with a tenth of the learning rate",
    )


def entropy_collapsed(history: History, facts: Facts) -> Diagnosis | None:
    """The policy gives wrong answers with certainty and has stopped learning.

    Four conditions: the entropy is a fifth or less of the initial one, by more than the scatter
    of its steps; the reward no longer rises; answers are still wrong; and the wrong answers fill
    whole groups, so that no completion shows a better one.
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
        evidence=f"{left:.2g} nats in {history.span}, {whole_percent(left / begun)} of the initial "
        f"{begun:.2g}; {whole_percent(right)} of the answers are correct, "
        f"{whole_percent(stuck)} of the groups all-wrong",
        advice=_variety(history, facts),
    )


def _variety(history: History, facts: Facts) -> str:
    if history.share("overlong/penalised") > PENALISED:
        return (
            "--set reward.overlong.buffer_tokens=0: most completions have a length penalty, and "
            "only short ones are left; restart without it"
        )
    if facts.temperature < 1:
        return "--set rollout.temperature=1.0: sample the policy as it is, and restart"
    narrow = facts.clip_high is not None and facts.clip_high < 0.28
    if facts.updates_per_step > 1 and narrow:
        return "--set loss.clip_high=0.28: let unlikely tokens become likelier, and restart"
    return f"--set optim.lr={facts.lr / 3:.2g}: restart with a third of the learning rate"
