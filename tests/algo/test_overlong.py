"""The penalty for long completions is DAPO's, advantages see it, and the filter does not."""

from __future__ import annotations

import math

import pytest

from dgpo_cli.algo.advantages import AdvantageSettings, scored_group
from dgpo_cli.algo.overlong import OverlongSettings, overlong_metrics
from dgpo_cli.core.types import (
    Completion,
    FinishReason,
    Group,
    Message,
    Outcome,
    Prompt,
    ScoredGroup,
    Verdict,
)
from tests.algo import twins

Row = tuple[Outcome, int, FinishReason]
LIMIT = 20


def dapo_length_reward(length: int, *, longest: int, cache: int) -> float:
    """Equation 13 of the paper, case by case; `longest` is its L_max."""
    if length <= longest - cache:
        return 0.0
    if length <= longest:
        return ((longest - cache) - length) / cache
    return -1.0


@pytest.mark.parametrize(("limit", "buffer"), [(20480, 4096), (20, 4), (20, 19), (7, 1)])
@pytest.mark.parametrize("penalty", [1.0, 0.25])
def test_the_penalty_is_the_papers_times_its_factor(
    limit: int, buffer: int, penalty: float
) -> None:
    lengths = sorted({1, limit - buffer - 1, limit - buffer, limit - buffer + 1, limit - 1, limit})
    found = OverlongSettings(buffer_tokens=buffer, penalty=penalty).penalties(lengths, limit=limit)
    for length, value in zip(lengths, found, strict=True):
        expected = penalty * dapo_length_reward(length, longest=limit, cache=buffer)
        assert value == pytest.approx(expected, abs=1e-12)
    assert found[-1] == -penalty
    assert found[0] == 0.0


def test_without_a_buffer_there_is_no_penalty() -> None:
    assert OverlongSettings().penalties([1, 20, 20], limit=20) == (0.0, 0.0, 0.0)


def scored(rows: list[Row], *, buffer: int = 0, mask: bool = False) -> ScoredGroup:
    completions = tuple(
        Completion((5,) * count, (-0.1,) * count, "", reason, 0, 0) for _, count, reason in rows
    )
    verdicts = tuple(Verdict(outcome, None, float(outcome == "correct")) for outcome, _, _ in rows)
    return scored_group(
        Group(Prompt("p", (Message("user", "1+2?"),), "3", "test"), (3, 6), completions),
        verdicts,
        advantage=AdvantageSettings(),
        overlong=OverlongSettings(buffer_tokens=buffer, penalty=0.5),
        max_completion_tokens=LIMIT,
        mask_truncated=mask,
    )


ROWS: list[Row] = [
    ("correct", 10, "stop"),
    ("correct", 18, "stop"),
    ("wrong", 20, "stop"),
    ("truncated", 20, "length"),
    ("wrong", 12, "stop"),
]


def test_advantages_are_those_of_the_shaped_rewards() -> None:
    group = scored(ROWS, buffer=8)
    penalties = [0.0, -0.5 * 6 / 8, -0.5, -0.5, 0.0]
    assert group.penalties == pytest.approx(tuple(penalties))
    shaped = [1.0, 1.0 - 0.375, -0.5, -0.5, 0.0]
    assert group.advantages == pytest.approx(
        twins.advantages(shaped, baseline="group-mean", std="group"), rel=1e-5
    )
    assert group.rewards == (1.0, 1.0, 0.0, 0.0, 0.0)  # what is reported is the checker's


def test_a_masked_completion_has_no_advantage_and_moves_the_others_all_the_same() -> None:
    plain, masked = scored(ROWS), scored(ROWS, mask=True)
    assert plain.advantages[3] < 0.0
    assert masked.advantages == (*plain.advantages[:3], 0.0, plain.advantages[4])


def test_a_group_all_wrong_with_unequal_penalties_is_not_mixed() -> None:
    group = scored([("wrong", 10, "stop"), ("truncated", 20, "length")], buffer=8)
    assert group.has_signal
    assert not group.is_mixed


@pytest.mark.parametrize(
    ("outcomes", "mixed"),
    [
        (["correct", "wrong"], True),
        (["correct", "timeout"], True),
        (["correct", "correct"], False),
        (["wrong", "no_answer"], False),
    ],
)
def test_a_group_is_mixed_when_some_are_correct_and_some_not(
    outcomes: list[Outcome], mixed: bool
) -> None:
    assert scored([(outcome, 5, "stop") for outcome in outcomes]).is_mixed is mixed


def test_shares_are_of_all_completions() -> None:
    groups = [scored(ROWS, buffer=8, mask=True), scored([("wrong", 2, "stop")] * 3, buffer=8)]
    found = overlong_metrics(groups, masks=True)
    assert found["overlong/penalised"] == 3 / 8
    assert found["overlong/masked"] == 1 / 8
    assert math.isclose(found["overlong/penalty_mean"], -(0.375 + 0.5 + 0.5) / 8)
    assert overlong_metrics(groups, masks=False)["overlong/masked"] == 0.0
