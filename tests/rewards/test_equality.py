r"""The laws of general answers, each with pairs that are the same and pairs that are not.

Whole completions by the hundred are in `cases/math_cases.jsonl`.
"""

from __future__ import annotations

import pytest

from dgpo_cli.rewards import math
from dgpo_cli.rewards.formulas.formula import read
from dgpo_cli.rewards.formulas.nodes import Node, below
from dgpo_cli.rewards.formulas.tokens import Unread
from dgpo_cli.rewards.math import check_math, is_equal
from tests.rewards.hostile import ANSWERS

Pairs = list[tuple[str, str]]


def holds(same: Pairs, different: Pairs) -> None:
    assert [pair for pair in same if not is_equal(*pair)] == []
    assert [pair for pair in different if is_equal(*pair)] == []


def test_an_equation_is_not_judged_by_its_right_side() -> None:
    golds = ["4x+3y-12=0", "x^2=0", "2x=0", "x-y=0", r"\sin x=0", "n!=0", "ax+b=0", "x^2+y^2=0"]
    holds([], [(gold, answer) for gold in golds for answer in ("0", "0=0", "x+y-z=0")])


def test_equations_are_equal_when_their_solutions_are() -> None:
    holds(
        [
            ("2x+3y=6", "4x+6y=12"),
            ("y=2x+1", "2x-y+1=0"),
            ("xy=1", r"y=\frac{1}{x}"),
            ("x^2=9", r"x=\pm 3"),
            ("x=3", "3=x"),
        ],
        [
            ("2x+3y=6", "4x+6y=6"),
            ("y=2x+1", "x=2y+1"),
            ("x^2=9", "x=3"),
            ("x+y=xy", r"\frac{1}{x}+\frac{1}{y}=1"),  # (0, 0) solves the first alone
            ("y^2=4", "y=4"),
        ],
    )


def test_what_was_to_be_solved_is_not_its_solution() -> None:
    holds(
        [("x^2=9", r"x=\pm 3"), ("2x=6", "x=3")],
        [
            ("x=3", "2x=6"),
            ("2, 3", "x^2-5x+6=0"),
            (r"x=2\text{ or }x=3", "x^2-5x+6=0"),
            ("x>2", "2x>4"),
            ("(-2,2)", "x^2<4"),
        ],
    )


def test_a_name_with_its_value_is_the_value() -> None:
    values = [
        ("x=3", "3"),
        (r"\lim_{n\to\infty} a_n = 2", "2"),
        ("f(x)=x^2", "x^2"),
        ("(x,y)=(1,2)", "(1,2)"),
        ("3", "x=3"),
        ("3", r"\angle A = \frac{6}{2} = 3^\circ"),
        ("3", "|S|=3"),
    ]
    others = [
        ("x=3", "y=3"),
        ("y=2x+1", "2x+1"),
        ("3", "x+y=3"),
        ("3", "x=4=3"),
        ("3", "|x|=3"),
        ("P(1,2)", "Q(1,2)"),
    ]
    holds(values, others)


def test_congruences_hold_for_the_same_numbers() -> None:
    gold = r"x\equiv 2\pmod 5"
    holds(
        [(gold, r"x\equiv 7 \pmod{5}"), (gold, r"2x \equiv 4 \pmod{10}"), (gold, "x ≡ 2 (mod 5)")],
        [(gold, r"x\equiv 2\pmod 7"), (gold, r"x\equiv 3\pmod 5"), (gold, "2"), (gold, "x=2")],
    )


def test_brackets_and_order_are_kept() -> None:
    holds(
        [("(4,112)", r"\left( 4, 112 \right)"), (r"\{1,2\}", r"\{2,1\}"), ("1,2", "2, 1")],
        [
            ("(4,112)", "4112"),
            ("(4,112)", "[4,112]"),
            ("[1,100)", "[1,100]"),
            ("(3,100)", r"\{3,100\}"),
            ("(1,2)", "(2,1)"),
            ("1,2", "(1,2)"),
            (r"p\land q", r"p\lor q"),
            (r"\langle 1,2\rangle", "(1,2)"),
        ],
    )


def test_labels_belong_to_their_values() -> None:
    holds(
        [(r"\text{Alice}: 3, \text{Bob}: 5", r"\text{Bob}: 5, \text{Alice}: 3"), ("3:4", "6:8")],
        [
            (r"\text{Alice}: 3", r"\text{Bob}: 3"),
            (r"\text{Alice}: 3", "3"),
            ("a:b=2", "b:a=2"),
            ("a:b=2", "2"),
            ("12:00", "1:00"),
        ],
    )


def test_bases_and_amounts_agree_on_both_sides() -> None:
    holds(
        [("101_2", "101_{2}"), (r"5\text{ million}", "5,000,000"), (r"13\%", "0.13")],
        [
            ("12_7", "12"),
            ("12", "12_7"),
            ("101_2", "101_3"),
            ("101_2", "5"),
            (r"5\text{ million}", "5"),
            ("5", r"5\text{ million}"),
            (r"13\%", "13"),
            ("13", r"13\text{ percent}"),
        ],
    )


