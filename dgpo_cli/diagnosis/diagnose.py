"""Why the reward is flat: diagnoses a run from its metrics, the most important first.

A diagnosis is one function in a file of its topic and one line here. It suppresses those that
follow from it, so that the first one reported is the first one to fix.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from dgpo_cli.core.types import Diagnosis
from dgpo_cli.diagnosis.answers import (
    foreign_template,
    no_answer,
    reward_fails,
    truncated,
    verifier_timeout,
)
from dgpo_cli.diagnosis.facts import Facts, FindUnread, no_example
from dgpo_cli.diagnosis.flat import reward_flat
from dgpo_cli.diagnosis.history import History, Line
from dgpo_cli.diagnosis.policy import entropy_collapsed, reward_fell
from dgpo_cli.diagnosis.reach import update_too_small
from dgpo_cli.diagnosis.sampler import sampler_disagrees
from dgpo_cli.diagnosis.signal import no_signal, too_easy, too_hard
from dgpo_cli.diagnosis.terms import length_outweighs, term_constant, term_idle
from dgpo_cli.diagnosis.update import grad_clipped, nonfinite, ratio_exploding


class _Rule(NamedTuple):
    """explains: keys of the diagnoses that follow from this one; they are suppressed."""

    key: str
    find: Callable[[History, Facts, FindUnread], Diagnosis | None]
    explains: tuple[str, ...] = ()


def _plain(
    find: Callable[[History, Facts], Diagnosis | None],
) -> Callable[[History, Facts, FindUnread], Diagnosis | None]:
    return lambda history, facts, _: find(history, facts)


_STILL = ("no_signal", "update_too_small")
_SILENT = ("too_easy", "too_hard", *_STILL)
_TERMS = ("term_constant", "term_idle", "length_outweighs")
_UNREAD = ("truncated", "no_answer", *_SILENT)
# Reported alone: anything else that is wrong explains a reward that does not rise.
_LAST_RESORT = "reward_flat"

# The most important first: fixing a later one does not help while an earlier one lasts.
_RULES = (
    _Rule("nonfinite", _plain(nonfinite), ("ratio_exploding", "grad_clipped", *_STILL)),
    _Rule("sampler_disagrees", _plain(sampler_disagrees), ("ratio_exploding", "reward_fell")),
    _Rule(
        "ratio_exploding",
        _plain(ratio_exploding),
        ("reward_fell", "entropy_collapsed", "grad_clipped", *_UNREAD),
    ),
    _Rule("reward_fails", _plain(reward_fails), ("verifier_timeout", "reward_fell", *_SILENT)),
    _Rule("verifier_timeout", _plain(verifier_timeout), ("reward_fell", *_SILENT)),
    _Rule(
        "entropy_collapsed", _plain(entropy_collapsed), ("reward_fell", "grad_clipped", *_UNREAD)
    ),
    _Rule("reward_fell", _plain(reward_fell), ("grad_clipped", *_UNREAD)),
    _Rule("foreign_template", _plain(foreign_template), ("no_answer", *_SILENT)),
    _Rule("truncated", _plain(truncated), (*_SILENT, *_TERMS)),
    _Rule("no_answer", no_answer, (*_SILENT, *_TERMS)),
    _Rule("length_outweighs", _plain(length_outweighs), (*_SILENT, "term_idle")),
    _Rule("too_easy", _plain(too_easy), _STILL),
    _Rule("too_hard", _plain(too_hard), _STILL),
    _Rule("no_signal", _plain(no_signal), _STILL),
    _Rule("term_constant", _plain(term_constant)),
    _Rule("term_idle", _plain(term_idle)),
    _Rule("update_too_small", _plain(update_too_small)),
    _Rule("grad_clipped", _plain(grad_clipped)),
    _Rule(_LAST_RESORT, _plain(reward_flat)),
)
KEYS = tuple(rule.key for rule in _RULES)
EXPLAINS = {rule.key: (*rule.explains, _LAST_RESORT) for rule in _RULES}


def diagnose(
    lines: Sequence[Line], *, facts: Facts, find_unread: FindUnread = no_example
) -> tuple[Diagnosis, ...]:
    """Diagnose a run at its last step; return the most important first.

    Args:
        lines: metrics of its steps, oldest first, each with its "step". The first FIRST and the
            last LAST are enough; steps in between may be missing.
        find_unread: finds a completion without an answer; called when there are too many.
    """
    history = History(lines, prompts_per_step=facts.prompts_per_step)
    if not history.count:
        return ()
    explained: set[str] = set()
    found = []
    for rule in _RULES:
        if rule.key in explained:
            continue
        diagnosis = rule.find(history, facts, find_unread)
        if diagnosis is not None:
            found.append(diagnosis)
            explained.update(EXPLAINS[rule.key])
    return tuple(found)
