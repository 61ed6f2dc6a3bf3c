"""Reward functions of the user's: how they are called, what they return, how they fail."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dgpo_cli.core.errors import DgpoError
from dgpo_cli.core.types import Message, Verdict
from dgpo_cli.rewards.grader import GradeItem, Grader
from dgpo_cli.rewards.settings import PythonReward
from tests.rewards import functions

ITEM = GradeItem("7", "", prompt_id="p", messages=(Message("user", "3+4?"),))


def own(name: str, **settings: Any) -> PythonReward:
    return PythonReward(path=f"{functions.PATH}:{name}", workers=1, **settings)


def grade(name: str, *items: GradeItem | str, **settings: Any) -> list[Verdict]:
    given = [replace(ITEM, text=each) if isinstance(each, str) else each for each in items]
    with Grader(own(name, **settings)) as grader:
        return grader.grade(given)


def test_what_a_function_may_return_is_what_is_scored_and_the_rest_is_an_error() -> None:
    names = list(functions.RETURNED)
    found = dict(zip(names, grade("returns", *names), strict=True))
    good = {
        name: (verdict.outcome, verdict.reward, verdict.note)
        for name, verdict in found.items()
        if verdict.is_scored
    }
    assert good == {
        "number": ("scored", 0.25, None),
        "whole": ("scored", 3.0, None),
        "true": ("correct", 1.0, None),
        "false": ("wrong", 0.0, None),
        "pair": ("wrong", 0.5, None),
        "triple": ("correct", 1.0, "returns: well done"),
        "noted": ("scored", 0.5, "returns: half"),
        "scalar": ("scored", 1.5, None),
        "truth": ("correct", 1.0, None),
    }
    bad = {name: each.note for name, each in found.items() if not each.is_scored}
    assert {each.outcome for each in found.values() if not each.is_scored} == {"error"}
    assert bad["none"] == "no term of the reward applies"
    assert bad["nan"] == "returns: returned nan"
    assert bad["infinite"] == bad["huge"] == "returns: returned inf"
    assert bad["text"] == "returns: returned a str; return a number, True, False or None"
    assert bad["outcome"].startswith("returns: returned outcome 'fine'; say correct or wrong")


def test_correct_at_makes_a_score_an_outcome_unless_the_function_said_one() -> None:
    found = grade("returns", "number", "whole", "pair", correct_at=0.5)
    assert [each.outcome for each in found] == ["wrong", "correct", "wrong"]
    assert [each.reward for each in found] == [0.25, 3.0, 0.5]


def test_a_failure_is_of_its_completion_alone_and_says_what_happened(tmp_path: Path) -> None:
    log = tmp_path / "log"
    texts = ["a", "hang", "raise", "leave", "exit", "eat", "b"]
    with Grader(own("misbehaves", timeout_s=1, memory_gib=2), log=log) as grader:
        found = grader.grade([replace(ITEM, text=text) for text in texts])
    assert [each.outcome for each in found] == [
        "scored",
        "timeout",
        *["error"] * 4,
        "scored",
    ]
    line = functions.misbehaves.__code__.co_firstlineno
    place = "misbehaves: tests/rewards/functions.py, line"
    notes = [each.note for each in found[1:-1]]
    assert notes == [
        "misbehaves: took longer than timeout_s=1",
        f"{place} {line + 8}: ZeroDivisionError: division by zero",
        "misbehaves: the worker process ended (exit code 7)",
        f"{place} {line + 10}: SystemExit: bye",
        "misbehaves: out of memory with memory_gib=2",
    ]
    assert log.read_text().splitlines() == [f"printed for {text}" for text in texts]


def test_a_batch_gets_the_columns_it_asks_for_as_lists() -> None:
    rows = [replace(ITEM, text=text, columns={"unit": u, "x": 1}) for text, u in ("mm", "ms")]
    assert [(v.outcome, v.note) for v in grade("batch", *rows)] == [
        ("correct", "batch: m"),
        ("wrong", "batch: s"),
    ]


def test_a_function_with_columns_gets_all_and_one_that_names_a_missing_one_fails() -> None:
    row = replace(ITEM, text="a", columns={"unit": "m", "level": [1, {"b": None}]})
    (found,) = grade("sizes", row)
    assert found.note == "sizes: ['answer', 'level', 'unit'] ['a']"
    (missing,) = grade("batch", replace(ITEM, columns={"x": 1}))
    assert missing.note == "batch: no column 'unit' for the parameter of that name, only 'answer'"


def test_a_function_gets_the_completion_with_its_prompt() -> None:
    item = replace(ITEM, text="t", token_ids=(3, 5), finish_reason="length")
    (found,) = grade("everything", item)
    assert found.note == (
        "everything: RewardCompletion(text='t', token_ids=(3, 5), finish_reason='length', "
        "messages=(Message(role='user', content='3+4?'),), answer='7', prompt_id='p') 7 m"
    )


def test_a_call_has_batch_size_completions_and_with_group_one_group() -> None:
    items = [replace(ITEM, text=str(n), group=n // 3) for n in range(7)]
    assert [each.reward for each in grade("sizes", *items, batch_size=4)] == [4.0] * 4 + [3.0] * 3
    found = grade("sizes", *items, batch_size=2, group=True)
    assert [each.reward for each in found] == [3.0] * 6 + [1.0]
    assert found[4].note == "sizes: ['answer'] ['3', '4', '5']"


def test_a_batch_fails_as_a_whole() -> None:
    (first, second) = grade("all_fail", "a", "raise")
    assert first.note == second.note
    assert first.note is not None and "ZeroDivisionError" in first.note
    short = grade("too_few", "a", "b", "c")
    assert {each.note for each in short} == {"too_few: returned 2 scores for 3 completions"}
    assert {each.outcome for each in short} == {"error"}


def test_calls_of_an_async_function_run_at_the_same_time_each_with_the_deadline() -> None:
    began = time.monotonic()
    found = grade("waits", *["a"] * 30, "late", timeout_s=2)
    assert time.monotonic() - began < 0.4 * 30  # one after the other would take
    assert [each.outcome for each in found] == ["scored"] * 30 + ["timeout"]
    assert grade("waits_for_all", "a", "b")[1].reward == 3.0


def test_a_blocking_call_among_async_ones_is_found_by_trying_each_alone() -> None:
    found = grade("waits", "a", "hang", "b", timeout_s=1)
    assert [each.outcome for each in found] == ["scored", "timeout", "scored"]


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("unnamed", {}, "unnamed: its first parameter is 'text'; name it completion to get one"),
        ("NOT_A_FUNCTION", {}, "is an int; name a function"),
        ("returns", {"group": True}, "takes one completion, and group = true"),
        ("no_such_name", {}, "no_such_name"),
    ],
)
def test_a_function_that_cannot_be_called_is_refused_before_it_is(
    name: str, settings: dict[str, Any], message: str
) -> None:
    with Grader(own(name, **settings)) as grader, pytest.raises(DgpoError, match=message) as caught:
        grader.open()
    assert "\n" not in str(caught.value)


def test_a_worker_that_starts_later_refuses_other_code(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("import os\ndef score(completion): return os._exit(1)")
    settings = PythonReward(path=f"{file}:score", workers=1)
    with Grader(settings) as grader:
        assert grader.grade([ITEM])[0].outcome == "error"
        file.write_text("def score(completion): return 1")
        with pytest.raises(DgpoError, match=r"mine\.py has changed since its first worker was"):
            grader.grade([ITEM])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def score(completion)\n    return 1", r"mine\.py, line 1: SyntaxError: expected ':'"),
        ("import nothing_of_that_name", r"mine\.py, line 1: ModuleNotFoundError"),
    ],
)
def test_a_file_that_does_not_load_is_refused_with_its_line(
    tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "mine.py").write_text(text)
    settings = PythonReward(path=f"{tmp_path}/mine.py:score", workers=1)
    with Grader(settings) as grader, pytest.raises(DgpoError, match=message):
        grader.open()
