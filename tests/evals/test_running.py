"""The score of an evaluation while its samples come."""

from __future__ import annotations

import math
import random

from dgpo_cli.core.types import Message, Outcome, Price, Prompt, Verdict
from dgpo_cli.evals.running import Running
from dgpo_cli.evals.samples import Sample
from dgpo_cli.stats.estimators import estimate

IDS = ("a", "b", "c")
PROMPTS = [Prompt(name, (Message("user", name),), "1", "test") for name in IDS]


def sample(name: str, index: int, outcome: Outcome, *, tokens: int | None = 10) -> Sample:
    verdict = Verdict(outcome, None, float(outcome == "correct"))
    return Sample(name, index, tokens, 0, "1", verdict, "0", None, None, None, prompt_tokens=5)


def drawn(k: int, *, seed: int) -> list[Sample]:
    chance = random.Random(seed)
    outcomes: tuple[Outcome, ...] = ("correct", "wrong", "truncated")
    return [sample(name, j, chance.choice(outcomes)) for j in range(k) for name in IDS]


def test_the_running_score_is_the_report_over_the_whole_rounds_in_any_order() -> None:
    samples = drawn(6, seed=1)
    shuffled = samples[: 4 * len(IDS) + 2]  # four rounds and a part of the fifth
    random.Random(2).shuffle(shuffled)
    running = Running(PROMPTS, bench="three", k=6)
    for at in range(0, len(shuffled), 3):
        running.add(shuffled[at : at + 3])
    correct = [
        sum(s.verdict.outcome == "correct" for s in samples[:12] if s.prompt_id == name)
        for name in IDS
    ]
    expected = estimate(correct, k=4)
    event = running.event(drawn=14, tokens=140, seconds=2.0)
    assert event.rounds == running.rounds == 4
    assert (event.avg, event.rerun_95) == (expected.avg_at_k, expected.rerun_95)
    assert (event.done, event.total) == (14, 18)
    assert [done for _, done in event.problems.values()] == [5, 5, 4]
    assert sum(event.outcomes.values()) == 14


def test_samples_beyond_k_are_not_counted() -> None:
    running = Running(PROMPTS, bench="three", k=2)
    running.add(drawn(4, seed=3))
    event = running.event(drawn=0, tokens=0, seconds=0.0)
    assert (event.done, event.total, event.rounds) == (6, 6, 2)


def test_there_is_no_score_before_the_first_round() -> None:
    running = Running(PROMPTS, bench="three", k=4)
    running.add([sample("a", 0, "correct")])
    assert math.isnan(running.event(drawn=1, tokens=10, seconds=1.0).avg)
    assert math.isnan(running.rerun_95.low)
    running.add([sample("b", 0, "correct"), sample("c", 0, "wrong")])
    assert running.event(drawn=3, tokens=30, seconds=1.0).avg == 2 / 3
    assert running.rerun_95.low < 2 / 3 < running.rerun_95.high


def test_a_greedy_evaluation_has_a_score_and_no_error_over_reruns() -> None:
    running = Running(PROMPTS, bench="three", k=1, greedy=True)
    running.add(drawn(1, seed=5))
    event = running.event(drawn=3, tokens=30, seconds=1.0)
    assert event.rounds == 1 and 0 <= event.avg <= 1
    assert math.isnan(event.rerun_95.low) and math.isnan(event.rerun_95.high)


def test_the_cost_is_that_of_all_stored_samples_and_unknown_with_an_unknown_length() -> None:
    running = Running(PROMPTS, bench="three", k=2, price=Price(prompt=2.0, completion=8.0))
    running.add(drawn(1, seed=4))
    assert running.cost == (3 * 5 * 2.0 + 3 * 10 * 8.0) / 1e6
    running.add([sample("a", 1, "wrong", tokens=None)])
    assert running.cost is None
    assert Running(PROMPTS, bench="three", k=2).cost is None


def test_rounds_are_begun_as_many_as_the_error_is_expected_to_take() -> None:
    def rounds(count: int) -> list[Sample]:
        return [sample(n, j, "correct" if n == "a" else "wrong") for j in range(count) for n in IDS]

    running = Running(PROMPTS, bench="three", k=400, stop_when=0.05)
    assert (running.goal(), running.event(drawn=0, tokens=0, seconds=0.0).total) == (4, 12)
    running.add(rounds(4))
    half = running.rerun_95.half_width
    expected = math.ceil(4 * (half / 0.05) ** 2)
    assert half > 0.05 and running.goal() == expected < 400
    assert running.event(drawn=12, tokens=0, seconds=1.0).total == 3 * expected
    running = Running(PROMPTS, bench="three", k=400, stop_when=0.05)
    running.add(rounds(400))
    event = running.event(drawn=0, tokens=0, seconds=0.0)
    assert running.enough and 4 < event.rounds == running.rounds < 400
    assert event.done == event.total == 1200  # what is stored is not lost from sight
