r"""Megabytes of anything get a verdict before the deadline: every search is linear."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from dgpo_cli.rewards.answer import check_integer
from dgpo_cli.rewards.protocol import Check
from dgpo_cli.rewards.reading.extract import extract
from dgpo_cli.rewards.settings import Extract
from dgpo_cli.rewards.workers.pool import WorkerPool
from tests.rewards.hostile import ANSWERS

BOTH: Extract = "boxed-or-answer-line"
GIB_IN_KIB = 1 << 20
SLACK_S = 2.0  # to notice that a deadline has passed, on a busy machine
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


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS.keys())
def test_the_integer_checker_evaluates_nothing(answer: str) -> None:
    verdict, _ = check_integer("204", rf"\boxed{{{answer}}}", finish_reason="stop", where=BOTH)
    assert verdict == "wrong"


def ordeal(kind: str, *, timeout_s: float) -> dict[str, Any]:
    """What tests/rewards/hostile.py reports; holds what is true of every checker."""
    command = [sys.executable, "-m", "tests.rewards.hostile", kind, str(timeout_s)]
    result = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    assert result["probes"] == ["correct"]  # no other task was blocked or lost
    assert result["left"] == []
    assert result["slowest_s"] < timeout_s + SLACK_S, result["slowest"]
    assert result["rss_kib"] < GIB_IN_KIB
    return result


def test_a_worker_never_holds_more_than_a_gibibyte() -> None:
    result = ordeal("memory", timeout_s=20)
    assert result["outcomes"] == {"allocations without end": "crash"}
    assert result["rss_kib"] > GIB_IN_KIB / 2  # it was memory that it asked for, and got


@pytest.mark.slow
def test_no_hostile_completion_outlasts_the_integer_checkers_deadline() -> None:
    outcomes = ordeal("integer", timeout_s=5)["outcomes"]
    assert set(outcomes.values()) == {"wrong", "no_answer"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["math", "second"])
def test_no_hostile_answer_outlasts_the_deadline_of_the_math_checker(kind: str) -> None:
    outcomes = ordeal(kind, timeout_s=2)["outcomes"]
    assert "correct" not in outcomes.values()
