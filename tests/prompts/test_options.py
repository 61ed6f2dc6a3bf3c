"""Options of a choice: the letter of the right one, their order, and the text of the problem."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgpo_cli.core.errors import DataError
from dgpo_cli.prompts.benchmarks import load_benchmark
from dgpo_cli.prompts.options import LETTERS, right_letter, shuffled, with_options
from tests.prompts.test_benchmarks import save

OPTIONS = ("red", "green", "blue", "B")


@pytest.mark.parametrize(
    ("answer", "by_index", "letter"),
    [
        ("C", False, "C"),
        ("c", False, "C"),
        ("green", False, "B"),
        (" blue ", False, "C"),
        ("2", True, "C"),
        ("0", True, "A"),
        ("B", False, None),  # the letter of green, and the text of the last
        ("E", False, None),
        ("yellow", False, None),
        ("4", True, None),
        ("-1", True, None),
        ("C", True, None),
        ("2", False, None),
    ],
)
def test_the_answer_is_a_letter_a_text_or_a_number_and_never_two(
    answer: str, by_index: bool, letter: str | None
) -> None:
    found, why = right_letter(answer, OPTIONS, by_index=by_index)
    assert found == letter
    assert bool(why) == (letter is None)


def test_a_text_that_two_options_have_is_no_answer() -> None:
    assert right_letter("red", ("red", "red", "blue"), by_index=False)[0] is None
    assert right_letter("B", ("red", "red", "blue"), by_index=False)[0] == "B"


@given(
    options=st.lists(st.text(max_size=5), min_size=2, max_size=10, unique=True),
    at=st.integers(0, 9),
    seed=st.integers(0, 2**31),
    name=st.text(max_size=8),
)
def test_shuffling_keeps_every_option_and_the_right_one(
    options: list[str], at: int, seed: int, name: str
) -> None:
    right = LETTERS[at % len(options)]
    order, letter = shuffled(options, right, seed=seed, id=name)
    assert sorted(order) == sorted(options)
    assert order[LETTERS.index(letter)] == options[at % len(options)]
    assert shuffled(options, right, seed=seed, id=name) == (order, letter)


def test_the_right_option_comes_to_every_place_alike_often() -> None:
    letters = Counter(shuffled(OPTIONS, "A", seed=7, id=str(n))[1] for n in range(4000))
    assert set(letters) == set("ABCD")
    # 1,000 expected, standard deviation 27.
    assert all(abs(count - 1000) < 150 for count in letters.values())


def test_options_stand_below_the_problem_a_line_each_as_they_are() -> None:
    assert with_options("Which?", ("1 & <2>", "{x}\\frac")) == (
        "Which?\n\nA. 1 & <2>\nB. {x}\\frac"
    )
    assert with_options("Which?", ("a",), mark="(A)") == "Which?\n\n(A) a"
    assert with_options("Which?", ()) == "Which?"


CHOICE = """
kind = "file"
title = "Choices"
file = "rows.FORMAT"
answer_kind = "choice"
choices = 4
COLUMNS
"""
WRONG = 'shuffle = true\nmark = "A)"\n[columns]\nanswer = "right"\nwrong = ["w1", "w2", "w3"]\n'
ROWS = [
    {"problem": f"Which is {n}?", "right": f"r{n}", "w1": f"x{n}", "w2": f"y{n}", "w3": f"z{n}"}
    for n in range(40)
]


def test_right_and_wrong_columns_are_shuffled_by_seed_and_id_alone(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text(CHOICE.replace("FORMAT", "csv").replace("COLUMNS", WRONG))
    save(ROWS, tmp_path / "rows.csv")
    first, again, other = (load_benchmark(str(path), seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first.sha256 == other.sha256  # the data are the same
    assert dict(first.options) == {"mark": "A)", "shuffled": True}  # for the card
    assert [p.answer for p in first.prompts] != [p.answer for p in other.prompts]
    for n, prompt in enumerate(first.prompts):
        question, blank, *lines = prompt.text.split("\n")
        assert (question, blank) == (f"Which is {n}?", "")
        assert sorted(line[3:] for line in lines) == [f"{each}{n}" for each in "rxyz"]
        assert f"{prompt.answer}) r{n}" in lines


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_a_list_of_options_with_a_letter_keeps_its_order(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "c.toml"
    columns = '[columns]\noptions = "options"\n'
    path.write_text(CHOICE.replace("FORMAT", kind).replace("COLUMNS", columns))
    rows = [
        {"problem": f"Which is {n}?", "options": ["a", "b", "c"][: 2 + n % 2], "answer": "B"}
        for n in range(4)
    ]
    save(rows, tmp_path / f"rows.{kind}")
    bench = load_benchmark(str(path))
    assert bench.prompts[0].text == "Which is 0?\n\nA. a\nB. b"
    assert {prompt.answer for prompt in bench.prompts} == {"B"}


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ({"answer": "E"}, "line 2: answer is the letter or the text of none of the options"),
        ({"options": list("pqrstu"), "answer": "A"}, "line 2: 6 options, at most 4"),
        ({"options": "a, b", "answer": "A"}, "field 'options' must be a list of options"),
        ({"answer": None}, "line 2: the answer is empty"),
    ],
)
def test_a_broken_choice_is_named(tmp_path: Path, row: dict[str, object], fault: str) -> None:
    path = tmp_path / "c.toml"
    columns = '[columns]\noptions = "options"\n'
    path.write_text(CHOICE.replace("FORMAT", "jsonl").replace("COLUMNS", columns))
    good = {"problem": "Which?", "options": ["a", "b"], "answer": "A"}
    rows = [good, {**good, "problem": "And which?", **row}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    with pytest.raises(DataError) as caught:
        load_benchmark(str(path))
    assert fault in str(caught.value)
