r"""What the math checker is asked, what it is not asked, and when it counts as a disagreement."""

from __future__ import annotations

import itertools

import pytest

from dgpo_cli.core.events import NOBODY, Observer
from dgpo_cli.core.types import OUTCOMES, FinishReason, Outcome, Verdict
from dgpo_cli.rewards import second_opinion
from dgpo_cli.rewards.answer import check_integer
from dgpo_cli.rewards.grader import GradeItem
from dgpo_cli.rewards.protocol import Check
from dgpo_cli.rewards.second_opinion import disagree, second_opinions
from dgpo_cli.rewards.settings import Extract
from dgpo_cli.rewards.workers import pool
from dgpo_cli.rewards.workers.pool import WorkerPool
from tests.recorder import Recorder

BOTH: Extract = "boxed-or-answer-line"
LONG = "so we try another way. " * 2000


def verdict(item: GradeItem) -> Verdict:
    outcome, extracted = check_integer(
        item.gold, item.text, finish_reason=item.finish_reason, where=BOTH
    )
    return Verdict(outcome, extracted, 0.0)


def opinions(
    items: list[GradeItem], *, timeout_s: float = 20, observer: Observer = NOBODY
) -> list[Outcome]:
    return second_opinions(
        items,
        verdicts=[verdict(item) for item in items],
        where=BOTH,
        timeout_s=timeout_s,
        workers=2,
        observer=observer,
    )


# gold, completion, finish_reason, what the integer checker says, what the math checker says
CASES: list[tuple[str, str, FinishReason, Outcome, Outcome]] = [
    ("204", r"\boxed{204\text{ cm}}", "stop", "correct", "correct"),
    ("204", r"\boxed{205\text{ cm}}", "stop", "wrong", "wrong"),
    ("204", r"\boxed{\frac{408}{2}}", "stop", "wrong", "correct"),
    ("204", r"\boxed{204 ✅}", "stop", "correct", "wrong"),
    ("204", LONG + r"\boxed{x = 100 + 104 = 204}" + LONG, "stop", "correct", "correct"),
    ("204", "Answer: the area is $204$.", "stop", "correct", "correct"),
    ("204", "Answer: **204**", "stop", "correct", "correct"),
    ("204", "\\boxed{3!}, no.\nAnswer: $204$", "stop", "correct", "correct"),
    ("204", LONG + "the answer is **204**.", "stop", "no_answer", "correct"),
    ("204", LONG + "the answer is 205.", "stop", "no_answer", "wrong"),
    ("204", "the answer is 204. " + LONG, "stop", "no_answer", "no_answer"),
    ("204", "I give up", "stop", "no_answer", "no_answer"),
    ("204", "", "stop", "no_answer", "no_answer"),
    ("204", "<think>it is 204", "stop", "no_answer", "no_answer"),
    ("204", "<think>it is 204</think>", "stop", "no_answer", "no_answer"),
    ("204", "it is 204", "length", "truncated", "truncated"),
    ("204", r"\boxed{x=204} and", "length", "correct", "correct"),
    ("204", r"\boxed{" + "1+" * 5000 + "1}", "stop", "wrong", "wrong"),
]


def test_the_second_opinion_is_the_math_checkers() -> None:
    items = [GradeItem(gold, text, reason) for gold, text, reason, _, _ in CASES]
    assert [verdict(item).outcome for item in items] == [case[3] for case in CASES]
    assert opinions(items) == [case[4] for case in CASES]


def test_digits_are_compared_as_the_math_checker_would_without_asking_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    golds = ["0", "5", "25", "025", "204", "500", "999"]
    pairs = list(itertools.product(golds, [*golds, "2", "50", "007", "1204"]))
    items = [GradeItem(gold, rf"\boxed{{{given}}}", "stop") for gold, given in pairs]
    asked = [(gold, f"box\n{given}", "stop") for gold, given in pairs]
    with WorkerPool(
        Check("dgpo_cli.rewards.second_opinion:judge"), workers=2, timeout_s=20
    ) as workers:
        by_math_checker = [outcome for outcome, _ in workers.run(asked)]
    monkeypatch.setattr(pool, "WorkerProcess", None)  # none can be started
    assert opinions(items) == by_math_checker


def test_equal_answers_are_asked_about_once() -> None:
    recorder = Recorder()
    texts = [r"\boxed{x=3}", LONG + r"\boxed{x=3}", r"\boxed{3}", r"\boxed{y=3}"]
    items = [GradeItem(gold, text, "stop") for text in texts for gold in ("3", "4")] * 3
    expected = ["correct", "wrong"] * 12
    assert opinions(items, observer=recorder) == expected
    assert recorder.phases == [("second opinion", 4, "answers", 4)]


def test_an_opinion_without_end_is_a_timeout_and_blocks_no_other() -> None:
    endless = r"\int_0^1 x^{x^{x^{x}}} dx"
    texts = [rf"\boxed{{{endless}}}", r"\boxed{x=5}", f"Answer: {endless}", rf"so \({endless}\)"]
    items = [GradeItem("5", text, "stop") for text in texts]
    first = [verdict(item).outcome for item in items]
    second = opinions(items, timeout_s=1)
    assert second[:3] == ["timeout", "correct", "timeout"]
    assert not any(map(disagree, first, second))


@pytest.mark.parametrize("second", OUTCOMES)
@pytest.mark.parametrize("first", OUTCOMES)
def test_only_known_outcomes_disagree(first: Outcome, second: Outcome) -> None:
    known = {first, second}.isdisjoint({"timeout", "crash"})
    assert disagree(first, second) == (known and (first == "correct") != (second == "correct"))


def test_what_a_worker_cannot_judge_is_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        second_opinion, "Check", lambda target, **more: Check("tests.rewards.checks:misbehave")
    )
    items = [GradeItem("die", "Answer: x", "stop"), GradeItem("raise", "Answer: x", "stop")]
    verdicts = [Verdict("wrong", "x", 0.0)] * 2
    assert second_opinions(
        items,
        verdicts=verdicts,
        where=BOTH,
        timeout_s=5,
        workers=1,
        observer=NOBODY,
    ) == ["crash", "crash"]
