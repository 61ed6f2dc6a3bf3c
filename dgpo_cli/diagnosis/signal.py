"""Groups without signal: equal rewards give no gradient."""

from __future__ import annotations

from dgpo_cli.core.numbers import whole_percent
from dgpo_cli.core.types import Diagnosis
from dgpo_cli.diagnosis.facts import Facts
from dgpo_cli.diagnosis.history import History

# Share of groups without signal above which a step costs five times what it teaches.
MOST = 0.8
# Temperature below which completions of a prompt are mostly alike; published runs: 0.6 to 1.2.
COLD = 0.6
PAPER_GROUP = 16
MAX_OPERATIONS = 32  # of a generated sum


def too_easy(history: History, facts: Facts) -> Diagnosis | None:
    """Nearly all groups are all-correct: nothing is left to learn."""
    name = "groups/all_correct"
    if not _mostly(history, name):
        return None
    advice = _dynamic(history, facts) or "take harder prompts (prompts.path or prompts.dataset)"
    if facts.operations and max(facts.operations) < MAX_OPERATIONS:
        advice = f"--set 'prompts.operations=[{max(facts.operations) + 1}]': harder problems"
    learnt = history.initial(name) < MOST / 2
    return Diagnosis(
        key="too_easy",
        step=history.step,
        headline="The prompts are learnt: nearly every answer is correct"
        if learnt
        else "The prompts are too easy: nearly every answer is correct",
        evidence=f"{whole_percent(history.share(name))} of the groups of {history.span} are "
        "all-correct, and a group without a wrong answer has no signal",
        advice=advice,
    )


def too_hard(history: History, facts: Facts) -> Diagnosis | None:
    """Nearly all groups are all-wrong, and most answers can be read."""
    name = "groups/none_correct"
    read = history.share("outcome/wrong") + history.share("outcome/out_of_range")
    if not _mostly(history, name) or not read > 0.5:
        return None
    advice = _dynamic(history, facts) or "take easier prompts (prompts.path or prompts.dataset)"
    if facts.operations and min(facts.operations) > 1:
        advice = f"--set 'prompts.operations=[{min(facts.operations) - 1}]': easier problems"
    elif facts.group_size < PAPER_GROUP:
        advice = f"--set rollout.group_size={PAPER_GROUP}: more tries at each prompt"
    return Diagnosis(
        key="too_hard",
        step=history.step,
        headline="The prompts are too hard: nearly every answer is wrong",
        evidence=f"{whole_percent(history.share(name))} of the groups of {history.span} are "
        f"all-wrong; {whole_percent(read)} of the completions give a wrong answer",
        advice=advice,
    )


def no_signal(history: History, facts: Facts) -> Diagnosis | None:
    """No group of the window moves the policy, for no single reason."""
    silent = history.known("groups/no_signal")
    trained = history.known("loss/signal_tokens")
    none = len(silent) == history.width and all(share >= 1 for share in silent)
    # Dynamic sampling draws until there is signal: then only the loss shows a lack of it.
    idle = len(trained) == history.width and not any(trained)
    if not history.has_window or not (none or idle):
        return None
    right, none_right = history.share("groups/all_correct"), history.share("groups/none_correct")
    kinds = (("wrong", "wrong"), ("truncated", "truncated"), ("no_answer", "without an answer"))
    outcomes = ", ".join(
        f"{whole_percent(history.share(f'outcome/{k}'))} {said}" for k, said in kinds
    )
    return Diagnosis(
        key="no_signal",
        step=history.step,
        headline="No group has signal: "
        + ("only the KL term moves the weights" if facts.kl else "the weights do not move"),
        evidence=f"in {history.span} {whole_percent(right)} of the groups are all-correct and "
        f"{whole_percent(none_right)} all-wrong (completions: {outcomes})",
        advice=_variety(facts),
    )


def _variety(facts: Facts) -> str:
    if facts.temperature < COLD:
        return "--set rollout.temperature=1.0: completions of a prompt are all alike now"
    if facts.group_size < PAPER_GROUP:
        return f"--set rollout.group_size={PAPER_GROUP}: more tries make more groups mixed"
    if not facts.dynamic_sampling:
        return "--set rollout.dynamic_sampling=true: replaces all-correct and all-wrong groups"
    return "take prompts of medium difficulty (prompts.path or prompts.dataset)"


def _dynamic(history: History, facts: Facts) -> str | None:
    if facts.dynamic_sampling or not history.share("groups/no_signal") < 1:
        return None
    return "--set rollout.dynamic_sampling=true: replaces all-correct and all-wrong groups"


def _mostly(history: History, name: str) -> bool:
    return history.has_window and history.likely(name).low > MOST
