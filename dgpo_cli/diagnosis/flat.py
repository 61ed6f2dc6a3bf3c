"""A reward that does not rise, in a run without another diagnosis."""

from __future__ import annotations

from dgpo_cli.core.numbers import percent, scientific, whole_percent
from dgpo_cli.core.types import Diagnosis
from dgpo_cli.diagnosis.facts import Facts
from dgpo_cli.diagnosis.history import (
    FIRST,
    LAST,
    START,
    SURE,
    History,
    Rise,
    has_risen,
    recent_rise,
    rise_since_start,
)
from dgpo_cli.diagnosis.policy import SOLVED
from dgpo_cli.diagnosis.reach import Reach, reach_of

# Least rise over a run that matters, as a share of completions; less if few are right or wrong.
LEAST = 0.1
LEAST_OF_ROOM = 0.5
# Share of a run before which a reward may still be flat.
HALF = 0.5
# Share of completions with a length penalty above which the policy may learn length first.
PENALISED = 0.1
# Reach of a policy that has moved far enough to change its answers; see reach.py.
FAR = 0.5

_RIGHT = "outcome/correct"


def reward_flat(history: History, facts: Facts) -> Diagnosis | None:
    """The share of correct answers has not risen, and has room to rise.

    No rise that would matter by the last step may hide in the noise. A run that rose and
    levelled off, or that has begun to rise, does not count.
    """
    if history.count < FIRST + LAST or not _time_enough(history, facts):
        return None
    rise, late = rise_since_start(history, _RIGHT), recent_rise(history, _RIGHT)
    if rise is None or late is None or _is_busy(history):
        return None
    if not rise.now + SURE * rise.error < SOLVED:
        return None
    least = min(LEAST, LEAST_OF_ROOM * min(rise.now, 1 - rise.now))
    if not _by_the_end(history, facts, rise) < least or late.is_sure:
        return None
    if _hints_at_a_rise(history):
        return None
    reach = reach_of(history, facts)
    return Diagnosis(
        key="reward_flat",
        step=history.step,
        headline="The reward does not rise, for no other diagnosed reason",
        evidence=_evidence(history, facts, rise, reach),
        advice=_advice(facts, reach),
    )


def _hints_at_a_rise(history: History) -> bool:
    """Whether anything looks like a rise. Since the first few steps, one standard error is enough:
    a fast run rises there, and a later baseline hides it."""
    begun = rise_since_start(history, _RIGHT, first=START)
    if begun is None or begun.size > begun.error:
        return True
    return any(has_risen(history, name) or history.rises(name) for name in (_RIGHT, "reward/mean"))


def _time_enough(history: History, facts: Facts) -> bool:
    after = history.step - facts.warmup_steps
    return after >= max(FIRST + LAST, HALF * facts.total_steps)


def _by_the_end(history: History, facts: Facts, rise: Rise) -> float:
    """Return the largest rise that the last step may show at this pace."""
    between = history.step - (LAST + FIRST) / 2
    return rise.at_most * max(1.0, facts.total_steps / between)


def _is_busy(history: History) -> bool:
    """Whether the policy learns length first, or had too few updates to learn anything."""
    updates = history.known("optim/updates", width=LAST)
    return (
        sum(value > 0 for value in updates) < LAST / 2
        or history.share("overlong/penalised") > PENALISED
    )


def _evidence(history: History, facts: Facts, rise: Rise, reach: Reach | None) -> str:
    most = max(0.0, _by_the_end(history, facts, rise))
    seen = (
        f"{percent(rise.before)} of the answers were correct in the first {FIRST} steps, "
        f"{percent(rise.now)} in {history.last_steps(LAST)}; at this pace at most {100 * most:.1f} "
        f"points more by step {max(history.step, facts.total_steps)}"
    )
    if reach is None:
        return seen
    moved = whole_percent(min(1.0, reach.now))
    return (
        f"{seen}; d is {scientific(reach.distance)}, which can change up to {moved} of the answers"
    )


def _advice(facts: Facts, reach: Reach | None) -> str:
    if reach is None or reach.now < FAR:
        short = "" if reach is None else "the policy has moved little; "
        return f"--set optim.lr={3 * facts.lr:.2g}: {short}if that does not help, {_LOOK}"
    return (
        f"{_LOOK}; if they are, --set rollout.prompts_per_step={2 * facts.prompts_per_step}: the "
        "policy moves, but not to better answers; more groups make the gradient less noisy"
    )


_LOOK = "check with dgpo inspect --pair that the verdicts are right"
