"""Policies that hardly move, rewards that do not rise: what is told, and what is left in peace."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from dgpo_cli.diagnosis.diagnose import diagnose
from dgpo_cli.diagnosis.history import FIRST, LAST, WINDOW, History, Line, rise_since_start
from dgpo_cli.diagnosis.reach import moved_at_most, reach_of
from tests.diagnosis.test_diagnosis import FACTS, keys, run

LENGTH = 30.0
ADAPTER = replace(FACTS, has_adapter=True, lr=2e-5)


def moving(steps: int, *, pace: float, first: int = 1, **changed: float | None) -> list[Line]:
    """A policy whose reach, sqrt(2 L d), grows by `pace` an update, as at a constant rate."""
    return [
        {
            **line,
            "completion/length_mean": LENGTH,
            "policy/hellinger_sq_mean": (pace * (first + i - 1)) ** 2 / (2 * LENGTH),
        }
        for i, line in enumerate(run(steps, first=first, **changed))
    ]


def right(lines: list[Line], share: Callable[[int], float]) -> list[Line]:
    """The same steps with another share of right answers, by the number of the step from 0."""
    return [
        {
            **line,
            "outcome/correct": share(i),
            "outcome/wrong": 1 - share(i),
            "reward/mean": share(i),
        }
        for i, line in enumerate(lines)
    ]


def ends(lines: list[Line]) -> list[Line]:
    return lines[:FIRST] + lines[FIRST:][-LAST:]


# Reach an update of LoRA on the embedded model, as measured: in proportion to the learning rate.
@pytest.mark.parametrize(
    ("pace", "told"), [(1.8e-5, True), (0.0015, True), (0.0145, False), (0.16, False)]
)
def test_an_update_is_too_small_if_the_run_ends_before_it_comes_to_something(
    pace: float, told: bool
) -> None:
    lines = moving(100, pace=pace)
    found = ["update_too_small"] if told else []
    assert [keys(lines[:n], ADAPTER) for n in range(20)] == [[]] * 20
    assert [keys(lines[:n], ADAPTER) for n in range(21, 60)] == [found] * 39
    assert keys(lines, ADAPTER) == (found or ["reward_flat"])
    # A longer run gives slow updates the time that they need.
    patient = replace(ADAPTER, total_steps=2000)
    assert keys(lines, patient) == (found if pace < 1e-4 else [])


def test_the_straight_line_is_that_of_the_last_updates_where_they_are_faster() -> None:
    slow = moving(60, pace=1e-5)
    fast: list[Line] = [
        {**line, "policy/hellinger_sq_mean": (6e-4 + 0.01 * i) ** 2 / (2 * LENGTH)}
        for i, line in enumerate(run(26, first=61, completion__length_mean=LENGTH))
    ]
    reach = reach_of(History(slow + fast, prompts_per_step=16), FACTS)
    assert reach is not None
    assert reach.now == pytest.approx(6e-4 + 0.01 * 23, rel=1e-6)  # the median of the last five
    recent = (reach.now - (6e-4 + 0.01 * 3)) / 20
    assert reach.end == pytest.approx(reach.now + recent * (100 - 86), rel=1e-6)
    assert reach.distance == pytest.approx(reach.now**2 / (2 * LENGTH), rel=1e-6)


def test_a_rate_that_was_raised_is_given_time() -> None:
    """By a warm-up, or by its user, who was told to and goes on with the same run."""
    before = moving(30, pace=1e-5, optim__lr=1e-6)
    after = moving(15, pace=1e-5, first=31, optim__lr=1e-4)
    assert keys(before, ADAPTER) == ["update_too_small"]
    assert keys(before + after, ADAPTER) == []
    assert keys(moving(25, pace=1e-5), replace(ADAPTER, warmup_steps=10)) == []
    assert keys(moving(31, pace=1e-5), replace(ADAPTER, warmup_steps=10)) == ["update_too_small"]


def test_a_reward_that_rises_says_that_updates_are_large_enough() -> None:
    lines = right(moving(50, pace=1e-4), lambda i: 0.3 + 0.004 * i)
    assert keys(lines, ADAPTER) == []


@pytest.mark.parametrize(
    ("dtype", "distance", "found"),
    [
        ("bfloat16", 1.9e-4, ["update_too_small"]),
        ("bfloat16", 2.1e-4, []),
        ("float32", 1.9e-4, []),
    ],
)
def test_d_is_held_against_its_noise(dtype: str, distance: float, found: list[str]) -> None:
    facts = replace(FACTS, dtype=dtype, logprob_tolerance=0.12)
    lines = run(25, policy__hellinger_sq_mean=distance)
    assert keys(lines, facts) == found
    assert keys(lines[:15], facts) == []  # too early to say
    assert keys(lines, replace(facts, warmup_steps=10)) == []
    # In a long run d may still come out of the noise: not before a quarter of it is that told.
    assert keys(lines, replace(facts, total_steps=101)) == []
    assert keys(run(25, first=5, policy__hellinger_sq_mean=distance), facts) == found


def test_measured_noise_is_believed_before_the_constant() -> None:
    lines = run(25, policy__hellinger_sq_mean=1e-5)
    assert keys(lines) == []
    lines[0] = {**lines[0], "noise/hellinger_sq_mean": 1e-4}
    (found,) = diagnose(lines, facts=FACTS)
    assert found.key == "update_too_small" and "its noise is 1.0e-04" in found.evidence
    assert "of the answers" not in found.evidence  # it might, if it were not noise
    (found,) = diagnose(run(25, policy__hellinger_sq_mean=1e-8), facts=FACTS)
    assert "changes at most <1% of the answers" in found.evidence
    assert "1% by step 100" in found.evidence and "noise" not in found.evidence
    (done,) = diagnose(run(100, policy__hellinger_sq_mean=1e-8), facts=FACTS)
    assert done.evidence.endswith("changes at most <1% of the answers")
    half = replace(FACTS, dtype="bfloat16", logprob_tolerance=0.12)
    assert keys(lines[1:], half) == ["update_too_small"]
    quiet = run(25, policy__hellinger_sq_mean=1e-5, noise__hellinger_sq_mean=1e-7)
    assert keys(quiet, half) == []


def test_no_event_moves_by_more_than_the_distance_of_the_completions_allows() -> None:
    """Policy and reference as coins of a token each: all completions, and the worst event."""
    for length, p, q in [(1, 0.3, 0.31), (4, 0.5, 0.52), (6, 0.01, 0.02), (8, 0.5, 0.4)]:
        distance = 1 - math.sqrt(p * q) - math.sqrt((1 - p) * (1 - q))
        gaps = 0.0
        for heads in range(length + 1):
            ways = math.comb(length, heads)
            here = p**heads * (1 - p) ** (length - heads)
            gaps += ways * max(0.0, here - q**heads * (1 - q) ** (length - heads))
        assert 0 < gaps <= moved_at_most(distance, length=length)


def test_an_adapter_is_given_no_more_than_an_adapter_bears() -> None:
    lines = run(25, policy__hellinger_sq_mean=1e-18)
    (full,) = diagnose(lines, facts=FACTS)
    (lora,) = diagnose(lines, facts=replace(FACTS, has_adapter=True))
    assert "--set optim.lr=1e-05:" in full.advice
    assert "--set optim.lr=0.0001:" in lora.advice


def test_the_advised_rate_takes_the_policy_as_far_as_all_answers() -> None:
    (found,) = diagnose(moving(30, pace=0.0008), facts=replace(ADAPTER, lr=1e-6))
    assert "--set optim.lr=0.0001:" in found.advice  # 0.08 by step 100: a hundred times
    (found,) = diagnose(moving(30, pace=0.0015), facts=replace(ADAPTER, lr=1e-6))
    assert "--set optim.lr=1e-05:" in found.advice  # 0.15: ten times


def noisy(rng: random.Random, share: Callable[[int], float], *, steps: int = 100) -> list[Line]:
    """Steps of 16 groups of 16, whose prompts are of different difficulty."""

    shares = [share(i) + rng.gauss(0, 0.06) for i in range(steps)]
    return right(run(steps), lambda i: shares[i])


def told(lines: list[Line]) -> bool:
    """Whether a run is called flat at any of its steps."""
    return any(keys(ends(lines[:n])) == ["reward_flat"] for n in range(60, len(lines) + 1, 2))


def test_a_reward_that_stays_where_it_began_is_told() -> None:
    lines = right(run(70), lambda i: 0.5 + (0.02 if i % 2 else -0.02))
    assert [keys(lines[:n]) for n in range(60)] == [[]] * 60
    (found,) = diagnose(lines, facts=FACTS)
    assert (found.key, found.step) == ("reward_flat", 70)
    assert "50.0% of the answers were correct in the first 20 steps" in found.evidence
    # Twice the error, 0.02 * sqrt(60 / 58) * sqrt(1 / 20 + 1 / 40), for 40 steps; and then 100.
    assert (
        "50.0% in steps 31 to 70; at this pace at most 2.8 points more by step 100"
        in found.evidence
    )
    assert keys(lines, replace(FACTS, warmup_steps=11)) == []
    assert keys(lines, replace(FACTS, total_steps=141)) == []  # not yet half of it


@pytest.mark.parametrize(
    "share",
    [
        lambda i: 0.3 + 0.002 * i,  # slowly
        lambda i: 0.3 + 0.5 * (1 - math.exp(-i / 5)),  # fast, and at rest since
        lambda i: 0.3 + 0.3 / (1 + math.exp(-(i - 55) / 6)),  # late
        lambda i: 0.93,  # nothing left to learn
    ],
    ids=["slow", "fast", "late", "solved"],
)
def test_a_reward_that_rises_rose_or_is_high_is_none(share: Callable[[int], float]) -> None:
    rng = random.Random(5)
    assert sum(told(noisy(rng, share)) for _ in range(20)) <= 1


def test_what_noise_could_hide_is_not_called_flat() -> None:
    """Flat is what no rise is seen in, and what none of ten points can hide in."""
    rng = random.Random(6)
    shares = [0.5 + rng.gauss(0, 0.25) for _ in range(100)]
    loud = right(run(100), lambda i: shares[i])
    assert not told(loud)
    assert sum(told(noisy(rng, lambda i: 0.3)) for _ in range(10)) >= 8


def test_steps_that_resemble_their_neighbours_count_for_fewer() -> None:
    """The error is that of the means of an autoregression, and holds in simulated ones."""
    rng = random.Random(7)

    def chain(alike: float) -> list[Line]:
        value, values = 0.0, []
        for _ in range(FIRST + LAST):
            value = alike * value + math.sqrt(1 - alike**2) * rng.gauss(0, 0.05)
            values.append(value)
        return right(run(FIRST + LAST), lambda i: 0.5 + values[i])

    for alike, least in ((0.0, 0.92), (0.5, 0.85)):
        rises = [
            rise_since_start(History(chain(alike), prompts_per_step=16), "outcome/correct")
            for _ in range(400)
        ]
        held = sum(abs(rise.size) <= 2 * rise.error for rise in rises if rise is not None)
        assert held / 400 > least
    plain = 0.05 * math.sqrt(1 / FIRST + 1 / LAST)
    independent = [rise_since_start(History(chain(0.0), prompts_per_step=16), "outcome/correct")]
    assert independent[0] is not None and plain * 0.6 < independent[0].error < plain * 2


def test_where_length_is_learnt_or_little_is_trained_a_flat_reward_says_nothing() -> None:
    flat = run(70, overlong__penalised=0.0)
    assert keys(flat) == ["reward_flat"]
    assert keys(run(70, overlong__penalised=0.3)) == []
    idle: list[Line] = [{**line, "optim/updates": float(i % 3 == 0)} for i, line in enumerate(flat)]
    assert keys(idle) == []


def test_anything_else_that_is_wrong_is_told_instead() -> None:
    assert keys(run(70, optim__grad_norm=9.0)) == ["grad_clipped"]
    assert keys(run(70, sampler__logprob_gap_mean=0.01)) == ["sampler_disagrees"]


def test_what_to_change_depends_on_how_far_the_policy_has_come() -> None:
    (near,) = diagnose(moving(80, pace=0.004), facts=ADAPTER)
    assert near.key == "reward_flat" and near.advice.startswith("--set optim.lr=6e-05:")
    assert "which can change up to 31% of the answers" in near.evidence
    (far,) = diagnose(moving(80, pace=0.02), facts=ADAPTER)
    assert far.advice.startswith("check with dgpo inspect --pair")
    assert "--set rollout.prompts_per_step=32:" in far.advice
    (unknown,) = diagnose(run(80, policy__hellinger_sq_mean=None), facts=ADAPTER)
    assert unknown.advice.startswith("--set optim.lr=6e-05:")
    assert "differ" not in unknown.evidence


def test_both_ends_of_a_run_say_all_of_it() -> None:
    rng = random.Random(8)
    lines = noisy(rng, lambda i: 0.3, steps=140)
    facts = replace(FACTS, total_steps=140)
    assert diagnose(ends(lines), facts=facts) == diagnose(lines, facts=facts) != ()
    assert WINDOW < FIRST < LAST
