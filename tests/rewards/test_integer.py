r"""What is one integer and what is not: tables of answers, and properties over all integers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgpo_cli.rewards.integer import MAX_ANSWER_CHARS, read_integer
from tests.rewards.integer_cases import IS_204, IS_NO_INTEGER, IS_SOMETHING_ELSE


@pytest.mark.parametrize("answer", IS_204)
def test_the_integer_is_read_through_what_does_not_change_it(answer: str) -> None:
    assert read_integer(answer) == "204"


@pytest.mark.parametrize(("answer", "integer"), IS_SOMETHING_ELSE)
def test_signs_separators_and_chains_are_read(answer: str, integer: str) -> None:
    assert read_integer(answer) == integer


@pytest.mark.parametrize("answer", IS_NO_INTEGER)
def test_what_is_more_or_less_than_one_integer_is_none(answer: str) -> None:
    assert read_integer(answer) is None


WRAPPERS = [
    "{}",
    "({})",
    "${}$",
    r"\text{{{}}}",
    r"\mathrm{{{}}}",
    r"\textbf{{({})}}",
    r"\boxed{{{}}}",
    "x = {}",
    r"\frac12 \Rightarrow {}",
    "{}.00",
    "{}.",
    "{},",
    r"{}\text{{ cm}}^2",
    r"{}^\circ",
    "**{}**",
    "The answer is {}.",
]


@given(
    st.integers(), st.lists(st.sampled_from(WRAPPERS[:7]), max_size=4), st.sampled_from(WRAPPERS)
)
def test_any_integer_comes_back_out_of_any_wrappers(
    integer: int, inner: list[str], outer: str
) -> None:
    answer = str(integer)
    for wrapper in inner:
        answer = wrapper.format(answer)
    if outer in ("{}.00", "{}.", "{},") and inner:
        outer = "{}"
    assert read_integer(outer.format(answer)) == str(integer)


@given(st.integers(), st.sampled_from([",", "{,}", r"\,", r"\;", " ", "\u202f"]))
def test_thousands_separators_vanish(integer: int, separator: str) -> None:
    assert read_integer(f"{integer:,}".replace(",", separator)) == str(integer)


@given(st.text(alphabet=r"0123456789 \{}()[]$^_=-+!%.,/|~abcortextfrac&*" + "\n", max_size=60))
def test_what_is_read_is_an_integer_that_stands_in_the_answer(answer: str) -> None:
    integer = read_integer(answer)
    if integer is not None:
        assert integer == str(int(integer))
        digits = "".join(char for char in answer if char.isdigit())
        assert integer.lstrip("-").lstrip("0") in digits


@given(st.text())
def test_no_text_makes_reading_fail(answer: str) -> None:
    integer = read_integer(answer)
    assert integer is None or integer == str(int(integer))


def test_an_answer_too_long_to_be_one_is_none() -> None:
    assert read_integer("1" * MAX_ANSWER_CHARS) is not None
    assert read_integer("1" * (MAX_ANSWER_CHARS + 1)) is None
