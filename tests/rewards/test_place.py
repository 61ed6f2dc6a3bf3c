r"""Where an answer stands: a box that is part of an expression, several boxes, lines of prose."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dgpo_cli.prompts.files import final_answer
from dgpo_cli.rewards.answer import check_integer
from dgpo_cli.rewards.math import check_math
from dgpo_cli.rewards.reading.extract import extract, find_answer
from dgpo_cli.rewards.reading.stated import looks_like_answer, stated

PART_OF = [
    (r"\boxed{7}<x", "7<x"),
    (r"$\boxed{7}, 8, 9$", "7,8,9"),
    (r"$5, \boxed{7}$", "5,7"),
    (r"$-\boxed{7}$", "-7"),
    (r"The answer is -\boxed{7}.", "-7"),
    (r"$x=-\boxed{7}$", "-7"),
    (r"$\pm\boxed{7}$", r"\pm7"),
    (r"$5 - \boxed{7}$", "5-7"),
    (r"$\frac{\boxed{7}}{2}$", r"\frac{7}{2}"),
    (r"$\dfrac{3}{\boxed{7}}$", r"\dfrac{3}{7}"),
    ("\\[\n\\frac{\n\\boxed{7}\n}{2}\n\\]", r"\frac{7}{2}"),
    (r"$\frac{\boxed{7}}{\boxed{16}}$", r"\frac{7}{16}"),
    (r"\\frac{\\boxed{7}}{2}", r"\frac{7}{2}"),
    (r"10^{\boxed{7}}", "10^{7}"),
    (r"$x_{\boxed{7}}$", "x_{7}"),
    (r"\sqrt{\boxed{7}}", r"\sqrt{7}"),
    (r"\sqrt[3]{\boxed{7}}", r"\sqrt[3]{7}"),
    (r"$\binom{\boxed{7}}{2}$", r"\binom{7}{2}"),
    (r"$\overline{\boxed{7}}$", r"\overline{7}"),
    (r"$\cancel{\boxed{7}}$", r"\cancel{7}"),
    (r"$|\boxed{-7}|$", "|(-7)|"),
    (r"$f(\boxed{7})$", "f(7)"),
    (r"$\log_2 \boxed{7}$", r"\log_2(7)"),
    (r"2\cdot\boxed{7}", r"2\cdot7"),
    (r"2 \times \boxed{7} = 14", r"2\times7"),
    (r"$2\boxed{7}$", "2(7)"),
    (r"$\boxed{7}!$", "7!"),
    (r"$\boxed{7}^2$", "7^2"),
    (r"$\boxed{7}_8$", "7_8"),
    (r"$\boxed{7}\%$", r"7\%"),
    (r"$\boxed{7}\pi$", r"7\pi"),
    (r"$\boxed{7}\sqrt{2}$", r"7\sqrt{2}"),
    (r"$\boxed{7}x$", "7x"),
    (r"$\boxed{7} + 3$", "7+3"),
    (r"$\boxed{7}/2$", "7/2"),
    (r"$\boxed{7}\cdot 10^3$", r"7\cdot10^3"),
    (r"$\boxed{7},000$", "7,000"),
    (r"$\boxed{7}.5$", "7.5"),
    (r"$\boxed{x^2} + C$", "(x^2)+C"),
    (r"$n \ge \boxed{7}$", r"\ge7"),
    (r"$n \neq \boxed{7}$", r"\neq7"),
    (r"n != \boxed{7}", "!=7"),
    (r"$\boxed{7} < n$", "7<n"),
    (r"$(\boxed{7}, 3)$", "(7,3)"),
    (r"$(3, \boxed{7})$", "(3,7)"),
    (r"$\{\boxed{7}, 3\}$", r"\{7,3\}"),
    (r"$(x,y) = (\boxed{3}, \boxed{4})$", "(3,4)"),
    (r"$3:\boxed{7}$", "3:7"),
    (r"The answer is not \boxed{7}", r"\text{not}7"),
    (r"minus $\boxed{7}$", r"\text{minus}7"),
    (r"$\boxed{7}$ percent", r"7\text{percent}"),
    (r"\boxed{7} million people", r"7\text{million}"),
    (r"\boxed{7} or more", r"7\text{ormore}"),
]
ALONE = [
    r"\boxed{7}<br>",
    r"For $n = 5$, \boxed{7}, which has 2 digits",
    r"So $x=5, \boxed{7}$",
    r"- \boxed{7}",
    r"* \boxed{7}",
    r"1. \boxed{7}",
    r"> \boxed{7}",
    r"**\boxed{7}**",
    r"*\boxed{7}* (the answer)",
    r"Answer - \boxed{7}",
    r"The answer is \boxed{7}!",
    r"So $\boxed{7}$!",
    r"$x+y=\boxed{7}$",
    r"$x^2+y^2=\boxed{7}$",
    r"$2x = \boxed{7}$",
    r"$x \approx \boxed{7}$",
    r"$3 + 4 = \boxed{7}$",
    r"$\Rightarrow \boxed{7}$",
    r"-> \boxed{7}",
    r"<answer>\boxed{7}</answer>",
    r"\boxed{7}<|im_end|>",
    r"(the answer is \boxed{7})",
    r"(see \boxed{7}, which is prime)",
    r"$(\boxed{7})$",
    r"$\left(\boxed{7}\right)$",
    r"\textbf{Answer: \boxed{7}}",
    r"$\mathbf{\boxed{7}}$",
    r"$\underline{\boxed{7}}$",
    r"\textcolor{red}{\boxed{7}}",
    r"{\color{red}\boxed{7}}",
    r"\text{The answer is }\boxed{7}",
    r"$\displaystyle\boxed{7}$",
    r"$\begin{aligned} x &= 2 \\ &= \boxed{7} \end{aligned}$",
    r"$\boxed{7}^\circ$",
    r"$\boxed{7}^{\text{th}}$",
    r"$\boxed{7}_{10}$",
    r"$\boxed{7}\text{ cm}^2$",
    r"$\boxed{7} \mu \mathrm{m}$",
    r"$\boxed{7} \pmod{1000}$",
    r"\$\boxed{7}",
    r"a \boxed{7}-gon",
    r"\boxed{7}, as desired",
    r"Problem 5 \boxed{7}",
    r"$x^2$ \boxed{7} $y$",
    r"3\frac{5}{8}, which is \boxed{7}.",
    r"\framebox[2cm][c]{7}",
]


@pytest.mark.parametrize(("text", "whole"), PART_OF)
def test_a_box_that_is_part_of_an_expression_is_the_expression(text: str, whole: str) -> None:
    found = extract(text, where="boxed")
    assert found is not None
    assert found.text.replace(" ", "") == whole
    assert check_integer("7", text, finish_reason="stop", where="boxed")[0] == "wrong"


@pytest.mark.parametrize("text", ALONE)
def test_a_box_among_words_units_and_right_sides_is_the_answer(text: str) -> None:
    found = extract(text, where="boxed")
    assert found is not None
    assert found.text == "7"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (r"The roots are \boxed{2} and \boxed{5}.", ("2", "5")),
        (r"$x=\boxed{2}$ or $x=\boxed{5}$", ("2", "5")),
        (r"$\boxed{(2, 2)} \text{ and } \boxed{(6, 2)}$", ("(2, 2)", "(6, 2)")),
        (r"\boxed{1}, \boxed{2}, and \boxed{3}", ("1", "2", "3")),
        (r"\boxed{1}\text{, }\boxed{2}\text{, and }\boxed{3}", ("1", "2", "3")),
    ],
)
def test_boxes_that_are_joined_are_a_list_of_which_every_one_must_be_right(
    text: str, parts: tuple[str, ...]
) -> None:
    found = extract(text, where="boxed")
    assert found is not None
    assert (found.text, found.parts) == (", ".join(parts), parts)
    for part in parts:
        assert check_integer("2", text, finish_reason="stop", where="boxed")[0] == "wrong"
        same = text.replace(part, "2") if part.isdigit() else None
        text = same or text
    if parts[0].isdigit():
        assert check_integer("2", text, finish_reason="stop", where="boxed")[0] == "correct"


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("The final answer is 7.25.", "7.25."),
        ("The probability is 1/2", "1/2"),
        (r"The final answer is \((-3, 8)\).", r"\((-3, 8)\)."),
        ("The largest n is 34.", "34."),
        ("The remainder when N is divided by 1000 is 34.", "34."),
        ("For $a=3$, the largest $n$ is 34", "34"),
        ("The sum is $3+4$, so the answer is 7", "7"),
        (r"It is $\frac12$ because $x=2$.", r"$\frac12$"),
        ("The roots are 2 and 5.", "2 and 5."),
        ("The winner is Alice.", "Alice."),
        ("It's 34", "34"),
        ("We get $\\frac12$.", "$\\frac12$."),
        ("He has 7 apples.", "7 apples."),
        ("The maximum is $5$ when $x=1$", "$5$"),
        ("The limit is 1/2 as $n \\to \\infty$.", "1/2"),
        ("It is 12 if n is even", "12"),
        ("It is 5 for odd n, 6 for even n", "5 for odd n, 6 for even n"),
        ("$5$ for $n=1$, $6$ for $n=2$", "$5$ for $n=1$, $6$ for $n=2$"),
        ("$\\frac12$, i.e. 0.5", "$\\frac12$"),
    ],
)
def test_a_sentence_states_what_stands_behind_its_verb(line: str, answer: str) -> None:
    assert stated(line) == answer
    assert looks_like_answer(answer)


@pytest.mark.parametrize(
    "line",
    [
        "x is 5, y is 34",
        "p is 3 and q is 34",
        "The answer is not 34",
        "It isn't 34",
        "2x is 34",
        "Half of n is 34",
        "If n is odd the answer is 34",
        "It is impossible to say; n is 34",
        "The number is as follows",
        "$x = 5$ is the only solution",
        "He has not 34",
        "204",
    ],
)
def test_a_sentence_that_denies_or_says_more_is_left_as_it_is(line: str) -> None:
    assert stated(line) == line


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("We get \\boxed{17} cases in step 1.\n\nFinal answer: 204", "204"),
        ("First \\boxed{p^2} is positive.\n\n**Answer: $\\frac{1}{2}$**", r"$\frac{1}{2}$**"),
        ("\\boxed{204}\n\nAnswer: see the box above, in section 3 of 4", "204"),
        ("\\boxed{204}\n\nAnswer: see above", "204"),
        ("\\boxed{204}. (A common wrong answer: 205.)", "204"),
        ("Answer: 216\nNo: \\boxed{204}", "204"),
        ("We get \\boxed{17}. <answer>204</answer>", "204"),
        ("<answer>17</answer> or rather \\boxed{204}", "204"),
    ],
)
def test_an_answer_line_behind_the_box_wins_if_it_gives_an_answer(text: str, answer: str) -> None:
    found = find_answer(text, where="boxed-or-answer-line", is_answer=looks_like_answer)
    assert found is not None
    assert found.text == answer


CASES = Path(__file__).parent / "cases"


@pytest.mark.parametrize(
    ("file", "check"),
    [
        ("integer_cases.jsonl", check_integer),
        ("place_cases.jsonl", check_math),
        ("math_cases.jsonl", check_math),
    ],
)
def test_every_case_gets_the_verdict_that_it_wants(file: str, check: Any) -> None:
    """`dgpo check --kind integer`, or math, prints the same."""
    lines = (CASES / file).read_text(encoding="utf-8").splitlines()
    wrong = []
    for case in map(json.loads, lines):
        gold = final_answer(case["gold"])
        outcome, answer = check(
            gold, case["output"], finish_reason="stop", where="boxed-or-answer-line"
        )
        if (outcome == "correct") != (case["want"] == "correct"):
            wrong.append((case, answer))
    assert wrong == []
