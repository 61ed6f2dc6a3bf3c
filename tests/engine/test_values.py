"""Values of prefixes against a chain whose values are known exactly."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from dgpo_cli.core.errors import ConfigError, DataError
from dgpo_cli.core.types import FinishReason, ScoredGroup
from dgpo_cli.engine.values.estimate import estimate
from tests.engine.chain import chain_engine, exact_values, groups_of, spelled


def ends_in_ab(text: str, finish: FinishReason) -> float:
    return float(finish == "stop" and text.endswith("ab"))


def half_for_length(text: str, finish: FinishReason) -> float:
    return 0.25 * len(text) - (finish == "length")


KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "stop strings": {"stop": ("ab", "cc"), "reward": ends_in_ab},
    "rewards between": {"reward": half_for_length},
}


def texts_of(group: ScoredGroup) -> list[str]:
    return [spelled(completion.token_ids) for completion in group.completions]


@pytest.mark.parametrize("kind", KINDS)
def test_exact_values_lie_in_the_intervals_at_their_rate(kind: str) -> None:
    engine = chain_engine(**KINDS[kind])
    value = exact_values(**KINDS[kind])
    groups = groups_of(engine, count=40, size=4)
    curves = estimate(engine, groups, continuations=48, seed=3, siblings=False)
    found = {}
    for (number, row), curve in curves.items():
        text = texts_of(groups[number])[row]
        assert [point.at for point in curve.points] == [*range(len(text) + 1)]
        assert curve.points[-1].value == groups[number].rewards[row]
        for point in curve.points[:-1]:
            exact = value(text[: point.at])
            if 0.05 < exact < 0.95 or kind == "rewards between":
                found[number, text[: point.at]] = point.low <= exact <= point.high
    assert len(found) > 200
    assert 0.925 < sum(found.values()) / len(found) < 0.985


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("continuations", [0, 1, 3])
def test_values_with_siblings_are_unbiased(kind: str, continuations: int) -> None:
    engine = chain_engine(**KINDS[kind])
    value = exact_values(**KINDS[kind])
    groups = groups_of(engine, count=250, size=4, seed=1)
    curves = estimate(engine, groups, continuations=continuations, seed=5)
    at_depth: dict[int, list[float]] = {}
    for number, group in enumerate(groups):
        for row, text in enumerate(texts_of(group)):
            moves = curves[number, row].moves()
            start = curves[number, row].points[0].value
            for at in range(len(text)):
                error = start + math.fsum(moves[:at]) - value(text[:at])
                at_depth.setdefault(at, []).append(error)
    for errors in at_depth.values():
        mean = math.fsum(errors) / len(errors)
        # Four rows of a group are not independent: at most four times the variance.
        deviation = 2 * math.sqrt(math.fsum(e * e for e in errors)) / len(errors)
        assert abs(mean) < 3 * deviation


def test_moves_add_up_to_the_reward_minus_the_first_value() -> None:
    engine = chain_engine()
    groups = groups_of(engine, count=5, size=4)
    for (number, row), curve in estimate(engine, groups, continuations=4, seed=0).items():
        moves = curve.moves()
        assert len(moves) == len(groups[number].completions[row].token_ids)
        assert math.fsum(moves) == pytest.approx(
            groups[number].rewards[row] - curve.points[0].value
        )


def test_a_prefix_that_completions_share_is_sampled_once() -> None:
    engine = chain_engine()
    groups = groups_of(engine, count=6, size=8)
    estimate(engine, groups, continuations=5, seed=0)
    distinct = {
        (number, text[:at])
        for number, group in enumerate(groups)
        for text in texts_of(group)
        for at in range(len(text))
    }
    assert len(engine.sampler.asked) == len(distinct)
    assert all(len(seeds) == 5 for _, seeds in engine.sampler.asked)
    assert len({seed for _, seeds in engine.sampler.asked for seed in seeds}) == 5 * len(distinct)


def test_a_continuation_depends_on_its_own_prefix_and_number_alone() -> None:
    engine = chain_engine()
    groups = groups_of(engine, count=6, size=4)
    estimate(engine, groups, continuations=8, seed=0)
    every = {seed for _, seeds in engine.sampler.asked for seed in seeds}
    engine.sampler.asked.clear()
    alone = estimate(engine, groups, of=[(4, 2)], continuations=3, seed=0)
    assert list(alone) == [(4, 2)]
    asked = {seed for _, seeds in engine.sampler.asked for seed in seeds}
    assert len(asked) == 3 * len(groups[4].completions[2].token_ids)
    assert asked <= every
    own = groups_of(engine, count=1, size=4)
    estimate(engine, own, continuations=8, seed=0)
    eight = dict(engine.sampler.asked)
    engine.sampler.asked.clear()
    estimate(engine, own, continuations=3, seed=0)
    assert {ids: eight[ids][:3] for ids, _ in engine.sampler.asked} == dict(engine.sampler.asked)
    engine.sampler.asked.clear()
    estimate(engine, own, continuations=3, seed=1)
    assert all(seeds != eight[ids][:3] for ids, seeds in engine.sampler.asked)


def test_siblings_alone_give_the_mean_of_those_that_begin_alike() -> None:
    engine = chain_engine()
    groups = groups_of(engine, count=30, size=16)
    curves = estimate(None, groups, continuations=0, seed=0)
    assert engine.sampler.asked == []
    for (number, row), curve in curves.items():
        texts, rewards = texts_of(groups[number]), groups[number].rewards
        value, moves = curve.points[0].value, curve.moves()
        for at in range(len(texts[row])):
            alike = [r for t, r in zip(texts, rewards, strict=True) if t[:at] == texts[row][:at]]
            assert value == pytest.approx(sum(alike) / len(alike))
            value += moves[at]


def test_a_reward_that_failed_does_not_count() -> None:
    def often_fails(text: str, finish: FinishReason) -> float:
        return math.nan if len(text) % 2 else 1.0

    engine = chain_engine(reward=often_fails)
    groups = groups_of(engine, count=4, size=6)
    curves = estimate(engine, groups, continuations=8, seed=0)
    scored = {
        (number, row)
        for number, group in enumerate(groups)
        for row, verdict in enumerate(group.verdicts)
        if verdict.is_scored
    }
    assert curves.keys() == scored
    for curve in curves.values():
        assert all(point.value == 1.0 for point in curve.points)
        assert curve.points[0].count < 8 + 6


def test_equal_rewards_of_a_few_continuations_do_not_make_a_value_certain() -> None:
    def of_three(text: str, finish: FinishReason) -> float:
        return (0.0, 0.5, 1.0)[text.count("a") % 3]

    engine = chain_engine(reward=of_three)
    groups = groups_of(engine, count=40, size=4)
    curves = estimate(engine, groups, continuations=3, seed=0, siblings=False)
    points = [point for curve in curves.values() for point in curve.points[:-1]]
    # Wilson's interval for three of three begins at 3 / (3 + 1.96^2).
    least = 3 / (3 + 1.959964**2)
    assert {round(p.low, 6) for p in points if p.value == 1.0} == {round(least, 6)}
    assert {round(p.high, 6) for p in points if p.value == 0.0} == {round(1 - least, 6)}
    assert all(point.high - point.low > 0.3 for point in points)


def test_what_cannot_be_estimated_is_refused() -> None:
    engine = chain_engine()
    groups = groups_of(engine, count=1, size=2)
    with pytest.raises(ConfigError, match="continuations=0"):
        estimate(engine, groups, continuations=0, seed=0, siblings=False)
    longest = max(len(c.token_ids) for c in groups[0].completions)
    short = chain_engine(limit=longest - 1)
    with pytest.raises(DataError, match=f"has {longest} tokens, .* set it to {longest}"):
        estimate(short, groups, continuations=1, seed=0)


def test_completions_of_several_turns_are_refused() -> None:
    engine = chain_engine()
    (group,) = groups_of(engine, count=1, size=1)
    played = replace(group.completions[0], environment=((1, 2),))
    with pytest.raises(ConfigError, match="of several turns cannot be estimated"):
        estimate(engine, [replace(group, completions=(played,))], continuations=1, seed=0)


def test_a_continuation_is_judged_as_the_whole_completion() -> None:
    engine = chain_engine()
    (group,) = groups_of(engine, count=1, size=1)
    inside = replace(group.completions[0], starts_in_thought=True)
    engine.grader.items.clear()
    estimate(engine, [replace(group, completions=(inside,))], continuations=3, seed=0)
    items = engine.grader.items
    assert len(items) == 3 * len(inside.token_ids)
    assert all(item.starts_in_thought for item in items)
    for at, item in enumerate(items):
        depth = len(inside.token_ids) - 1 - at // 3  # the longest prefix first
        assert item.text.startswith(inside.text[:depth])
        assert item.token_ids[:depth] == inside.token_ids[:depth]
