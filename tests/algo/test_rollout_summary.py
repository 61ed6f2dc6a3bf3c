"""Metrics of a scored rollout, against counting by hand."""

from __future__ import annotations

import math

import pytest

from dgpo_cli.algo.summary import rollout_metrics
from dgpo_cli.core.types import (
    CHECKED_OUTCOMES,
    Completion,
    FinishReason,
    Message,
    Outcome,
    Prompt,
    ScoredGroup,
    Verdict,
)

Row = tuple[Outcome, float, int, FinishReason]


def group(rows: list[Row], *, advantages: list[float]) -> ScoredGroup:
    """Rows are outcome, reward, tokens and how the completion ended."""
    return ScoredGroup(
        prompt=Prompt("p", (Message("user", "1+2?"),), "3", "test"),
        prompt_ids=(3, 6),
        completions=tuple(
            Completion((5,) * count, (-0.1,) * count, "", reason, 0, 0)
            for _, _, count, reason in rows
        ),
        verdicts=tuple(Verdict(outcome, None, reward) for outcome, reward, _, _ in rows),
        advantages=tuple(advantages),
    )


def test_every_metric_is_what_counting_gives() -> None:
    groups = [
        group(
            [
                ("correct", 1.0, 4, "stop"),
                ("wrong", -1.0, 8, "stop"),
                ("truncated", -1.0, 9, "length"),
            ],
            advantages=[1.1, -0.5, -0.6],
        ),
        group([("correct", 1.0, 2, "stop")] * 3, advantages=[0.0] * 3),
        group(
            [
                ("timeout", -1.0, 3, "stop"),
                ("crash", -1.0, 5, "stop"),
                ("no_answer", -1.0, 9, "length"),
            ],
            advantages=[0.0] * 3,
        ),
        group(
            [
                ("out_of_range", -1.0, 1, "stop"),
                ("correct", 1.0, 7, "length"),
                ("wrong", -1.0, 1, "stop"),
            ],
            advantages=[-0.5, 1.1, -0.6],
        ),
    ]
    assert rollout_metrics(groups) == pytest.approx(
        {
            "reward/mean": (5 - 7) / 12,
            "reward/std": (1 - (2 / 12) ** 2) ** 0.5,
            "outcome/correct": 5 / 12,
            "outcome/wrong": 2 / 12,
            "outcome/no_answer": 1 / 12,
            "outcome/truncated": 1 / 12,
            "outcome/out_of_range": 1 / 12,
            "outcome/timeout": 1 / 12,
            "outcome/crash": 1 / 12,
            "groups/no_signal": 2 / 4,
            "groups/all_correct": 1 / 4,
            "groups/none_correct": 1 / 4,
            "completion/length_mean": 53 / 12,
            "completion/length_min": 1.0,
            "completion/length_p90": 8.9,  # of 1 1 2 2 2 3 4 5 7 8 9 9: nine tenths from 8 to 9
            "completion/length_max": 9.0,
            "completion/cut": 3 / 12,
            "completion/tokens": 53.0,
        }
    )


def test_every_outcome_has_its_share_and_the_shares_add_up() -> None:
    rows: list[Row] = [(outcome, 0.0, 1, "stop") for outcome in CHECKED_OUTCOMES]
    metrics = rollout_metrics([group(rows, advantages=[0.0] * len(rows))])
    shares = {name: value for name, value in metrics.items() if name.startswith("outcome/")}
    assert shares == pytest.approx({f"outcome/{name}": 1 / 7 for name in CHECKED_OUTCOMES})


def test_completions_without_a_reward_are_counted_where_all_of_them_are_late() -> None:
    rows: list[Row] = [("timeout", math.nan, 1, "stop")] * 2
    metrics = rollout_metrics([group(rows, advantages=[0.0, 0.0])])
    assert (metrics["reward/unscored"], metrics["outcome/timeout"]) == (1.0, 1.0)


def test_a_group_has_signal_by_its_advantages_and_not_by_its_rewards() -> None:
    """Unequal rewards may be given an advantage of zero, and that is what does not train."""
    rows: list[Row] = [("correct", 1.0, 1, "stop"), ("wrong", 0.0, 1, "stop")]
    silent = rollout_metrics([group(rows, advantages=[0.0, 0.0])])
    one = rollout_metrics([group(rows, advantages=[0.0, 1e-9])])
    assert (silent["groups/no_signal"], one["groups/no_signal"]) == (1.0, 0.0)


def test_a_single_completion_has_no_spread() -> None:
    metrics = rollout_metrics([group([("correct", 1.0, 3, "stop")], advantages=[0.0])])
    assert (metrics["reward/mean"], metrics["reward/std"]) == (1.0, 0.0)
    assert metrics["completion/length_min"] == metrics["completion/length_max"] == 3.0
