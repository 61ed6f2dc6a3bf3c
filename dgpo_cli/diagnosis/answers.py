"""Answers that never reach the reward: truncated, unreadable or not judged in time."""

from __future__ import annotations

from dgpo_cli.core.numbers import duration, whole_percent
from dgpo_cli.core.types import Diagnosis
from dgpo_cli.diagnosis.facts import Facts, FindUnread, UnreadExample
from dgpo_cli.diagnosis.history import History

# Share of completions above which a failure decides the reward of most groups.
MOST = 0.5
# Above this nothing is left to learn from; below, a reward that rises is left alone.
NEARLY_ALL = 0.9
# Share of unjudged completions, which count as wrong; one busy moment loses fewer.
UNJUDGED = 0.05
SOON = 2  # steps that suffice if most completions are not judged
LONGEST_TEMPLATE = 60  # characters that an advice of one line repeats
MAX_TIMEOUT_S = 600.0  # upper limit of reward.timeout_s

_EXPECTED = {
    "boxed": r"\boxed{42}",
    "answer-line": "a last line such as Answer: 42",
    "boxed-or-answer-line": r"\boxed{42} or a last line such as Answer: 42",
    "last-number": "a number, with the last one counting",
}
_BOXED = r"Put the answer into \boxed{}."
_REQUEST = {
    "answer-line": "End with a line of the form Answer: ...",
    "last-number": "Write only the answer, as a number.",
}


def foreign_template(history: History, facts: Facts) -> Diagnosis | None:
    """Nothing is right in two steps, under a preset's template for other problems."""
    rewards = history.known("reward/mean", width=SOON)
    if not facts.template_owner or len(rewards) < SOON or max(rewards) > facts.worst:
        return None
    if max(history.known("outcome/correct"), default=0.0) > 0:
        return None
    bare = "{problem}"
    asked = _REQUEST.get(facts.extract, _BOXED)
    template = bare if facts.template != bare else f"{bare} {asked}"
    return Diagnosis(
        key="foreign_template",
        step=history.step,
        headline="No completion is right, under a template for other problems",
        evidence=f"in {history.last_steps(SOON)} no completion got a reward; prompts.template is "
        f"that of preset {facts.template_owner}: {facts.template!r}",
        advice=f"--set 'prompts.template={template}', or another that suits these problems",
    )


def truncated(history: History, facts: Facts) -> Diagnosis | None:
    """Most completions are truncated before they give an answer."""
    name = "outcome/truncated"
    if not _decides(history, name):
        return None
    limit, share = facts.max_completion_tokens, history.share(name)
    longer = f"--set rollout.max_completion_tokens={2 * limit}"
    advice = f"{longer}: leaves room for an answer"
    buffer = limit // 5  # DAPO's
    if buffer and history.initial(name) < share / 2:
        advice = (
            f"--set reward.overlong.buffer_tokens={buffer}: they have grown since the start, "
            f"and a length penalty stops that; or {longer}"
        )
    return Diagnosis(
        key="truncated",
        step=history.step,
        headline="Completions are truncated before they give an answer",
        evidence=f"{whole_percent(share)} of the completions of {history.span} reached "
        f"rollout.max_completion_tokens={limit} without one",
        advice=advice,
    )


def no_answer(history: History, facts: Facts, find: FindUnread) -> Diagnosis | None:
    """Most completions end by themselves without a readable answer."""
    name = "outcome/no_answer"
    if not _decides(history, name):
        return None
    example = find()
    seen = "" if example is None else f"; one ends: {example.ending}"
    if example is not None and example.in_thought:
        seen = f"; most end inside a thought{seen}"
    return Diagnosis(
        key="no_answer",
        step=history.step,
        headline="Completions contain no readable answer",
        evidence=f"{whole_percent(history.share(name))} of those in {history.span}; "
        f"reward.extract={facts.extract} reads {_EXPECTED.get(facts.extract, 'another form')}"
        f"{seen}",
        advice=_readable(facts, example),
    )


def _readable(facts: Facts, example: UnreadExample | None) -> str:
    if example is not None and example.readable_as is not None:
        return (
            f"--set reward.extract={example.readable_as}: finds an answer in most completions that "
            "have none now"
        )
    if example is not None and example.in_thought:
        return (
            "an answer inside an unclosed thought is not read: use a model that closes it (by "
            "</think> or its own tag), or a chat template that does not open one"
        )
    asked = _REQUEST.get(facts.extract, _BOXED)
    if "'" in facts.template or "\n" in facts.template or len(facts.template) > LONGEST_TEMPLATE:
        return f"ask for the expected form in prompts.template: {asked}"
    return f"--set 'prompts.template={facts.template} {asked}': ask for the expected form"


