"""Where a long completion is looked at: ends of steps first, then down to the tokens that move."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgpo_cli.core.events import Observer
from dgpo_cli.core.types import Completion, FinishReason, ValuePoint
from dgpo_cli.engine.values import continuations
from dgpo_cli.engine.values.estimate import estimate
from dgpo_cli.engine.values.search import Search, least_move, thinned
from dgpo_cli.samplers.base import SamplingParams
from dgpo_cli.stats.intervals import mean_interval, wilson
from tests.engine.chain import LETTERS, chain_engine, groups_of, spelled

MOST = 64


def searched(
    value: Callable[[int], float],
    *,
    length: int,
    count: int = 16,
    starts: Sequence[int] = (),
    seed: int = 0,
) -> tuple[Search, list[int]]:
    """Run a search on `count` coins of each value; return it and all prefixes it asked for."""
    rng = random.Random(seed)
    last = value(length)
    first = thinned(starts, stop=length, most=MOST // 2)
    search = Search(first, last=ValuePoint(length, last, last, last, 0), most=MOST)
    asked = []
    while places := search.wanted():
        asked += places
        for at in places:
            coins = [float(rng.random() < value(at)) for _ in range(count)]
            mean = sum(coins) / count
            found = wilson(mean, size=count)
            search.add([ValuePoint(at, mean, found.low, found.high, count)])
    return search, asked


@pytest.mark.parametrize("decided", [1, 2, 137, 3999, 4000, 7998, 7999, 8000])
def test_the_token_that_decides_is_found_among_thousands(decided: int) -> None:
    search, asked = searched(lambda at: 0.9 if at < decided else 0.0, length=8000)
    curve = search.curve()
    assert curve is not None
    moves = curve.moves()
    assert min(range(8000), key=lambda at: moves[at]) == decided - 1
    assert moves[decided - 1] < -0.6
    assert len(asked) <= MOST


def test_several_tokens_that_decide_are_found() -> None:
    levels = {0: 0.5, 900: 0.95, 2500: 0.1, 6100: 0.9, 7200: 0.0}

    def value(at: int) -> float:
        return levels[max(start for start in levels if start <= at)]

    search, asked = searched(value, length=8000, count=32)
    curve = search.curve()
    assert curve is not None
    moves = curve.moves()
    largest = sorted(range(8000), key=lambda at: -abs(moves[at]))[:4]
    assert sorted(largest) == [899, 2499, 6099, 7199]
    assert len(asked) <= MOST


@given(
    length=st.integers(MOST + 1, 9000),
    jumps=st.lists(st.tuples(st.integers(0, 9000), st.sampled_from([0.0, 0.3, 0.6, 1.0]))),
    seed=st.integers(0, 9),
)
def test_no_search_asks_for_more_than_it_may_or_twice(
    length: int, jumps: list[tuple[int, float]], seed: int
) -> None:
    def value(at: int) -> float:
        return max((jump for jump in jumps if jump[0] <= at), default=(0, 0.5))[1]

    search, asked = searched(value, length=length, seed=seed)
    assert len(asked) == len(set(asked)) <= MOST
    assert all(0 <= at < length for at in asked)
    curve = search.curve()
    assert curve is not None
    assert [point.at for point in curve.points] == [*sorted(asked), length]


def test_chance_is_seldom_followed() -> None:
    extra = [len(searched(lambda at: 0.5, length=4000, seed=seed)[1]) - 16 for seed in range(40)]
    assert sum(extra) / len(extra) < 8  # of the 48 that are left


def test_half_a_move_is_mostly_found() -> None:
    found = 0
    for seed in range(40):
        decided = random.Random(seed).randrange(1, 8000)
        search, _ = searched(lambda at, n=decided: 0.7 if at < n else 0.2, length=8000, seed=seed)  # type: ignore[misc]
        curve = search.curve()
        assert curve is not None
        moves = curve.moves()
        found += min(range(8000), key=moves.__getitem__) == decided - 1
    assert found >= 28


def test_starts_of_steps_come_first() -> None:
    starts = list(range(7, 8000, 400))
    assert thinned(starts, stop=8000, most=32) == [0, *starts]
    many = thinned(range(0, 8000, 10), stop=8000, most=32)
    assert len(many) == 32
    assert all(at % 10 == 0 for at in many)
    assert max(b - a for a, b in zip(many, [*many[1:], 8000], strict=True)) <= 260
    few = thinned([5000], stop=8000, most=32)
    assert len(few) == 16
    assert 5000 in few
    assert max(b - a for a, b in zip(few, [*few[1:], 8000], strict=True)) <= 750


def test_the_least_move_is_newcombes() -> None:
    # Newcombe 1998, table II, contrast 56/70 - 48/80, method 10: 0.0524 to 0.3339.
    points = []
    for right, size in ((48, 80), (56, 70)):
        found = wilson(right / size, size=size)
        points.append(ValuePoint(0, right / size, found.low, found.high, size))
    assert least_move(*points) == pytest.approx(0.0524, abs=5e-5)
    assert least_move(*reversed(points)) == least_move(*points)
    alone = mean_interval([0.3])
    assert least_move(points[0], ValuePoint(1, 0.3, alone.low, alone.high, 1)) == 0.0


FATAL = 2e-4  # chance of a c at each token


class LongSampler:
    """Writes a up to the limit, with a c at some place: right completions have none."""

    def __init__(self) -> None:
        self.rounds: list[int] = []

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        seeds: Sequence[Sequence[int]],
        params: SamplingParams,
        observer: Observer,
    ) -> list[tuple[Completion, ...]]:
        self.rounds.append(sum(map(len, seeds)))
        return [
            tuple(self._completion(params.room(prompt), seed) for seed in own)
            for prompt, own in zip(prompts, seeds, strict=True)
        ]

    def _completion(self, room: int, seed: int) -> Completion:
        ids = [LETTERS.index("a")] * room
        at = int(random.Random(seed).expovariate(FATAL))
        if at < room:
            ids[at] = LETTERS.index("c")
        return Completion(tuple(ids), (), spelled(ids), "length", 0, seed)


def without_c(text: str, finish: FinishReason) -> float:
    return float("c" not in text)


def test_a_completion_of_8000_tokens_takes_bounded_rounds() -> None:
    engine: Any = chain_engine(limit=8000, reward=without_c)
    engine.sampler = LongSampler()
    engine.sampler.asked = []
    groups = groups_of(engine, count=1, size=4, seed=2)
    wrong = [row for row in range(4) if groups[0].rewards[row] == 0.0]
    assert wrong
    curves = estimate(engine, groups, of=[(0, wrong[0])], continuations=16, seed=1)
    moves = curves[0, wrong[0]].moves()
    fatal = groups[0].completions[wrong[0]].text.index("c")
    assert min(range(8000), key=lambda at: moves[at]) == fatal
    assert sum(engine.sampler.rounds) <= 64 * 16
    assert max(engine.sampler.rounds) * 8000 <= continuations._SLICE_TOKENS


def test_steps_of_a_text_are_where_a_long_search_begins() -> None:
    chances = {
        "": {"b": 1.0},
        "b": {"a": 1.0},
        "a": {"a": 0.5, ".": 0.4, "|": 0.1},
        ".": {" ": 1.0},
        " ": {"B": 1.0},
        "B": {"a": 1.0},
    }
    kind: dict[str, Any] = {"limit": 60, "chances": chances}
    engine = chain_engine(**kind)
    groups = groups_of(engine, count=8, size=2)
    curves = estimate(engine, groups, continuations=6, seed=0, every=16)
    long = 0
    for (number, row), curve in curves.items():
        text = groups[number].completions[row].text
        places = {point.at for point in curve.points}
        starts = [at for at in range(len(text)) if text[at - 1 : at + 1] == " B"]
        length = len(groups[number].completions[row].token_ids)
        assert len(places) <= 17
        if length > 16 and len(starts) < 8:
            long += 1
            assert {at - 1 for at in starts} <= places
    assert long > 3
