"""The doctor names every fault that data of a benchmark were ever seen with, and no other."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgpo_cli.prompts.answer_key import read_integer
from dgpo_cli.prompts.examination import Examination, examine, text_faults
from dgpo_cli.prompts.manifests import HubManifest
from dgpo_cli.prompts.records import Record

MANIFEST = HubManifest(
    kind="hub",
    title="t",
    dataset="a/b",
    revision="0" * 40,
    file="c.jsonl",
    problems=4,
    minimum=0,
    maximum=999,
    answers={"2024-I-1": 5, "2024-I-2": 6, "2024-II-1": 7, "2024-II-2": 800},
    remarks={"2024-II-1": "asked in other words"},
)
GOOD = tuple(
    Record(f"line {n}", name, f"What is $\\sqrt{{{n}}}$,\nplease?", str(answer), n)
    for n, (name, answer) in enumerate(MANIFEST.answers.items(), start=1)
)


def with_row(number: int, **changes: str | None) -> tuple[Record, ...]:
    return tuple(
        replace(record, **changes) if n == number else record  # type: ignore[arg-type]
        for n, record in enumerate(GOOD, start=1)
    )


def faults(*records: Record) -> tuple[str, ...]:
    return examine(records, MANIFEST, answers=True).faults


def test_good_data_pass_and_say_what_was_compared() -> None:
    assert examine(GOOD, MANIFEST) == Examination(
        GOOD, (), (), ("4 of 4 answers agree with the key (by id)",)
    )


def test_rows_without_ids_get_those_of_the_key_when_all_answers_agree() -> None:
    found = examine([replace(record, id=None) for record in GOOD], MANIFEST)
    assert found.records == GOOD
    assert found.notes == ("4 of 4 answers agree with the key (by position)",)
    wrong = [replace(record, id=None) for record in with_row(2, answer="9")]
    found = examine(wrong, MANIFEST, answers=True)
    assert [record.id for record in found.records] == ["1", "2", "3", "4"]
    assert found.faults == ("line 2 (2024-I-2): answer '9', the key has 6",)
    assert found.notes == ("3 of 4 answers agree with the key (by position)",)


def test_another_order_is_told_and_no_fault() -> None:
    found = examine([replace(record, id=None) for record in reversed(GOOD)], MANIFEST)
    assert found.faults == ()
    assert found.notes == ("all 4 answers are those of the key, in another order",)
    assert [record.id for record in found.records] == ["4", "3", "2", "1"]


def test_answers_that_differ_from_the_key_are_named_with_the_remark() -> None:
    assert faults(*with_row(1, answer="6")) == ("line 1 (2024-I-1): answer '6', the key has 5",)
    assert faults(*with_row(3, answer="8")) == (
        "line 3 (2024-II-1): answer '8', the key has 7 (asked in other words)",
    )


@pytest.mark.parametrize("answer", ["1000", "-1", "99999999999999999999"])
def test_answers_out_of_range_are_named(answer: str) -> None:
    assert faults(*with_row(2, answer=answer)) == (f"line 2: answer '{answer}' is not in 0 to 999",)


@pytest.mark.parametrize("answer", ["x", "5.5", "1,5", "$5$", "5 or 6", "５"])
def test_answers_that_are_no_integers_are_named(answer: str) -> None:
    assert faults(*with_row(1, answer=answer)) == (f"line 1: answer '{answer}' is not an integer",)


def test_no_finding_names_an_expected_answer_unless_asked() -> None:
    spoiled = (
        with_row(1, answer="6"),
        with_row(2, answer="1000"),
        with_row(3, answer="secret"),
        (*GOOD, replace(GOOD[0], place="line 5", answer="9")),
    )
    for records in spoiled:
        found = examine(records, MANIFEST)
        said = " ".join((*found.faults, *found.notes))
        assert found.faults
        assert not any(each in said for each in ("'6'", "has 5", "'1000'", "secret", "'9'", "'5'"))
    assert examine(spoiled[0], MANIFEST).faults == (
        "line 1 (2024-I-1): answer is not that of the key",
    )


@pytest.mark.parametrize("answer", ["005", "5.0", "+5"])
def test_an_integer_in_other_digits_is_no_fault_and_written_plainly(answer: str) -> None:
    found = examine(with_row(1, answer=answer), MANIFEST)
    assert found.faults == ()
    assert found.records == GOOD


@pytest.mark.parametrize("what", ["problem", "answer"])
def test_empty_rows_are_named_and_left_out(what: str) -> None:
    found = examine(with_row(2, **{what: ""}), MANIFEST)
    assert found.faults == (
        "3 different problems, but there must be 4",
        f"line 2: the {what} is empty; the row is left out",
        "missing problems: 2024-I-2",
    )
    assert found.records == (GOOD[0], *GOOD[2:])


def test_regular_repeats_are_counted_and_left_out() -> None:
    found = examine(GOOD * 32, MANIFEST)
    assert found.faults == ("128 rows, 4 problems each repeated 32 times",)
    assert found.records == GOOD


def test_single_repeats_are_counted_and_left_out() -> None:
    spaced = replace(GOOD[1], place="line 5", problem=f" {GOOD[1].problem.replace(' ', '  ')}")
    found = examine([*GOOD, spaced], MANIFEST)
    assert found.faults == ("5 rows, 4 problems, some repeated",)
    assert found.records == GOOD


def test_a_repeat_in_place_of_another_problem_is_a_missing_problem() -> None:
    found = faults(*GOOD[:3], replace(GOOD[0], place="line 4", id="2024-II-2"))
    assert found == (
        "4 rows, 3 problems, some repeated",
        "3 different problems, but there must be 4",
        "missing problems: 2024-II-2",
    )


def test_a_repeat_with_another_answer_is_named() -> None:
    found = faults(*GOOD, replace(GOOD[0], place="line 5", answer="9"))
    assert "line 5: repeats the problem of line 1 with another answer ('9', not '5')" in found


def test_an_id_that_stands_twice_is_named_and_made_unique() -> None:
    found = examine(with_row(2, id="2024-I-1", answer="5"), MANIFEST)
    assert found.faults == (
        "2 problems have the id 2024-I-1",
        "missing problems: 2024-I-2",
    )
    assert [record.id for record in found.records][:2] == ["2024-I-1", "2024-I-1 (line 2)"]


def test_an_id_of_another_examination_is_named() -> None:
    assert faults(*with_row(1, id="2023-I-1")) == (
        "line 1: id '2023-I-1' is not the benchmark's",
        "missing problems: 2024-I-1",
    )


def test_nothing_at_all_is_a_fault_and_no_crash() -> None:
    found = examine((), MANIFEST)
    assert found.records == ()
    assert found.faults == ("0 different problems, but there must be 4",)
    assert found.notes == ("none of the 0 answers could be compared with the key",)


# ---------------------------------------------------------------- texts


COMMANDS = {
    "\t": ["times", "theta", "text{a}", "textbf{a}", "triangle ABC", "tfrac12", "tan x", "to"],
    "\f": ["frac{1}{2}", "forall", "floor"],
    "\b": ["boxed{1}", "binom{3}{2}", "beta", "bar{x}"],
    "\r": ["rho", "rfloor", "rangle", "right)"],
    "\v": ["vec{a}", "varphi"],
    "\a": ["alpha", "angle ABC", "approx"],
    "\n": ["neq 3", "notin S", "nabla f", "not="],
}


@pytest.mark.parametrize(
    ("char", "command"), [(char, each) for char, words in COMMANDS.items() for each in words]
)
def test_a_command_that_lost_its_backslash_is_named(char: str, command: str) -> None:
    text = f"What is $2{char}{command[1:]}$?"
    word = command.split("{")[0].split()[0].rstrip("0123456789)=")
    (fault,) = text_faults(Record("line 9", None, text, "1"))
    assert fault.startswith(f"line 9: control character U+{ord(char):04X} in the problem")
    assert f"\\{word}?" in fault
    assert list(text_faults(Record("line 9", None, f"What is $2\\{command}$?", "1"))) == []


def test_the_same_loss_is_counted_once_a_row() -> None:
    record = Record("line 1", None, "2\times3\times4\n\frac12", "\boxed{3}")
    assert list(text_faults(record)) == [
        "line 1: control character U+0009 in the problem (2 times): was it \\times? "
        "Its backslash was not escaped",
        "line 1: control character U+000C in the problem: was it \\frac? "
        "Its backslash was not escaped",
        "line 1: control character U+0008 in the answer: was it \\boxed? "
        "Its backslash was not escaped",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "Two lines,\nnot one.",
        "A table:\n\ta\tb\n\tan apple",
        "Indented:\n\t\tto be\n\ttop",
        "First\nan apple,\no dear\nop art",
        "noted\nequal\nleg\nnote",
        "É ü 数学 ∠ √ — “quotes”\u2028\u00a0",
        "[asy]\n\tdraw((0,0)--(1,1));\n[/asy]",
    ],
)
def test_ordinary_texts_have_no_fault(text: str) -> None:
    assert list(text_faults(Record("line 1", None, text, "1"))) == []


@pytest.mark.parametrize("char", ["\0", "\x1b", "\x7f", "\x85", "\x01"])
def test_other_control_characters_are_named_without_a_guess(char: str) -> None:
    (fault,) = text_faults(Record("line 1", None, f"a{char}b", "1"))
    assert fault == f"line 1: control character U+{ord(char):04X} in the problem"


def test_replacement_characters_are_counted() -> None:
    (fault,) = text_faults(Record("line 1", None, "an\ufffdgle\ufffd", "1"))
    assert fault == "line 1: 2 replacement characters (U+FFFD) in the problem"


# ---------------------------------------------------------------- for all data


TEXTS = st.text(st.sampled_from("ab \t\n\f\\{}\ufffd"), max_size=6)
ANSWERS = st.one_of(st.integers(-2, 1001).map(str), st.sampled_from(["", "x", "007", "800", "5"]))
NAMES = st.sampled_from([None, "", "0", "1", "2", "3", "x", *MANIFEST.answers])


@given(st.lists(st.tuples(NAMES, TEXTS, ANSWERS), max_size=8))
def test_what_is_left_is_always_unique_whole_and_from_the_data(
    rows: list[tuple[str | None, str, str]],
) -> None:
    records = [Record(f"line {n}", *row) for n, row in enumerate(rows, start=1)]
    found = examine(records, MANIFEST)
    places = {record.place: record for record in records}
    assert len({record.id for record in found.records}) == len(found.records)
    assert len({" ".join(record.problem.split()) for record in found.records}) == len(found.records)
    for record in found.records:
        first = places[record.place]
        assert record.problem == first.problem != ""
        assert read_integer(record.answer) == read_integer(first.answer)
    if not found.faults:
        assert len(found.records) == 4
        assert sorted(int(record.answer) for record in found.records) == [5, 6, 7, 800]
    # A second look at what was left finds nothing more to leave out.
    assert examine(found.records, MANIFEST).records == found.records
