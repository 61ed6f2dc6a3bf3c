"""Laws of dgpo check --reward: a reward is tried on a file before a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dgpo_cli.doctor.cases import Case, read_cases
from dgpo_cli.rewards.settings import PythonReward
from tests.cli.helpers import Ended, in_process

FUNCTIONS = """
def length(completions, unit=None):
    print("asked for", len(completions))
    return [len(each.text) / 10 for each in completions]

def right(completion, answer):
    if completion.text == "bad":
        raise ValueError("no good")
    return answer in completion.text

def best(completions):
    most = max(len(each.text) for each in completions)
    return [len(each.text) == most for each in completions]

def told(completion, **columns):
    return 1.0, None, f"{[m.content for m in completion.messages]} {sorted(columns)}"
"""


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(FUNCTIONS)


def check(*arguments: str, lines: list[dict[str, Any]]) -> Ended:
    Path("f.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = in_process("check", "f.jsonl", "--set", "reward.workers=1", *arguments)
    return Ended(result.exit_code, result.stdout, result.stderr)


def scores(ended: Ended) -> list[float | None]:
    return [json.loads(line)["reward"] for line in ended.out.splitlines()]


def test_a_reward_scores_each_line_and_its_distribution_is_below() -> None:
    lines = [{"output": "x" * n} for n in (1, 2, 3, 10)]
    ended = check("--reward", "own.py:length", lines=lines)
    assert ended.code == 0
    rows = [line.split() for line in ended.out.splitlines()]
    assert rows[0] == ["line", "outcome", "reward", "note"]
    assert rows[1:5] == [[str(n), "scored", r] for n, r in
                         ((1, "0.100"), (2, "0.200"), (3, "0.300"), (4, "1.000"))]  # fmt: skip
    assert rows[7][:7] == ["reward", "0.400", "0.354", "0.100", "0.250", "1.000", "4"]
    assert "4 checked: 4 scored" in ended.out
    assert "printed: asked for 4" in ended.err


def test_a_failure_has_no_score_says_why_and_exits_with_1() -> None:
    lines = [{"output": text, "gold": "7"} for text in ("7", "bad", "8", "bad")]
    ended = check("--reward", "own.py:right", "--json", lines=lines)
    assert ended.code == 1
    assert scores(ended) == [1.0, None, 0.0, None]
    assert "error: 2 completions unscored: right: own.py, line 8: ValueError: no good" in ended.err


@pytest.mark.parametrize(("want", "code"), [("correct", 0), (1, 0), ("wrong", 1), (0.5, 1)])
def test_a_line_may_want_an_outcome_or_a_reward(want: str | float, code: int) -> None:
    ended = check("--reward", "own.py:right", lines=[{"output": "7", "answer": 7, "want": want}])
    assert ended.code == code
    assert (f"<- want {want}" in ended.out) == bool(code)


def test_the_terms_of_a_file_are_shown_each_with_its_own_distribution() -> None:
    Path("c.toml").write_text(
        '[[reward.terms]]\nkind = "integer"\n'
        '[[reward.terms]]\nkind = "python"\npath = "own.py:length"\nweight = 0.5\n'
    )
    lines = [{"output": r"\boxed{7}", "gold": "7"}, {"output": "seven", "gold": "7"}]
    ended = check("--config", "c.toml", "--set", "reward.terms.length.weight=2", lines=lines)
    rows = [line.split() for line in ended.out.splitlines()]
    assert rows[0] == ["line", "outcome", "reward", "integer", "length", "note"]
    assert rows[1] == ["1", "correct", "2.800", "1.000", "0.900"]
    assert rows[2] == ["2", "no_answer", "1.000", "0.000", "0.500"]
    assert [row[0] for row in rows[5:8]] == ["integer", "length", "reward"]
    assert rows[6][1] == "0.700" and rows[7][1] == "1.900"


def test_completions_of_one_prompt_are_a_group_wherever_they_stand() -> None:
    lines = [
        {"prompt_id": "a", "output": "x"}, {"prompt_id": "b", "output": "x"},
        {"prompt_id": "a", "output": "xx"}, {"prompt_id": "b", "output": "x"},
    ]  # fmt: skip
    asked = ("--reward", "own.py:best", "--set", "reward.group=true")
    assert scores(check(*asked, "--json", lines=lines)) == [0.0, 1.0, 1.0, 1.0]
    assert "the reward differs in 1 of 2 groups" in check(*asked, lines=lines).out


def test_a_line_of_dgpo_rollout_is_read_as_training_has_it() -> None:
    line = {
        "version": 1, "prompt_id": "gsm/3", "index": 0, "completion": " so 7", "answer": "7",
        "messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Hm"}],
        "token_ids": [5, 6], "finish_reason": "length", "reward": 0.5, "unit": "m",
    }  # fmt: skip
    reward = PythonReward(path="own.py:told")
    (case,) = read_cases([json.dumps(line).encode()], reward=reward, parts=("gsm",))
    assert isinstance(case, Case)
    item = case.item
    assert (item.text, item.gold, item.finish_reason) == (" so 7", "7", "length")
    assert (item.prefix, item.part, item.token_ids) == ("Hm", "gsm", (5, 6))
    assert [turn.content for turn in item.messages] == ["Why?", "Hm"]
    assert item.columns == {"unit": "m"}
    ended = check("--reward", "own.py:told", lines=[line, {"output": "x", "prompt": "Who?"}])
    assert "['Why?', 'Hm'] ['answer', 'unit']" in ended.out
    assert "['Who?'] ['answer', 'prompt']" in ended.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--reward", "own.py:right", "--kind", "math"], "--kind: does not go with --reward"),
        (["--reward", "own.py:right", "--timeout", "3"], "give --set reward.timeout_s=..."),
        (["--reward", "own.py"], "name the function too, as in own.py:score"),
        (["--reward", "own.py:nothing"], "nothing"),
        ([], "--set reward.workers=1: goes with --reward or --config"),
    ],
)
def test_a_mistake_is_told_before_anything_is_scored(arguments: list[str], said: str) -> None:
    ended = check(*arguments, lines=[{"output": "1", "gold": "1"}])
    assert (ended.code, ended.out) == (2, "")
    assert said in ended.err


def test_a_broken_line_is_named_and_the_others_are_scored() -> None:
    lines = [{"output": "7", "gold": "7"}, {"gold": "7"}, {"output": "x", "token_ids": "12"}]
    ended = check("--reward", "own.py:right", "--json", lines=lines)
    assert ended.code == 2
    assert scores(ended) == [1.0]
    assert "line 2: no field 'output' (fields: 'gold')" in ended.err
    assert "line 3: token_ids=" in ended.err
