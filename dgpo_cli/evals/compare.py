"""Compares evaluations with a baseline: what is comparable, and what differs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from dgpo_cli.core.errors import ConfigError, DataError
from dgpo_cli.core.types import Card, Interval, ProblemResult
from dgpo_cli.stats.cards import differences
from dgpo_cli.stats.comparison import ComparedPair, Comparison, NamedEvaluation, compare_runs

# Protocol entries that belong to the subject: another seed is a rerun, the tokenizer decides which
# tokens end a completion, and stop_when decides k alone.
_SUBJECTS_OWN = ("seed", "stop", "stop_when")
_FEWEST = 6  # changes of one sign that the sign test needs for p < 0.05: 2 / 2^6
# Where the data came from: ignored if the data is the same.
_ORIGIN = ("dataset", "revision")


def run(runs: Sequence[NamedEvaluation], *, force: bool = False) -> tuple[ComparedPair, ...]:
    """Pair every later run with the first.

    Raises:
        ConfigError: fewer than two runs, or no problem in common; without `force` also a missing
            card, other problems, or cards that differ in protocol or environment, all named.
        DataError: a problem is in an evaluation twice.
    """
    if len(runs) < 2:
        raise ConfigError("give the baseline and at least one evaluation to compare with it")
    baseline, *others = runs
    return tuple(_pair(baseline, other, force=force) for other in others)


def _pair(before: NamedEvaluation, after: NamedEvaluation, *, force: bool) -> ComparedPair:
    common = common_problems(before, after)
    forced = obstacles(before, after)
    if forced and not force:
        lines = "\n".join(f"  {line}" for line in forced)
        raise ConfigError(
            f"{before.name} and {after.name} cannot be compared "
            f"(--force compares them anyway):\n{lines}"
        )
    if not common:
        raise ConfigError(f"{before.name} and {after.name}: no problem is in both")
    old, new = zip(*common, strict=True)
    return ComparedPair(
        before=before,
        after=after,
        comparison=_without_rerun(compare_runs(old, new), before, after),
        subject=tuple(_subject_differences(before.card, after.card)),
        forced=forced,
        notes=tuple(_notes(before, after, common=common)),
    )


def _without_rerun(
    found: Comparison, before: NamedEvaluation, after: NamedEvaluation
) -> Comparison:
    """Leave out the error over reruns if both are greedy: a rerun would repeat them."""
    if not (before.evaluation.greedy and after.evaluation.greedy):
        return found
    return replace(
        found,
        stderr_rerun=math.nan,
        rerun_95=Interval(math.nan, math.nan),
        p_rerun=math.nan,
        smallest_rerun=math.nan,
    )


def obstacles(before: NamedEvaluation, after: NamedEvaluation) -> tuple[str, ...]:
    """Return what forbids a comparison, a line each: other protocols, environments, problems."""
    return (*_card_differences(before, after), *_problem_differences(before, after))


def common_problems(
    before: NamedEvaluation, after: NamedEvaluation
) -> list[tuple[ProblemResult, ProblemResult]]:
    """Return the problems with the same id and answer in both, in the order of the baseline."""
    told = _tell_answers(before, after)
    old, new = _by_key(before, told=told), _by_key(after, told=told)
    return [(problem, new[key]) for key, problem in old.items() if key in new]


_Key = tuple[str, str | None]


def _tell_answers(*runs: NamedEvaluation) -> bool:
    """Whether all runs have their answers: what dgpo eval --json prints may lack them."""
    return all(each.answer is not None for run in runs for each in run.evaluation.problems)


def _key(problem: ProblemResult, *, told: bool) -> _Key:
    return problem.id, problem.answer if told else None


def _by_key(run: NamedEvaluation, *, told: bool) -> dict[_Key, ProblemResult]:
    found = {_key(problem, told=told): problem for problem in run.evaluation.problems}
    if len(found) < len(run.evaluation.problems):
        ids = [problem.id for problem in run.evaluation.problems]
        twice = next(name for name in ids if ids.count(name) > 1)
        raise DataError(f"{run.name}: problem {twice} is in it twice")
    return found


def _card_differences(before: NamedEvaluation, after: NamedEvaluation) -> Iterator[str]:
    for run in (before, after):
        if run.card is None:
            yield f"card: {run.name} has none, so its protocol is unknown"
    if before.card is None or after.card is None:
        return
    digests = [run.card.protocol.get("sha256") for run in (before, after) if run.card]
    same_data = digests[0] is not None and digests[0] == digests[1]
    passed_over = (*_SUBJECTS_OWN, *(_ORIGIN if same_data else ()))
    for part, old, new in (
        ("protocol", before.card.protocol, after.card.protocol),
        ("environment", before.card.environment, after.card.environment),
    ):
        if part == "environment" and _has_endpoint(before.card, after.card):
            continue
        for key, change in differences(old, new):
            if not (part == "protocol" and key in passed_over):
                yield f"{part}.{key}: {change}"


def _has_endpoint(*cards: Card) -> bool:
    """Whether the machine of one is unknown: the environment is then part of what is compared."""
    return any(card.environment.get("backend") == "endpoint" for card in cards)


def _subject_differences(before: Card | None, after: Card | None) -> Iterator[str]:
    if before is None or after is None:
        return
    for key, change in differences(before.subject, after.subject):
        yield f"{key}: {change}"
    for key, change in differences(before.protocol, after.protocol):
        if key in _SUBJECTS_OWN:
            yield f"{key}: {change}"
    if _has_endpoint(before, after):
        for key, change in differences(before.environment, after.environment):
            yield f"environment.{key}: {change}"


def _problem_differences(before: NamedEvaluation, after: NamedEvaluation) -> Iterator[str]:
    old, new = before.evaluation, after.evaluation
    if old.bench != new.bench:
        yield f"benchmark: {old.bench} -> {new.bench}"
    told = _tell_answers(before, after)
    keys = [{_key(p, told=told) for p in run.evaluation.problems} for run in (before, after)]
    if keys[0] != keys[1]:
        yield (
            f"problems: {len(keys[0])} and {len(keys[1])}, {len(keys[0] & keys[1])} in both "
            "with the same id and answer"
        )


def _notes(
    before: NamedEvaluation,
    after: NamedEvaluation,
    *,
    common: Sequence[tuple[ProblemResult, ProblemResult]],
) -> Iterator[str]:
    old, new = before.evaluation, after.evaluation
    if old.k != new.k:
        yield (
            f"k differs, {old.k} and {new.k}: Avg@k estimates the same for any k, pass@k and "
            "maj@k do not. The test over other problems is then approximate."
        )
    if all(a.outcomes == b.outcomes and a.lengths == b.lengths for a, b in common):
        yield "Every sample has the same outcome and length in both: these are the same samples."
    elif len(common) < _FEWEST:
        yield (
            f"The test over other problems cannot reach p < 0.05 with {len(common)} in both: it "
            f"needs {_FEWEST} that all change the same way."
        )
