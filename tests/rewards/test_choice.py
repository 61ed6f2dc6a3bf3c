r"""Letters of options: what names one, what only mentions it, and where it stands."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from dgpo_cli.core.errors import DataError
from dgpo_cli.core.types import Outcome, Prompt
from dgpo_cli.rewards.choice import check_choice
from dgpo_cli.rewards.grader import GradeItem, Grader, check_answers, judge_answer
from dgpo_cli.rewards.protocol import CHECKER_VERSION, Check, ChoiceExtract
from dgpo_cli.rewards.settings import ChoiceReward
from dgpo_cli.rewards.workers.pool import WorkerPool
from tests.rewards.test_hostile import HOSTILE_CHARS

CASES = Path(__file__).parent / "cases" / "choice_cases.jsonl"
ROWS: list[dict[str, Any]] = list(map(json.loads, CASES.read_text(encoding="utf-8").splitlines()))
BOTH: ChoiceExtract = "boxed-or-answer-line"
PLACES: tuple[ChoiceExtract, ...] = ("boxed", "answer-line", BOTH)
# As in test_checker_version.py: another verdict asks for another version.
DIGESTS = {"2": "6a91d38693c5ae67d1ca1b972a6da8f5dd8f34e56e5217d8827bd2df69012376"}


def outcome(gold: str, text: str, *, where: ChoiceExtract = BOTH, choices: int = 10) -> Outcome:
    return check_choice(gold, text, finish_reason="stop", where=where, choices=choices)[0]


def verdict(row: dict[str, Any], *, where: ChoiceExtract = BOTH) -> tuple[Outcome, str | None]:
    reason = row.get("finish_reason", "stop")
    return check_choice(row["gold"], row["output"], finish_reason=reason, where=where, choices=10)


def test_every_kind_of_answer_gets_a_careful_graders_verdict() -> None:
    found = [(verdict(row)[0], row) for row in ROWS]
    wrong = [
        (said, row)
        for said, row in found
        if said != row["want"] and (row["want"] != "incorrect" or said == "correct")
    ]
    assert wrong == []
    assert Counter(said == "correct" for said, _ in found)[True] > 250


def test_the_verdicts_are_those_of_this_checker_version() -> None:
    verdicts = [verdict(row, where=where) for row in ROWS for where in PLACES]
    digest = hashlib.sha256(json.dumps(verdicts).encode("ascii")).hexdigest()
    assert DIGESTS.get(CHECKER_VERSION) == digest


@pytest.mark.parametrize(
    ("text", "outcomes"),
    [
        (r"\boxed{B}", ("correct", "correct", "correct")),  # a last line of one letter
        (r"\boxed{B} has the right units.", ("correct", "no_answer", "correct")),
        ("Answer: B", ("no_answer", "correct", "correct")),
        ("<answer>B</answer>", ("no_answer", "correct", "correct")),
        ("So the answer is (B).", ("no_answer", "correct", "correct")),
        ("It fits.\n\n**B**", ("no_answer", "correct", "correct")),
        ("\\boxed{C}\n\nAnswer: B", ("wrong", "correct", "correct")),
        ("Answer: C\n\nSee \\boxed{B}, above.", ("correct", "wrong", "correct")),
        ("\\boxed{B}\n\nWait, it is C.", ("correct", "wrong", "wrong")),
    ],
)
def test_each_form_is_read_only_where_it_is_asked_for(
    text: str, outcomes: tuple[Outcome, ...]
) -> None:
    assert tuple(outcome("B", text, where=where) for where in PLACES) == outcomes


@given(st.integers(2, 26), st.integers(0, 25), st.integers(0, 25))
def test_only_its_own_letter_is_correct_and_letters_beyond_are_out_of_range(
    choices: int, gold: int, given_: int
) -> None:
    wanted, letter = chr(65 + gold % choices), chr(65 + given_)
    expected = "correct" if letter == wanted else "out_of_range" if given_ >= choices else "wrong"
    for form in (r"\boxed{{{}}}", "Answer: {}", "The answer is ({})."):
        said = check_choice(
            wanted, form.format(letter), finish_reason="stop", where=BOTH, choices=choices
        )
        assert said == (expected, letter)


@given(st.text(alphabet="ABCD ().,:*\\{}$'\nanswer is or not x"), st.sampled_from("ABCD"))
def test_every_text_gets_a_verdict_and_at_most_one_letter_is_correct(text: str, gold: str) -> None:
    for where in PLACES:
        said = [outcome(letter, text, where=where, choices=4) for letter in "ABCD"]
        assert said.count("correct") <= 1
        alone = outcome(gold, f"Answer: {gold}\n</think>{text}", where=where, choices=4)
        assert alone == said["ABCD".index(gold)]


def test_a_letter_far_before_the_end_counts_in_a_box_and_in_an_answer_line() -> None:
    prose = "\n" + "The sum goes on and on. " * 2_000
    for text in (r"\boxed{B}", "Answer: B", "**Answer:** (B) 12 m/s"):
        assert outcome("B", text + prose) == "correct"
    assert outcome("B", "So the answer is B." + prose) == "no_answer"


@pytest.mark.parametrize(
    ("gold", "choices", "said"),
    [
        ("12", 4, r"is not the letter of an option; .*reward\.kind = 'math'"),
        ("", 4, "is not the letter"),
        ("A, B", 4, "is not the letter"),
        ("(C)", 4, "is not the letter"),
        ("É", 26, "is not the letter"),
        ("E", 4, r"is beyond the options A to D; raise reward\.choices, or fix the data"),
        ("e", 4, "is beyond"),
    ],
)
def test_a_gold_answer_that_is_no_option_is_refused_before_sampling(
    gold: str, choices: int, said: str
) -> None:
    reward = ChoiceReward(choices=choices)
    problem = Prompt(id="p", messages=(), answer=gold, source="file")
    with pytest.raises(DataError, match=f"the first, of problem 'p', {said}"):
        check_answers([problem], reward=reward)
    with pytest.raises(DataError, match=f"answer={re.escape(repr(gold))} {said}"):
        judge_answer("Answer: A", gold=gold, kind="choice", choices=choices)
    with pytest.raises(ValueError, match="gold="):
        outcome(gold, "A", choices=choices)


def test_the_letter_reaches_the_verdict_through_the_workers() -> None:
    texts = ["Answer: c", "Answer: D", r"\boxed{E}", "no idea", "Answer: 12"]
    items = [GradeItem(" C ", text) for text in texts]
    with Grader(ChoiceReward(choices=4, workers=1, correct=2.0)) as grader:
        verdicts = grader.grade(items)
    assert [(each.outcome, each.extracted, each.reward) for each in verdicts] == [
        ("correct", "C", 2.0),
        ("wrong", "D", 0.0),
        ("out_of_range", "E", 0.0),
        ("no_answer", None, 0.0),
        ("wrong", "12", 0.0),
    ]
    assert judge_answer("Answer: e", gold="E", kind="choice", choices=5).outcome == "correct"


def test_settings_that_no_letter_can_meet_are_refused() -> None:
    for broken in ({"choices": 1}, {"choices": 27}, {"extract": "last-number"}, {"minimum": 0}):
        with pytest.raises(ValidationError, match=next(iter(broken))):
            ChoiceReward(**broken)  # type: ignore[arg-type]


UNITS = ("A", "A ", "A) ", "(A", "A or ", "A, ", "**A** ", "answer is ", "answer is A ", "Answer: ")
UNITS += (
    "Answer:\n",
    "so ",
    "So A",
    "it is ",
    "not ",
    "option A ",
    "is correct ",
    "A is correct. ",
)
UNITS += (
    "\\boxed{",
    "\\boxed{A}",
    "\\text{A}",
    "\\text{",
    "{",
    "$",
    "*",
    "~~",
    "<answer>",
    "'",
    "\n",
)
UNITS += (
    " ",
    ".",
    "\\",
    "-",
    "no, wait ",
    "wait, ",
    "\nA) x",
    "is the ",
    "I choose ",
    "`",
    "Ａ",
    "_",
)
WRAPS = ("{}", "{}\nAnswer: {}", "\\boxed{{{}}}", "Answer: A {}", "{} the answer is A", "A{}")


def hostile_outcomes(units: tuple[str, ...], wrap: str) -> set[str]:
    size = HOSTILE_CHARS // wrap.count("{}")
    tasks = [("B", wrap.format(*[unit * (size // len(unit))] * 2), "stop") for unit in units]
    check = Check("dgpo_cli.rewards.choice:check_choice", {"where": BOTH, "choices": 4})
    with WorkerPool(check, workers=1, timeout_s=5) as pool:
        return {outcome for outcome, _ in pool.run(tasks)}


def test_megabytes_of_letters_are_judged_before_the_deadline() -> None:
    units = ("A ", "Answer: ", "answer is ", "\\boxed{", " ")
    assert hostile_outcomes(units, WRAPS[0]) <= {"wrong", "no_answer"}
    assert hostile_outcomes(("A ", "\\boxed{A}"), WRAPS[2]) <= {"wrong"}


@pytest.mark.slow
@pytest.mark.parametrize("wrap", WRAPS)
def test_megabytes_of_anything_are_judged_before_the_deadline(wrap: str) -> None:
    assert hostile_outcomes(UNITS, wrap) <= {"wrong", "no_answer"}
