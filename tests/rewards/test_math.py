r"""General answers: what is equal, what is not, and that no answer outlives its deadline."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dgpo_cli.rewards import math
from dgpo_cli.rewards.grader import GradeItem, Grader
from dgpo_cli.rewards.settings import MathReward
from tests.rewards.math_cases import DIFFERENT, SAME

EQUAL = [
    (r"\frac{1}{2}", r"\boxed{0.5}"),
    ("1/2", r"\boxed{\frac12}"),
    ("3/4", r"Answer: $\frac{3}{4}$."),
    ("3/4", "**Answer:** 3/4"),
    ("$3/4$", r"\boxed{\dfrac{3}{4}}"),
    ("x^2+1", r"\boxed{1+x^2}"),
    (r"\sqrt{2}/2", r"\boxed{\frac{1}{\sqrt{2}}}"),
    ("1,2", r"\boxed{2,1}"),
    (r"(-\infty, 2]", r"\boxed{(-\infty,2]}"),
    (r"\text{east}", r"\boxed{\text{east}}"),
    ("5", r"<think>\boxed{4}</think> \boxed{5}"),
    ("5", r"\boxed{4} no, \boxed{x=5}"),
    ("1016", r"\boxed{1{,}016}"),
]
UNEQUAL = [
    ("1/2", r"\boxed{1/3}"),
    ("x^2", r"\boxed{x^3}"),
    ("(1,2)", r"\boxed{(1,3)}"),
    ("5", r"5, so \boxed{6}"),
    ("5", r"\boxed{\text{five apples or six}}"),
    # a box that cannot be read is not judged by a fraction inside it
    ("1/2", r"\boxed{\frac{1}{2} \\ @@ }"),
    ("5", r"\boxed{" + "5+" * 20_000 + "5}"),
    ("5", r"\boxed{" + "5" * 2_000_000 + "}"),
    ("5", r"\boxed{" + "5+" * 1_000_000 + "5}"),
]


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader(MathReward(timeout_s=20)) as grader:
        yield grader


def test_equal_answers_are_correct(grader: Grader) -> None:
    verdicts = grader.grade([GradeItem(gold, text, "stop") for gold, text in EQUAL])
    judged = [(case, verdict.outcome) for case, verdict in zip(EQUAL, verdicts, strict=True)]
    assert [case for case, outcome in judged if outcome != "correct"] == []


def test_unequal_answers_are_wrong(grader: Grader) -> None:
    verdicts = grader.grade([GradeItem(gold, text, "stop") for gold, text in UNEQUAL])
    judged = [(case, verdict.outcome) for case, verdict in zip(UNEQUAL, verdicts, strict=True)]
    assert [case for case, outcome in judged if outcome != "wrong"] == []


@pytest.mark.parametrize(
    ("pairs", "expected"), [(SAME, "correct"), (DIFFERENT, "wrong")], ids=["same", "different"]
)
def test_each_pair_of_answers_gets_the_verdict_that_a_user_expects(
    grader: Grader, pairs: list[tuple[str, str]], expected: str
) -> None:
    verdicts = grader.grade(
        [GradeItem(gold, rf"\boxed{{{given}}}", "stop") for gold, given in pairs]
    )
    judged = zip(pairs, verdicts, strict=True)
    assert [pair for pair, verdict in judged if verdict.outcome != expected] == []


def test_no_answer_and_truncated_are_told_apart(grader: Grader) -> None:
    items = [GradeItem("1/2", "half", "stop"), GradeItem("1/2", r"\boxed{1/", "length")]
    assert [verdict.outcome for verdict in grader.grade(items)] == ["no_answer", "truncated"]


def test_an_answer_without_end_times_out_and_blocks_no_other() -> None:
    with Grader(MathReward(timeout_s=0.5)) as grader:
        answers = [r"\boxed{\int_0^1 x^{x^{x^{x}}} dx}", r"\boxed{0.5}"]
        items = [GradeItem("1/2", text, "stop") for text in answers]
        assert [verdict.outcome for verdict in grader.grade(items)] == ["timeout", "correct"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "answer",
    [
        "9^{9^{9^{9}}}",
        "2^{10^{10}}",
        "(10^{12})!",
        "+".join(["1"] * 20_000),
        "(" * 3_000 + "1" + ")" * 3_000,
        "(" * 1_000 + "1" + ")" * 1_000,
        r"\begin{pmatrix}" + r"\\".join("&".join("1" * 60) for _ in range(60)) + r"\end{pmatrix}",
        r"\binom{10000000}{5000000}",
        r"\sum_{i=1}^{10^{12}} \frac{1}{i}",
        "(x+y)^{1000}",
        r"\frac{" * 60 + "1" + "}{3}" * 60,
        r"\frac{" * 300 + "1" + "}{2}" * 300,
    ],
)
def test_hostile_answers_end_at_the_deadline(answer: str) -> None:
    with Grader(MathReward(timeout_s=2, workers=1)) as grader:
        items = [
            GradeItem("1/2", rf"\boxed{{{answer}}}", "stop"),
            GradeItem("5", "Answer: 5", "stop"),
        ]
        first, second = grader.grade(items)
    assert first.outcome in ("wrong", "timeout", "crash")
    assert second.outcome == "correct"


def test_a_number_beyond_all_digits_is_wrong_at_once(grader: Grader) -> None:
    answers = ["9^{9^{9^{9}}}", "(10^{12})!", r"\binom{10^{9}}{10^{8}}", r"\sum_{k=1}^{10^{12}} k"]
    items = [GradeItem("1/2", rf"\boxed{{{answer}}}", "stop") for answer in answers]
    items += [GradeItem(answer, rf"\boxed{{{answer}}}", "stop") for answer in answers]
    assert [verdict.outcome for verdict in grader.grade(items)] == ["wrong"] * 4 + ["correct"] * 4


def test_a_memory_error_that_was_swallowed_is_not_a_wrong_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def swallow(gold: str, answer: str) -> bool:
        try:
            return len(bytearray(1 << 62)) == 0
        except Exception:
            return False

    integral = r"\int_0^1 x^{2} dx"
    monkeypatch.setattr(math, "_equal", swallow)
    with pytest.raises(MemoryError):
        math.check_math("1/2", rf"\boxed{{{integral}}}", finish_reason="stop", where="boxed")
    monkeypatch.setattr(math, "_equal", lambda gold, answer: False)
    wrong = math.check_math("1/2", rf"\boxed{{{integral}}}", finish_reason="stop", where="boxed")
    assert wrong == ("wrong", integral)