def reward_fails(history: History, facts: Facts) -> Diagnosis | None:
    """Functions or servers that give the reward fail, so that completions do not train.

    Two steps suffice if it happens to most completions.
    """
    recent = history.known("reward/unscored", width=SOON)
    soon = len(recent) == SOON and min(recent) > MOST
    width = history.width if history.has_window and not soon else SOON
    steps = sum(share > 0 for share in history.known("reward/unscored", width=width))
    share = history.share("reward/unscored", width=width)
    if not (soon or (history.has_window and share >= UNJUDGED and steps > width / 2)):
        return None
    late = history.share("outcome/timeout", width=width)
    if late > share / 2:
        advice = (
            "raise the timeout_s that is exceeded, or make faster what is late; the note of those "
            "completions in the rollouts names it (outcome timeout)"
        )
    else:
        advice = (
            "see those completions in the rollouts (outcome error): their note has the message and "
            "the line; dgpo check --reward FILE.py:NAME tries a function before a run"
        )
    return Diagnosis(
        key="reward_fails",
        step=history.step,
        headline="Rewards fail, and their completions do not train",
        evidence=f"in {history.last_steps(width)} {whole_percent(share)} of the completions are "
        f"unscored: {whole_percent(share - late)} by errors, {whole_percent(late)} by timeouts",
        advice=advice,
    )


def verifier_timeout(history: History, facts: Facts) -> Diagnosis | None:
    """The answer checker times out or crashes often enough to move the reward.

    Two steps suffice if it happens to most completions.
    """
    width = history.width if _some_are_unjudged(history) else SOON
    if width == SOON and not _most_are_unjudged(history):
        return None
    late, died = (history.share(f"outcome/{x}", width=width) for x in ("timeout", "crash"))
    completions = history.groups(history.last[-width:]) / width * facts.group_size
    return Diagnosis(
        key="verifier_timeout",
        step=history.step,
        headline="Answers are not judged and count as wrong",
        evidence=f"in {history.last_steps(width)} {whole_percent(late)} of the checks exceeded "
        f"reward.timeout_s={facts.timeout_s:g} and {whole_percent(died)} crashed"
        + _cost(late * completions, of=completions, facts=facts),
        advice=_judged(facts, late=late, died=died),
    )


def _some_are_unjudged(history: History) -> bool:
    found = history.known("outcome/timeout"), history.known("outcome/crash")
    steps = sum(a > 0 or b > 0 for a, b in zip(*found, strict=False))
    share = history.share("outcome/timeout") + history.share("outcome/crash")
    return history.has_window and share >= UNJUDGED and steps > history.width / 2


def _most_are_unjudged(history: History) -> bool:
    found = (history.known(f"outcome/{name}", width=SOON) for name in ("timeout", "crash"))
    shares = [a + b for a, b in zip(*found, strict=False)]
    return len(shares) == SOON and min(shares) > MOST


def _cost(late: float, *, of: float, facts: Facts) -> str:
    """Return the time that timeouts cost in each step, for the message."""
    if late < 1:
        return ""
    time = duration(late * facts.timeout_s / facts.workers, whole=True)
    return (
        f"; {late:,.0f} of {of:,.0f} per step cost about {time} of every step "
        f"with reward.workers={facts.workers}"
    )


def _judged(facts: Facts, *, late: float, died: float) -> str:
    if died > late:
        return (
            "see those completions in the rollouts (outcome crash): a worker that exceeds its "
            "memory limit ends; --set reward.kind=integer needs the least, if answers are integers"
        )
    patience = min(4 * facts.timeout_s, MAX_TIMEOUT_S)
    return (
        f"--set reward.timeout_s={patience:g}: allows more time; if that does not help, "
        "see those completions in the rollouts (outcome timeout)"
    )


def _decides(history: History, name: str) -> bool:
    if not history.has_window or history.likely(name).low <= MOST:
        return False
    if history.share(name) >= NEARLY_ALL:
        return True
    return history.count >= 2 * history.width and not history.rises("reward/mean")
