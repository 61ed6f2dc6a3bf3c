"""Tries a reward on completions of a file: scores, failures and time, before a run."""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from dgpo_cli.core.events import Observer
from dgpo_cli.core.numbers import ABSENT, decimal, duration
from dgpo_cli.doctor.cases import BrokenLine, Case, read_cases
from dgpo_cli.doctor.check import CheckedCase, CheckSummary
from dgpo_cli.rewards.grader import Grader
from dgpo_cli.rewards.settings import RewardSettings

_MOST_PRINTED = 1 << 16  # bytes


@dataclass(frozen=True, slots=True)
class Values:
    """The distribution of a term, or of the reward, over the completions that have a value.

    seconds: of all completions; None of a sum.
    """

    name: str
    count: int
    mean: float
    std: float
    low: float
    median: float
    high: float
    seconds: float | None


@dataclass(frozen=True, slots=True)
class Trial:
    """What a reward made of a file.

    lines: in order. values: of every term and then of the reward. failures: the note of unscored
    completions, and how many have it. groups: of several completions; differing: those of them
    with different rewards. seconds: of scoring. printed: by functions of the user's.
    """

    lines: tuple[CheckedCase | BrokenLine, ...]
    summary: CheckSummary
    values: tuple[Values, ...]
    failures: Counter[str]
    groups: int
    differing: int
    seconds: float
    printed: str


def run(
    lines: Iterable[bytes],
    *,
    reward: RewardSettings,
    observer: Observer,
    parts: Collection[str] = (),
    limit: int = 0,
) -> Trial:
    """Score the completions of `lines`; those with one prompt are a group.

    parts: see read_cases. limit: rollout.max_completion_tokens.

    Raises:
        DgpoError: a function cannot be loaded, or no worker starts.
    """
    read = list(read_cases(lines, reward=reward, parts=parts))
    cases = _grouped([each for each in read if isinstance(each, Case)])
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "printed"
        with Grader(reward, limit=limit, log=log, observer=observer) as grader:
            grader.start()
            grader.wait()
            began = time.monotonic()
            verdicts = grader.grade([case.item for case in cases])
            seconds, by_term = time.monotonic() - began, grader.seconds
        printed = log.read_bytes()[:_MOST_PRINTED] if log.exists() else b""
    checked = [CheckedCase(case, v) for case, v in zip(cases, verdicts, strict=True)]
    found = {each.case.number: each for each in checked}
    told = tuple(found[each.number] if isinstance(each, Case) else each for each in read)
    summary = CheckSummary()
    for each in told:
        summary.count(each)
    rewards = _rewards_by_group(checked)
    return Trial(
        lines=told,
        summary=summary,
        values=tuple(_values(checked, names=reward.weights, seconds=by_term)),
        failures=Counter(v.note or v.outcome for v in verdicts if not v.is_scored),
        groups=len(rewards),
        differing=sum(len(set(group)) > 1 for group in rewards),
        seconds=seconds,
        printed=printed.decode("utf-8", "replace"),
    )


def _grouped(cases: list[Case]) -> list[Case]:
    """Return the cases by group, with its number: those with the same prompt."""
    groups: dict[object, list[Case]] = defaultdict(list)
    for case in cases:
        item = case.item
        groups[item.prompt_id or item.messages or case.number].append(case)
    return [
        replace(case, item=replace(case.item, group=number))
        for number, group in enumerate(groups.values())
        for case in group
    ]


def _rewards_by_group(checked: Iterable[CheckedCase]) -> list[list[float]]:
    """Return the rewards of each group with several scored completions."""
    groups: dict[int, list[float]] = defaultdict(list)
    for each in checked:
        if each.verdict.is_scored:
            groups[each.case.item.group].append(each.verdict.reward)
    return [rewards for rewards in groups.values() if len(rewards) > 1]


def _values(
    checked: list[CheckedCase], *, names: Collection[str], seconds: dict[str, float]
) -> Iterable[Values]:
    for name in names:
        found = (dict(each.verdict.terms).get(name, math.nan) for each in checked)
        yield _distribution(name, found, seconds=seconds.get(name))
    yield _distribution("reward", (each.verdict.reward for each in checked), seconds=None)


def _distribution(name: str, given: Iterable[float], *, seconds: float | None) -> Values:
    known = sorted(value for value in given if not math.isnan(value))
    if not known:
        nan = math.nan
        return Values(name, 0, nan, nan, nan, nan, nan, seconds)
    return Values(
        name,
        len(known),
        statistics.fmean(known),
        statistics.pstdev(known),
        known[0],
        statistics.median(known),
        known[-1],
        seconds,
    )


def line_rows(trial: Trial, *, names: Collection[str]) -> list[tuple[str, ...]]:
    """Return the table of the completions: the terms have columns if there are several.

    names: of the terms.
    """
    shown = tuple(names) if len(names) > 1 else ()
    rows: list[tuple[str, ...]] = [("line", "outcome", "reward", *shown, "note")]
    for each in trial.lines:
        if isinstance(each, BrokenLine):
            continue
        verdict, terms = each.verdict, dict(each.verdict.terms)
        want = [] if each.agrees is not False else [f"<- want {each.case.want}"]
        cells = [_number(terms.get(name, math.nan)) for name in shown]
        note = " ".join([verdict.note or "", *want]).strip()
        reward = _number(verdict.reward)
        rows.append((str(each.case.number), verdict.outcome, reward, *cells, note))
    return rows


def value_rows(trial: Trial) -> list[tuple[str, ...]]:
    """Return the table of the distributions: a row for each term if there are several.

    The time is that of one completion.
    """
    rows: list[tuple[str, ...]] = [("", "mean", "std", "min", "median", "max", "scored", "time")]
    count = trial.summary.checked
    values = trial.values[-1:] if len(trial.values) <= 2 else trial.values
    for each in values:
        seconds = trial.seconds if each.name == "reward" else each.seconds
        rows.append(
            (
                each.name,
                *map(_number, (each.mean, each.std, each.low, each.median, each.high)),
                f"{each.count:,}",
                duration((seconds or 0.0) / count),
            )
        )
    return rows


def _number(value: float) -> str:
    return ABSENT if math.isnan(value) else decimal(value)
