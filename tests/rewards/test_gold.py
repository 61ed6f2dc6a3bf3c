r"""Gold answers that nothing can be compared with are refused; every style of answer is not."""

from __future__ import annotations

import pytest

from dgpo_cli.rewards.gold import why_unusable

UNUSABLE = [
    ("", "is empty"),
    (" \n", "is empty"),
    ("$ $", "has no content"),
    (r"\boxed{}", "has no content"),
    ("?", "has no content"),
    ("N/A", "placeholder"),
    (r"\text{N/A}", "placeholder"),
    ("None", "placeholder"),
    ("nan", "placeholder"),
    ("See the solution.", "placeholder"),
    ("Answers may vary.", "placeholder"),
    ("Proof. Let n be odd.", "proof"),
    (r"\begin{proof} By induction. \end{proof}", "proof"),
    ("We prove it by induction.", "proof"),
    (r"Hence $a=b$. $\blacksquare$", "proof"),
    ("x = 1\ny = 2", "has 2 lines"),
    ("the function rises on the first half and then it falls on the other one", "is a text of 15"),
    ("(1,", "incomplete"),
    ("[1, 2", "incomplete"),
    ("((1, 2)", "incomplete"),
    (r"\{1, 2", "incomplete"),
    (r"\frac{1}{2", "incomplete"),
    ("x =", "incomplete"),
    ("1" * 5000, "has 5,000 characters"),
    ("3 +", "incomplete"),
]
USABLE = [
    "0",
    "-3",
    "1,000",
    r"\frac{1}{2}",
    r"50\%",
    r"\$5",
    "$5",
    "$x$",
    "$$\nx^2\n$$",
    "x^2+y^2=25",
    "(1, 2]",
    "[1, 2)",
    "]1, 2[",
    "]1, 2]",
    r"[0,1] \cup [2,3)",
    r"\left[0, 1\right)",
    r"\left\{x\right.",
    r"\{1, 2\}",
    r"(-\infty, 2) \cup (3, \infty)",
    "\\begin{pmatrix} 1 \\\\\n 2 \\end{pmatrix}",
    r"f(x)=\begin{cases} 1 & x>0 \\ 0 & x \le 0\end{cases}",
    r"\emptyset",
    "no solution",
    r"\text{None}",
    "Alice",
    "(A)",
    "A)",
    "n!",
    "2 and 5",
]


@pytest.mark.parametrize(("gold", "reason"), UNUSABLE)
def test_a_gold_that_nothing_can_be_compared_with_is_refused(gold: str, reason: str) -> None:
    assert reason in (why_unusable(gold) or "")


@pytest.mark.parametrize("gold", USABLE)
def test_every_style_of_answer_can_be_compared_with(gold: str) -> None:
    assert why_unusable(gold) is None
