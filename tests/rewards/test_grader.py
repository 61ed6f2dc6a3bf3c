"""From settings to verdicts and rewards."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from dgpo_cli.core.errors import DataError
from dgpo_cli.core.types import Verdict
from dgpo_cli.rewards.grader import GradeItem, Grader
from dgpo_cli.rewards.protocol import Check
from dgpo_cli.rewards.settings import IntegerReward, MathReward
from tests.recorder import Recorder


def test_the_reward_follows_from_the_outcome() -> None:
    items = [
        GradeItem("204", r"\boxed{204}", "stop"),
        GradeItem("204", r"\boxed{205}", "stop"),
        GradeItem("204", r"\boxed{2050}", "stop"),
        GradeItem("204", "no idea", "stop"),
        GradeItem("204", r"so \boxed{20", "length"),
    ]
    settings = IntegerReward(correct=2.0, wrong=-0.5, minimum=0, maximum=999)
    with Grader(settings) as grader:
        assert grader.grade(items) == [
            Verdict("correct", "204", 2.0),
            Verdict("wrong", "205", -0.5),
            Verdict("out_of_range", "2050", -0.5),
            Verdict("no_answer", None, -0.5),
            Verdict("truncated", None, -0.5),
        ]


def test_timeouts_and_crashes_keep_their_names_and_earn_no_reward(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        IntegerReward, "check", lambda self: Check("tests.rewards.checks:misbehave")
    )
    monkeypatch.setattr(IntegerReward, "problem_with", lambda self, gold: None)
    items = [GradeItem(gold, "a", "stop") for gold in ("hang", "die", "raise", "")]
    with Grader(IntegerReward(timeout_s=0.8, wrong=-1.0)) as grader:
        assert grader.grade(items) == [
            Verdict("timeout", None, -1.0),
            Verdict("crash", None, -1.0),
            Verdict("crash", None, -1.0),
            Verdict("correct", "a", 1.0),
        ]


def test_progress_counts_every_completion() -> None:
    recorder = Recorder()
    with Grader(IntegerReward(), observer=recorder) as grader:
        grader.grade([GradeItem("1", r"\boxed{1}", "stop")] * 30)
    assert recorder.phases == [("scoring", 30, "completions", 30)]


@pytest.mark.parametrize(
    ("settings", "gold", "message"),
    [
        (IntegerReward(), "1/2", "answer='1/2' is not an integer.*reward.kind"),
        (IntegerReward(), "C", "answer='C' is not an integer.*reward.kind = 'choice'"),
        (MathReward(), " ", "answer=' ' is empty; fix the data"),
        (MathReward(), "N/A", "answer='N/A' is a placeholder"),
    ],
)
def test_a_gold_answer_that_cannot_be_compared_with_is_named(
    settings: IntegerReward | MathReward, gold: str, message: str
) -> None:
    with Grader(settings) as grader, pytest.raises(DataError, match=message):
        grader.grade([GradeItem(gold, r"\boxed{1}", "stop")])


def test_a_range_without_integers_is_refused() -> None:
    with pytest.raises(ValidationError, match="minimum=5 is above maximum=4"):
        IntegerReward(minimum=5, maximum=4)


def test_the_extraction_form_reaches_the_workers() -> None:
    item = GradeItem("3", r"\boxed{2} and 3", "stop")
    for extract, outcome in (("boxed", "wrong"), ("last-number", "correct")):
        with Grader(IntegerReward(extract=extract)) as grader:
            assert grader.grade([item])[0].outcome == outcome
