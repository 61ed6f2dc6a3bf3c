r"""Where the answer stands, and what is said of it: cases, properties and hostile text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgpo_cli.core.types import FinishReason, Outcome
from dgpo_cli.rewards.answer import check_integer
from dgpo_cli.rewards.reading.extract import extract
from dgpo_cli.rewards.settings import Extract
from tests.rewards.answer_table import ROWS

CASES = Path(__file__).parents[3] / "shared" / "data" / "answer_cases.jsonl"
BOTH: Extract = "boxed-or-answer-line"


def outcome(
    gold: str, text: str, *, where: Extract = BOTH, finish_reason: FinishReason = "stop"
) -> Outcome:
    return check_integer(gold, text, finish_reason=finish_reason, where=where)[0]


@pytest.mark.skipif(not CASES.exists(), reason="the file of judged answers is not here")
def test_every_judged_answer_gets_its_verdict() -> None:
    wrong = []
    for line in CASES.read_text(encoding="utf-8").splitlines():
        case = json.loads(line)
        right = outcome(case["gold"], case["output"]) == "correct"
        if case["want"] != "policy" and right != (case["want"] == "correct"):
            wrong.append(case)
    assert wrong == []


@pytest.mark.parametrize(("kind", "gold", "text", "right"), ROWS)
def test_every_kind_of_answer_gets_a_careful_graders_verdict(
    kind: str, gold: str, text: str, right: bool
) -> None:
    assert (outcome(gold, text) == "correct") == right, kind


BEFORE = r"With $\{x < 3\}$, {a{b}}: \boxed{9}, no, \boxed{}, no, \boxed{\frac{1}{2}}. Wrong! So "
BOXED = [row for row in ROWS if row[2].startswith("\\")]


@pytest.mark.parametrize(("kind", "gold", "text", "right"), BOXED)
def test_what_was_given_up_before_a_box_changes_no_verdict(
    kind: str, gold: str, text: str, right: bool
) -> None:
    assert (outcome(gold, BEFORE + text) == "correct") == right, kind


FOUND = [
    # the last complete box
    (r"\boxed{1} then \boxed{2}", "2"),
    (r"\boxed{2} then \boxed{3", "2"),
    (r"\boxed{1} \boxed{2} \boxed{3 \boxed{", "2"),
    (r"\boxed{2} and put it in \boxed{}", "2"),
    (r"\boxed{2} and put it in \boxed{ }", "2"),
    (r"\boxed{\boxed{2}}", r"\boxed{2}"),
    (r"\boxed{3+\boxed{2}}", r"3+\boxed{2}"),
    (r"\boxed{\boxed{1}+\boxed{2}}", r"\boxed{1}+\boxed{2}"),
    (r"\boxed{ {3 \boxed{2} ", "2"),
    (r"{\text{so \boxed{2}}}", "2"),
    (r"\boxed{2}}}", "2"),
    (r"\boxed{\{2\}}", r"\{2\}"),
    (r"\boxed{\}2}", r"\}2"),
    (r"\boxed{\frac{a}{b}}", r"\frac{a}{b}"),
    ("\\boxed{\n2\n}", "\n2\n"),
    (r"\boxed {2}", "2"),
    (r"\\boxed{2}", "2"),
    (r"\fbox{2}", "2"),
    (r"\boxed 2", "2"),
    (r"$\boxed 2$ is it", "2"),
    (r"\(\boxed 2\) is it", "2"),
    (r"\boxed 2. Done", "2"),
    (r"\boxed -2", "-2"),
    (r"\boxed 2 or 3", "2 or 3"),
    (r"\boxed{1} \boxed 2", "2"),
    (r"in \boxed form, \fbox{2} or boxed{3}", "2"),
    (r"\boxed{2} Answer: 3", "2"),
    (r"\boxedtext{3} \boxed{2}", "2"),
    # the last answer line
    ("Answer: 2", "2"),
    ("answer: 2", "2"),
    ("ANSWER: 2", "2"),
    ("Answer：2", "2"),
    ("**Answer:** 2", "** 2"),
    ("**Answer**: 2", "2"),
    ("Final Answer: 2\nThanks", "2"),
    ("Answer: 1\nAnswer: 2", "2"),
    ("Answer: 2\nAnswer:", "2"),
    ("Answer: 2\nAnswer: ", "2"),
    ("Answer:\n\n2", "2"),
    ("Answer:\n$$\n2\n$$", "2"),
    ("Answer: 2</answer>", "2"),
    ("Answer: 2<|im_end|>", "2"),
    ("Answer: ~2", "≈2"),
    ("Answer: 2" + "\nno answer here" * 100, "2"),
    ("<answer>2</answer>", "2"),
    ("<answer>\n2\n</answer>", "2"),
    ("<answer>1</answer><answer>2</answer> <answer>3", "2"),
    ("Answer: 1\n<answer>2</answer>", "2"),
    ("1+1=2\n#### 2", "2"),
    ("#### 2\n", "2"),
    ("#### 1\nNo.\nAnswer: 2", "2"),
    ("<answer>1</answer>\nAnswer: 2", "2"),
    # thinking
    (r"<think>\boxed{1}</think>\boxed{2}", "2"),
    (r"\boxed{1}</think>\boxed{2}", "2"),
    (r"<think></think><think>\boxed{1}</think> Answer: 2", "2"),
    (r"<thinking>\boxed{1}</thinking> \boxed{2}", "2"),
]
NOT_FOUND = [
    "",
    "2",
    "the answer is 2",
    "so the answer is **2**.",
    r"\boxed{",
    r"\boxed{2",
    r"\boxed{\frac{2}",
    r"\boxed{2\}",
    r"\boxed{}",
    r"\boxed",
    r"\boxed x",
    "boxed{2}",
    "Answer:",
    "Answer:\n\n\n",
    "Answer: **",
    "<answer>2",
    "<answer></answer>",
    "Answers: 2",
    "#### Step 2",
    "#### 2 cases",
    "#### 2\nThat was the second part.",
    "see #### 2",
    "MyAnswer: 2",
    r"<think>\boxed{2}",
    r"<think>\boxed{2}</think>",
    r"\boxed{2}</think>",
    r"\boxed{1}</think><think>\boxed{2}",
    "<think>Answer: 2</think> It is 2.",
]


@pytest.mark.parametrize(("text", "answer"), FOUND)
def test_the_final_answer_is_found(text: str, answer: str) -> None:
    found = extract(text, where=BOTH)
    assert found is not None
    assert found.text == answer


@pytest.mark.parametrize("text", NOT_FOUND)
def test_text_without_a_final_answer_has_none(text: str) -> None:
    assert extract(text, where=BOTH) is None
    assert outcome("2", text) == "no_answer"
    assert outcome("2", text, finish_reason="length") == "truncated"


def test_each_form_is_read_only_where_it_is_asked_for() -> None:
    text = "Answer: 1\n" + r"\boxed{2} and 3."
    assert outcome("2", text, where="boxed") == "correct"
    assert outcome("1", text, where="answer-line") == "correct"
    assert outcome("3", text, where="last-number") == "correct"
    assert outcome("2", r"\boxed{2}", where="answer-line") == "no_answer"
    assert outcome("2", "Answer: 2", where="boxed") == "no_answer"


@pytest.mark.parametrize(
    ("text", "last"),
    [
        ("so 1,016.", "1016"),
        ("x=-3$", "-3"),
        ("10-3", "3"),
        (r"\boxed{204} is", "204"),
        ("it is 204.00, so", "204"),
        ("204" + " word" * 5000, "204"),
    ],
)
def test_the_last_number_is_read_whole(text: str, last: str) -> None:
    assert outcome(last, text, where="last-number") == "correct"


@pytest.mark.parametrize("text", ["3/4", "5%", r"4 \%", "2^4", "4!", "0.4", "204 then 4.5", "none"])
def test_the_end_of_another_number_is_no_last_number(text: str) -> None:
    assert outcome("4", text, where="last-number") in ("wrong", "no_answer")
    assert outcome("5", text, where="last-number") in ("wrong", "no_answer")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"\boxed{204} and", "correct"),
        (r"\boxed{204}", "correct"),
        (r"\boxed{205} and", "wrong"),
        (r"\boxed{204} \boxed{20", "correct"),
        (r"\boxed{20", "truncated"),
        (r"\boxed 204", "truncated"),
        (r"\boxed 204$ and", "correct"),
        ("Answer: 204\n", "correct"),
        ("Answer: 204", "truncated"),
        ("Answer: 204\nAnswer: 20", "correct"),
        ("<answer>204</answer>", "correct"),
        ("<answer>204", "truncated"),
        ("<think> so \\boxed{204}", "truncated"),
    ],
)
def test_a_cut_completion_is_judged_only_by_what_it_had_finished(
    text: str, expected: Outcome
) -> None:
    assert outcome("204", text, finish_reason="length") == expected


def test_a_cut_text_has_no_last_number() -> None:
    assert outcome("204", "204 ", where="last-number", finish_reason="length") == "truncated"


@given(st.integers(), st.integers(0, 999))
def test_out_of_range_is_any_other_integer_beyond_the_bounds(given_: int, gold: int) -> None:
    result = check_integer(
        str(gold),
        rf"\boxed{{{given_}}}",
        finish_reason="stop",
        where="boxed",
        minimum=0,
        maximum=999,
    )
    if given_ == gold:
        assert result == ("correct", str(given_))
    else:
        assert result == ("wrong" if 0 <= given_ <= 999 else "out_of_range", str(given_))


FORMS = [
    r"\boxed{{{}}}",
    r"so $\boxed{{x = {}}}$.",
    r"\boxed{{\text{{{} units}}}}",
    r"\boxed{{1}} no, \boxed{{\textbf{{({})}}}} since \boxed{{",
    "Answer: {}",
    "**Answer:** ${}$\n",
    "<answer>{}</answer>",
]


@given(st.integers(), st.integers(), st.sampled_from(FORMS), st.text(alphabet="ab x.\n"))
def test_only_the_same_integer_is_correct(gold: int, other: int, form: str, prose: str) -> None:
    text = prose + "\n" + form.format(other)
    expected = "correct" if gold == other else "wrong"
    assert check_integer(str(gold), text, finish_reason="stop", where=BOTH) == (
        expected,
        str(other),
    )


@given(
    st.text(alphabet=st.sampled_from(list(r"\{}$0123 Answer:<>/think" + "\n")) | st.characters()),
    st.sampled_from(["boxed", "answer-line", BOTH, "last-number"]),
    st.sampled_from(["stop", "length"]),
)
def test_any_text_gets_a_verdict(text: str, where: Extract, reason: FinishReason) -> None:
    verdict, extracted = check_integer("204", text, finish_reason=reason, where=where)
    assert (extracted is None) == (verdict in ("no_answer", "truncated"))
    assert verdict != "correct" or extracted == "204"


def test_a_gold_that_is_no_integer_is_refused() -> None:
    with pytest.raises(ValueError, match="is not an integer"):
        check_integer("1/2", r"\boxed{1/2}", finish_reason="stop", where="boxed")
