r"""What is one integer and what is not: tables of answers, and properties over all integers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgpo_cli.rewards.integer import MAX_ANSWER_CHARS, read_integer

IS_204 = [
    "204",
    " 204 ",
    "\n204\n",
    "0204",
    "+204",
    "204.",
    "204.0",
    "204.000",
    "204,",
    "204;",
    "{204}",
    "(204)",
    "[204]",
    r"\{204\}",
    r"\left(204\right)",
    r"\bigl(204\bigr)",
    r"\(204\)",
    "$204$",
    "$$204$$",
    r"\$204",
    "€204",
    "**204**",
    "`204`",
    "_204_",
    '"204"',
    r"204\,",
    r"204\!",
    r"204\quad",
    r"\displaystyle 204",
    r"\text{204}",
    r"\textbf{204}",
    r"\mathbf{204}",
    r"\mathrm{ 204 }",
    r"\boldsymbol{204}",
    r"\boxed{204}",
    r"\underline{204}",
    r"\textbf{(204)}",
    r"\text{\textbf{204}}",
    r"\color{red}204",
    r"\textcolor{blue}{204}",
    r"204\text{ minutes}",
    r"204\text{ cm}",
    r"204\,\text{cm}^2",
    r"204\text{ cm}^{2}",
    r"204~\mathrm{cm^3}",
    r"204\ \text{km}/\text{h}",
    r"204 \text{ square units}",
    r"204\text{ m}",
    "204 minutes",
    "204 cm^2",
    "204 cm²",
    "204 km/h",
    "204 cm",
    "204cm",
    "204 m",
    "204minutes",
    "204 miles per hour",
    "204 points",
    r"204^\circ",
    r"204^{\circ}",
    "204°",
    r"204\degree",
    r"204^\circ\text{C}",
    r"\text{Answer: }204",
    r"\text{The answer is } 204",
    "The answer is 204.",
    "the final answer is: **204**",
    "a total of 204 ways",
    r"\textbf{(B)} 204",
    "x=204",
    "x = 204",
    "= 204",
    "m+n=204",
    "m + n = 100 + 104 = 204",
    r"x_{1} = 204",
    r"\frac{408}{2} = 204",
    r"\frac{408}{2} \Rightarrow 204",
    r"\frac{408}{2} \implies m+n = 204",
    "5 => 204",
    "5 → 204",
    r"f(1,2) = 204",
    r"\gcd(408, 612) = 204",
    r"N \equiv 204 \pmod{1000}",
    r"1204 \equiv 204 \pmod {1000}",
    "204 (mod 1000)",
    r"204 \mod 1000",
    r"\text{sum of a and b} = 204",
    "204_{10}",
    r"204_{\text{ten}}",
    "２０４",
    "𝟐𝟎𝟒",
    "\u200b204\u200b",
    "\u00a0204",
    "204 ✅",
    "204 个",
    "答案是204",
]

IS_SOMETHING_ELSE = [
    ("-3", "-3"),
    ("−3", "-3"),
    ("–3", "-3"),
    ("(-3)", "-3"),
    ("-(3)", "-3"),
    ("- 3", "-3"),
    (r"-3\text{ degrees}", "-3"),
    (r"x=-3", "-3"),
    ("-0", "0"),
    ("000", "0"),
    ("007", "7"),
    ("0.00", "0"),
    ("1,016", "1016"),
    ("1{,}016", "1016"),
    (r"1\,016", "1016"),
    (r"1\;016", "1016"),
    (r"1\ 016", "1016"),
    ("1 016", "1016"),
    ("204 205", "204205"),
    ("1\u202f016", "1016"),
    ("12,345,678", "12345678"),
    ("-1,016", "-1016"),
    ("1,016.00", "1016"),
    (r"1{,}000 + 16 = 1{,}016", "1016"),
    ("5! = 120", "120"),
    ("5!=120", "120"),
    (r"1016 \equiv 16 \pmod{1000}", "16"),
]

IS_NO_INTEGER = [
    "",
    " ",
    ".",
    "-",
    "ANSWER",
    "x",
    "$Answer",
    r"\text{two hundred four}",
    "204, 205",
    "204,205,20",
    "204 , 205",
    "204; 205",
    "204 or 205",
    r"204\text{ or }205",
    r"204\lor 205",
    "204 and 205",
    r"x=3 \text{ or } x=204",
    "x = 3, y = 204",
    "x = 3 and y = 204",
    "(204, 205)",
    r"\{204, 205\}",
    "20 4",
    "1,01",
    "0,204",
    "204,5",
    "204{,}5",
    "1,0166",
    "204.05",
    "204.5",
    "203.99",
    ".204",
    "204.000001",
    r"204\%",
    "204%",
    r"204\text{\%}",
    "204 percent",
    r"204\text{ percent}",
    "204 per cent",
    "2.04e2",
    "204e0",
    "0x204",
    "204!",
    r"204\text{!}",
    "204 factorial",
    "204^2",
    "204^{1}",
    "204²",
    "{204}^2",
    r"\text{204}^2",
    "204_8",
    "204_{8}",
    "204_{16}",
    r"204_{\text{eight}}",
    "204/2",
    "408/2",
    r"\frac{408}{2}",
    r"\dfrac{204}{1}",
    r"\sqrt{41616}",
    r"|-204|",
    "|204|",
    r"\lfloor 204.5 \rfloor",
    r"2.04\times10^2",
    r"102\cdot 2",
    "102*2",
    "102(2)",
    "2(102)",
    "100+104",
    "204-0",
    "204+",
    "--204",
    "+-204",
    r"\pm 204",
    "±204",
    "204x",
    "204 x",
    "x204",
    "xy204",
    "204xyz",
    "204i",
    "204k",
    "204 K",
    r"204\pi",
    "204π",
    "π204",
    r"204\sqrt{2}",
    r"\sin 204",
    r"\sin(204)",
    "sin 204",
    "f(204)",
    "204½",
    "½204",
    "x²204",
    "204²³",
    "204①",
    "204'30",
    "204 million",
    r"204\text{ thousand}",
    "204 dozen",
    "204万",
    "204 and a half",
    "204 squared",
    r"\approx 204",
    r"x \approx 204",
    "≈204",
    "about 204",
    "约204",
    "not 204",
    r"\ne 204",
    r"x \neq 204",
    r"x \not= 204",
    "x != 204",
    "x ≠ 204",
    "x <= 204",
    "x >= 204",
    "x < 204",
    r"x \le 204",
    "> 204",
    "at least 204",
    "more than 204",
    "204 or more",
    "204?",
    "204...5",
    "∞",
    "204:205",
    r"1016 \bmod 812",
    "1016 mod 812",
    r"\binom{204}{1}",
    r"\overline{204}",
    "204 =",
    "minus 204",
    r"\begin{pmatrix}204\end{pmatrix}",
]


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
