r"""Megabytes of anything get a verdict before the deadline: every search is linear."""

from __future__ import annotations

import pytest

from dgpo_cli.rewards.answer import extract
from dgpo_cli.rewards.pool import WorkerPool
from dgpo_cli.rewards.protocol import Check
from dgpo_cli.rewards.settings import Extract

BOTH: Extract = "boxed-or-answer-line"
UNITS = [
    "{",
    "}",
    "[",
    r"\[",
    r"\boxed{",
    r"\boxed{}",
    r"\boxed ",
    r"\boxed 2",
    r"\boxed{\boxed{ }}",
    r"\frac{1}{",
    "\\",
    " ",
    "\n",
    "7",
    ",",
    "1,",
    "1,000,",
    "2^",
    "1/",
    "=",
    "a=1 ",
    "answer ",
    "nswerNSWER",
    "Answer:",
    "Answer:\n",
    "Answer:        ",
    "<answer>",
    "<think>",
    "５",
]
WRAPS = ["{}", r"\boxed{{{}}}", r"\boxed{{1}}{}", "Answer: {}"]
HOSTILE_CHARS = 2_000_000


def hostile_outcomes(units: list[str], wraps: list[str], where: Extract) -> list[str]:
    check = Check("dgpo_cli.rewards.answer:check_integer", {"where": where})
    tasks = []
    for unit in units:
        for wrap in wraps:
            tasks.append(("204", wrap.format(unit * (HOSTILE_CHARS // len(unit))), "stop"))
    with WorkerPool(check, workers=2, timeout_s=5) as pool:
        return [verdict for verdict, _ in pool.run(tasks)]


@pytest.mark.parametrize("unit", ["{", r"\boxed{", " ", "7", ",", "Answer:"])
def test_two_megabytes_of_anything_are_judged_before_the_deadline(unit: str) -> None:
    assert set(hostile_outcomes([unit], ["{}"], BOTH)) <= {"wrong", "no_answer"}


@pytest.mark.slow
@pytest.mark.parametrize("where", ["boxed", "answer-line", BOTH, "last-number"])
def test_two_megabytes_of_everything_are_judged_before_the_deadline(where: Extract) -> None:
    assert set(hostile_outcomes(UNITS, WRAPS, where)) <= {"wrong", "no_answer", "out_of_range"}


def test_deeply_nested_boxes_end_in_the_outermost() -> None:
    depth = 100_000
    text = r"\boxed{" * depth + "204" + "}" * depth
    found = extract(text, where="boxed")
    assert found is not None
    assert found.text == text[len(r"\boxed{") : -1]