def test_no_difference_is_too_small_to_count() -> None:
    holds(
        [(r"\frac{1}{2^{10}}", r"\frac{1}{1024}"), (r"\sqrt{8}", r"2\sqrt{2}")],
        [
            (r"\frac{1}{20!}", r"\frac{1}{21!}"),
            (r"\frac{1}{3001!}", r"\frac{1}{3003!}"),
            (r"1.6\times 10^{-19}", r"9.1\times 10^{-31}"),
            (r"\frac{1}{2^{98}}", "0"),
            (r"\frac{2^{99}+1}{3\cdot 2^{100}}", r"\frac{1}{3\cdot 2^{100}}"),
            (r"\sqrt{2}+10^{-600}", r"\sqrt{2}"),
            ("e^{-5000}", "0"),
            ("e^{-5000}", "e^{-5001}"),
        ],
    )


def test_a_decimal_is_exact_unless_it_has_ten_digits_of_the_rounding() -> None:
    holds(
        [("0.5", r"\frac{1}{2}"), (r"\frac{2}{3}", "0.6666666667"), (r"\pi", "3.1415926536")],
        [(r"\frac{1}{3}", "0.333"), (r"\sqrt{2}", "1.41"), ("0.333", r"\frac{1}{3}")],
    )


def test_expressions_that_differ_in_a_sign_or_a_term_are_not_equal() -> None:
    holds(
        [("a+b+c", "c+b+a"), (r"\sin 2x", r"2\sin x\cos x"), (r"\ln|x|+C", r"C+\ln|x|")],
        [
            ("a+b+c", "a+b-c"),
            ("a+b+c", "a+7"),
            ("p+q", "p-q"),
            (r"\sqrt{x^2}", "x"),
            (r"\ln x^2", r"2\ln x"),  # the first is there for negative x as well
            ("x^2+C", "x^2"),
        ],
    )


def test_sets_of_numbers_are_equal_however_they_are_written() -> None:
    holds(
        [
            ("x>2", r"(2,\infty)"),
            ("x>2", "2<x"),
            (r"(-\infty,1)\cup(1,\infty)", r"x\neq 1"),
            (r"\{x \mid x>2\}", r"x\in(2,\infty)"),
        ],
        [
            ("x>2", r"[2,\infty)"),
            ("x>2", "y>2"),
            (r"x=1\text{ and }x=2", r"x=3\text{ and }x=4"),
            (r"(1,2)\text{ and }(3,4)", r"(5,6)\text{ and }(7,8)"),
        ],
    )


def test_units_are_left_out_or_the_same() -> None:
    holds(
        [(r"12\text{ cm}", "12"), ("12", r"12\text{ cm}"), (r"60\text{ mph}", "60 miles per hour")],
        [(r"12\text{ cm}", r"12\text{ m}"), (r"\$5", r"5\text{ cents}"), (r"30^\circ", r"30\%")],
    )


def test_what_is_done_to_a_number_is_not_the_number() -> None:
    applied = [
        r"\text{floor}(204)",
        r"\operatorname{floor}(204)",
        r"\operatorname{eval}(204)",
        r"\text{the square of }204",
        r"\text{twice }204",
        r"204\text{ to the power of two}",
        r"204\text{ doubled}",
        r"204\text{ tens}",
        r"\text{rev}\left(204\right)",
    ]
    holds([("204", r"204\text{ ways}")], [("204", answer) for answer in applied])


def test_integrals_are_math_verifys_and_confirmed(monkeypatch: pytest.MonkeyPatch) -> None:
    integral = r"\int_0^1 x^2 dx"
    holds([(integral, r"\frac{1}{3}")], [(integral, r"\frac{1}{2}")])
    import math_verify

    monkeypatch.setattr(math_verify, "verify", lambda *readings, **options: True)
    holds([(integral, r"\frac{1}{3}")], [(integral, r"\frac{1}{2}"), (r"\int x dx", r"\int y dx")])


def test_what_cannot_be_read_is_equal_to_its_own_writing_alone() -> None:
    for text in (r"\cancel{5}", "5 +", r"\foo(x)", "two 2 2"):
        with pytest.raises(Unread):
            read(text)
    holds([(r"\foo (x)", r"\foo(x)")], [("5", r"\cancel{5}"), (r"\foo(x)", "x")])


def test_reading_says_of_each_symbol_what_it_is() -> None:
    def kinds(node: Node) -> set[str]:
        return {type(one).__name__ for one in below(node)}

    assert kinds(read("(1, x)")) == {"Bracketed", "Number", "Name"}
    assert kinds(read("x = 2, 5")) == {"Several", "Relation", "Name", "Number"}
    assert kinds(read(r"\text{Alice}: 3\text{ cm}")) == {"Labelled", "Quantity", "Number"}


