"""The value of completions after each of their tokens, by sampling on from their prefixes.

Source: Monte Carlo values of prefixes, VinePPO, arXiv 2410.01679, section 4.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from dgpo_cli.core.errors import ConfigError, DataError
from dgpo_cli.core.token_texts import token_texts
from dgpo_cli.core.types import Interval, ScoredGroup, ValueCurve, ValuePoint
from dgpo_cli.engine.values.continuations import Continuations, Prefix
from dgpo_cli.engine.values.prefixes import Key, Prefixes
from dgpo_cli.engine.values.search import Search, thinned
from dgpo_cli.engine.values.shared import SharedContinuations
from dgpo_cli.engine.values.steps import step_starts
from dgpo_cli.samplers.base import Row
from dgpo_cli.stats.intervals import mean_interval

if TYPE_CHECKING:
    from dgpo_cli.engine.sampling import SamplingEngine
    from dgpo_cli.engine.values.store import ValueStore

EVERY = 64


@dataclass(frozen=True, slots=True)
class _Asked:
    """What counts for a value. ends: the least and the largest reward that there are."""

    continuations: int
    siblings: bool
    ends: tuple[float, float]


def estimate(
    engine: SamplingEngine | None,
    groups: Sequence[ScoredGroup],
    *,
    of: Iterable[Row] | None = None,
    continuations: int,
    seed: int,
    every: int = EVERY,
    siblings: bool = True,
    store: ValueStore | None = None,
    shared: bool = False,
) -> dict[Row, ValueCurve]:
    """Return the values along completions; those without a reward have none.

    A completion of at most `every` tokens has a value at each. In a longer one the ends of
    sentences and steps come first; then the gaps in which the value surely moves are halved, down
    to single tokens.

    Args:
        engine: samples from the policy whose values they are, and judges; not needed without
            continuations.
        groups: completions of one turn, which the settings of the engine can sample.
        of: group and number of the completions; None: all.
        continuations: sampled from each prefix. One depends on nothing but the weights, the
            settings, its prompt and prefix, its number and `seed`: more of them include fewer.
        every: prefixes of a completion that are estimated at most.
        siblings: count the group's own completions that begin with a prefix, which the policy has
            to have sampled too. The completion itself is one of them: without its own outcome
            its values are independent of that.
        store: has the rewards of earlier calls, and gets the new ones.
        shared: a continuation counts for every prefix that it runs through, so that few are
            sampled where the policy is sure; it then depends on the shorter prefixes too. Without
            a store.

    Raises:
        ConfigError: there is nothing to estimate from, or the prompts are played.
        DataError: a completion is longer than `rollout.max_completion_tokens`.
        BackendError: the sampler failed.
    """
    rows = list(of) if of is not None else _all_rows(groups)
    if continuations == 0 and not siblings:
        raise ConfigError("continuations=0: without siblings there is nothing to estimate from")
    trees = {number: Prefixes(groups[number]) for number, _ in rows}
    asked = _Asked(continuations, siblings, _ends(groups))
    drawn = pools = None
    if continuations > 0:
        assert engine is not None
        _check(engine, groups, rows)
        drawn = Continuations(engine, seed=seed, store=store)
        pools = SharedContinuations(drawn) if shared else None
    searches = {
        row: _search(engine if drawn else None, trees[row[0]], row[1], every=every)
        for row in rows
        if not math.isnan(rewards_of(groups[row[0]])[row[1]])
    }
    while wanted := [(row, search.wanted()) for row, search in searches.items()]:
        wanted = [(row, places) for row, places in wanted if places]
        if not wanted:
            break
        if pools is not None:
            pools.rewards(wanted, trees, count=continuations)
        elif drawn is not None:
            drawn.rewards(_distinct(wanted, trees), count=continuations)
        for (number, own), places in wanted:
            found = _points(trees[number], own, places, pools or drawn, asked=asked)
            searches[number, own].add(found)
    curves = {row: search.curve() for row, search in searches.items()}
    return {row: curve for row, curve in curves.items() if curve is not None}


def _all_rows(groups: Sequence[ScoredGroup]) -> list[Row]:
    return [(i, j) for i, group in enumerate(groups) for j in range(len(group.completions))]


def _check(engine: SamplingEngine, groups: Sequence[ScoredGroup], rows: Sequence[Row]) -> None:
    if engine.plays or any(c.environment for group in groups for c in group.completions):
        raise ConfigError(
            "values of completions of several turns cannot be estimated: what an environment "
            "answers is not sampled again; use prompts of one turn"
        )
    limit = engine.settings.rollout.max_completion_tokens
    for number, own in rows:
        length = len(groups[number].completions[own].token_ids)
        if length > limit:
            raise DataError(
                f"prompt {groups[number].prompt.id!r}: completion {own} has {length} tokens, more "
                f"than rollout.max_completion_tokens={limit}; set it to {length} or more"
            )


def _search(engine: SamplingEngine | None, tree: Prefixes, row: int, *, every: int) -> Search:
    """Return the search of a completion; without an engine, where siblings leave it."""
    completion = tree.group.completions[row]
    reward, length = rewards_of(tree.group)[row], len(completion.token_ids)
    if engine is None:
        first = tree.branches(row) if length else []
    elif length <= every:
        first = list(range(length))
    else:
        texts = token_texts(completion.token_ids, decode=engine.subject.spell)
        first = thinned(_step_starts(texts), stop=length, most=every // 2)
    last = ValuePoint(length, reward, reward, reward, 0)
    return Search(first, last=last, most=len(first) if engine is None else every)


def _step_starts(texts: Sequence[str]) -> list[int]:
    """Return the numbers of the tokens with which a step begins, ascending."""
    begins = list(accumulate(map(len, texts), initial=0))
    return sorted({bisect_left(begins, start) for start in step_starts("".join(texts))})


def _distinct(
    wanted: Iterable[tuple[Row, Sequence[int]]], trees: dict[int, Prefixes]
) -> dict[Key, Prefix]:
    """Return each prefix once, those of a completion together, the longest first."""
    found: dict[Key, Prefix] = {}
    for (number, row), places in wanted:
        for at in reversed(places):
            found.setdefault(trees[number].key(row, at), Prefix(trees[number], row, at))
    return found


def _points(
    tree: Prefixes,
    row: int,
    places: Sequence[int],
    drawn: Continuations | SharedContinuations | None,
    *,
    asked: _Asked,
) -> list[ValuePoint]:
    """Return the values of some prefixes of a completion; of those without any reward, none."""
    points = []
    for at in places:
        rewards = [] if drawn is None else drawn.known(tree.key(row, at), count=asked.continuations)
        if asked.siblings:
            own = rewards_of(tree.group)
            rewards += [own[other] for other in tree.beginning(row, at)]
        rewards = [reward for reward in rewards if not math.isnan(reward)]
        if rewards:
            interval = _interval(rewards, ends=asked.ends)
            value = math.fsum(rewards) / len(rewards)
            points.append(ValuePoint(at, value, interval.low, interval.high, len(rewards)))
    return points


def _ends(groups: Iterable[ScoredGroup]) -> tuple[float, float]:
    """Return the least and the largest reward: the only two, or 0 and 1 and what is beyond."""
    found = {reward for group in groups for reward in rewards_of(group) if not math.isnan(reward)}
    if len(found) == 2:
        return min(found), max(found)
    return min(0.0, *found), max(1.0, *found)


def _interval(rewards: Sequence[float], *, ends: tuple[float, float]) -> Interval:
    """Return the interval of their mean.

    Equal ones show no spread, which a few may do by chance: theirs is as wide as the ends allow.
    """
    low, high = min(ends[0], *rewards), max(ends[1], *rewards)
    known = set(rewards)
    return mean_interval(
        rewards, ends=(low, high) if len(known) == 1 or known <= {low, high} else None
    )


def rewards_of(group: ScoredGroup) -> tuple[float, ...]:
    """Return the reward of each completion with its penalty for length; NaN: unscored."""
    penalties = group.penalties or (0.0,) * len(group.completions)
    return tuple(map(sum, zip(group.rewards, penalties, strict=True)))