@pytest.mark.parametrize("answer", [text for name, text in ANSWERS.items() if name != "integral"])
def test_hostile_answers_are_refused_and_not_evaluated(answer: str) -> None:
    assert math.is_equal("204", answer) is False  # without an end, if it were evaluated


def test_capitals_side_by_side_are_an_order() -> None:
    holds(
        [("CAB", r"\text{CAB}"), ("pq", "qp"), ("2AB", "2BA"), ("ABC", "ABC")],
        [("CAB", "ABC"), ("CAB", r"A\cdot B\cdot C"), ("SOS", "S^2O"), (r"\text{DCBA}", "ABCD")],
    )


def test_words_between_two_factors_multiply_nothing() -> None:
    holds(
        [("x^2+1", r"x^2+1\text{ for all }x"), ("36", r"12\text{ cm}\cdot 3")],
        [
            ("2x", r"2\text{ if }x"),
            ("x^2+x", r"x^2+1\text{ for all }x"),
            ("12x", r"12\text{ cm }x"),
            ("2n", r"2\text{ for odd }n"),
        ],
    )


def test_values_of_several_unknowns_hold_together() -> None:
    holds(
        [
            ("a=2,b=3", "(b,a)=(3,2)"),
            ("(a,b)=(2,3)", "b=3,a=2"),
            (r"x=2\text{ or }x=3", "x=2,x=3"),
            ("(2,3)", r"x=2\text{ and }y=3"),
        ],
        [
            ("a=2,b=3", r"a=2\text{ or }b=3"),
            (r"a=2\text{ or }b=3", "a=2,b=3"),
            ("(2,3)", r"x=2\text{ or }y=3"),
            ("(a,b)=(2,3)", "a=3,b=2"),
            ("(a,b)=(2,3)", r"a=2\text{ or }b=3"),
        ],
    )


def test_a_number_of_turns_has_any_name() -> None:
    holds(
        [
            (r"\frac{\pi}{4}+k\pi", r"n\pi+\frac{\pi}{4}, n\in\mathbb{Z}"),
            (r"x=2k\pi, k\in\mathbb{Z}", r"2\pi n"),
            (r"30^\circ+180^\circ k", r"180^\circ n+30^\circ"),
        ],
        [
            (r"k\pi", r"2n\pi"),
            ("2k+1", "2n+1"),
            (r"k\pi x", r"x\pi n^2"),
            (r"k+\pi", r"n+\pi"),
            (r"x=2k\pi, k\in\mathbb{Z}", "k"),
            (r"n\pi r", r"n\pi k"),
        ],
    )


def test_a_colon_makes_a_time_or_a_ratio_as_gold_does() -> None:
    holds(
        [("3:5", "6:10"), (r"3:15\text{ p.m.}", r"3{:}15\text{ PM}"), ("1{:}30", "1:30")],
        [
            ("6:10", "3:5"),
            ("3:5", "3:05"),
            (r"3:15\text{ PM}", r"\frac{1}{5}"),
            ("3:15 pm", "3:15 am"),
        ],
    )


def test_percent_and_degrees_belong_to_the_whole_mixed_number() -> None:
    holds(
        [(r"\frac{1}{3}", r"33\frac{1}{3}\%"), (r"22.5^\circ", r"22\frac12^\circ")],
        [("0.11", r"33\frac{1}{3}\%")],
    )


def test_the_empty_set_is_no_element() -> None:
    holds([(r"\emptyset", r"\varnothing")], [(r"\emptyset", r"\{\emptyset\}")])


def test_binomials_and_factorials_are_read_in_each_writing() -> None:
    holds(
        [
            (r"\binom{6}{3}", r"{6 \choose 3}"),
            ("20", r"\frac{6!}{3!3!}"),
            (r"\frac12", r"\frac12\ "),
        ],
        [(r"\binom{6}{3}", r"{3 \choose 6}"), ("36", r"6!3!"), ("63", r"6\ 3")],
    )


@pytest.mark.parametrize(
    ("answer", "golds"),
    [
        (r"\textbf{(B)}\ \frac{1}{2}", ["B", "(B)", r"\text{(B)}", r"\frac12"]),
        (r"\textbf{(B)}\ \textbf{(C)}", []),
        (r"\textbf{(B)}\text{ or }\textbf{(C)}", []),
    ],
)
def test_an_option_with_its_value_is_the_option_or_the_value(answer: str, golds: list[str]) -> None:
    right = [
        gold
        for gold in ["B", "(B)", r"\text{(B)}", r"\frac12", "C", "A", "2"]
        if check_math(gold, rf"\boxed{{{answer}}}", finish_reason="stop", where="boxed")[0]
        == "correct"
    ]
    assert right == golds
