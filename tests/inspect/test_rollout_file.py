"""Laws of opening rollouts: lazily is the same as whole, and lines of other programs are read."""

from __future__ import annotations

import gzip
import json
import math
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgpo_cli.algo.advantages import AdvantageSettings
from dgpo_cli.core.errors import DataError
from dgpo_cli.core.formats import TrainedRecord
from dgpo_cli.inspect.imported import NAMES
from dgpo_cli.inspect.rollout_file import RolloutFile, _skimmed, open_rollouts, typed_rollout
from dgpo_cli.runs.rollouts import TOKEN_FIELDS

TRICKY = 'say "token_ids": [1, 2] and \\"weights\\": [3] ]['
STATS = {name: [0.5, None, 2.0] for name in TOKEN_FIELDS}
LINE: dict[str, Any] = {
    "version": 1,
    "prompt_id": "p",
    "prompt": TRICKY,
    "messages": [{"role": "user", "content": TRICKY}],
    "index": 0,
    "completion": TRICKY,
    "prompt_token_ids": [1, 2],
    "token_ids": [3, 4, 5],
    "sampling_logprobs": [-1.0, -2.0, -3.0],
    "reward": 1.0,
    "advantage": 0.5,
    "vocab_size": 9,
    "credit": {"rule": "dgpo", "tau": 0.5, "kappa": 1.0},
    **STATS,
}


def opened(tmp_path: Path, *lines: dict[str, Any], **dump: Any) -> RolloutFile:
    path = tmp_path / "x.jsonl"
    path.write_text("\n".join(json.dumps(line, **dump) for line in lines), encoding="utf-8")
    return open_rollouts(path)


@pytest.mark.parametrize("dump", [{}, {"separators": (",", ":")}, {"ensure_ascii": False}])
def test_a_line_opened_lazily_is_the_line(tmp_path: Path, dump: dict[str, Any]) -> None:
    line = opened(tmp_path, LINE, **dump).entries[0].line()
    assert line.prompt.text == line.completion.text == TRICKY
    assert (line.prompt_ids, line.completion.token_ids) == ((1, 2), (3, 4, 5))
    assert line.completion.sampling_logprobs == (-1.0, -2.0, -3.0)
    assert line.stats is not None
    assert line.stats.weights[::2] == (0.5, 2.0) and math.isnan(line.stats.weights[1])


@given(
    st.dictionaries(
        st.sampled_from(["completion", "token_ids", "weights", "x"]),
        st.recursive(
            st.none() | st.integers() | st.text() | st.just('"weights": ['),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.sampled_from(["weights", "token_ids", "y"]), inner, max_size=3)
            ),
            max_leaves=12,
        ),
    )
)
def test_columns_put_back_give_the_whole_line(line: dict[str, Any]) -> None:
    data = json.dumps(line).encode()

    def restored(value: Any) -> Any:
        if isinstance(value, dict) and "\0column" in value:
            start, stop = value["\0column"]
            return json.loads(data[start:stop])
        if isinstance(value, dict):
            return {key: restored(item) for key, item in value.items()}
        return [restored(item) for item in value] if isinstance(value, list) else value

    assert restored(_skimmed(data, 0, len(data), where="")) == line


def test_line_breaks_inside_of_texts_do_not_end_a_line(tmp_path: Path) -> None:
    line = {"prompt": "a\u2028b\x85c", "completion": "\u2029"}
    found = opened(tmp_path, line, line, ensure_ascii=False)
    assert [entry.line().prompt.text for entry in found.entries] == ["a\u2028b\x85c"] * 2


def test_bom_blank_lines_and_windows_line_ends_are_no_lines(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    line = json.dumps({"prompt": "a", "completion": "b"}).encode()
    path.write_bytes(b"\xef\xbb\xbf" + line + b"\r\n\r\n  \n" + line + b"\r\n")
    assert [entry.number for entry in open_rollouts(path).entries] == [1, 4]


@pytest.mark.parametrize(
    ("line", "prompt", "completion"),
    [
        ({"prompt": "q", "completion": "c"}, ["q"], "c"),
        ({"problem": "q", "response": "c"}, ["q"], "c"),
        ({"question": "q", "generation": "c"}, ["q"], "c"),
        ({"input": "q", "output": "c", "score": 1.0}, ["q"], "c"),
        (
            {"prompt": [{"role": "user", "content": "q"}], "completion": [{"content": "c"}]},
            ["q"],
            "c",
        ),
        (
            {
                "messages": [
                    {"role": "system", "content": "s"},
                    {"role": "user", "content": [{"type": "text", "text": "q"}]},
                    {"role": "assistant", "content": "c"},
                ]
            },
            ["s", "q"],
            "c",
        ),
    ],
)
def test_lines_of_other_programs_are_read(
    tmp_path: Path, line: dict[str, Any], prompt: list[str], completion: str
) -> None:
    found = opened(tmp_path, line)
    read = found.entries[0].line()
    assert [message.content for message in read.prompt.messages] == prompt
    assert read.completion.text == completion
    assert read.verdict is None and read.stats is None
    assert any("ended by itself" in text for text in found.assumed)


def test_what_is_assumed_is_said_once_and_only_where_it_was(tmp_path: Path) -> None:
    bare = {"problem": "q", "completion": "c", "finish_reason": "max_tokens"}
    found = opened(tmp_path, bare, bare)
    assert list(found.assumed) == [
        '"prompt" is taken from "problem"',
        "prompts are told apart by their text",
        "rewards and advantages are not known",
        "sampled at temperature 1",
        'finish_reason "max_tokens" means length',
    ]
    assert found.entries[0].line().completion.finish_reason == "length"
    assert opened(tmp_path, LINE).assumed == ()


def test_without_ids_prompts_are_groups_in_the_order_of_the_file(tmp_path: Path) -> None:
    texts = ["a", "b", "a", "a", "b"]
    found = opened(tmp_path, *({"prompt": text, "completion": text} for text in texts))
    places = [(entry.prompt_id, entry.index) for entry in found.entries]
    first, second = "prompt 0", "prompt 1"
    assert places == [(first, 0), (second, 0), (first, 1), (first, 2), (second, 1)]
    assert found.groups == (first, second)


def test_advantages_are_stored_ones_else_those_of_the_groups_rewards(tmp_path: Path) -> None:
    rewards = [1.0, 0.0, 0.0, None]
    lines = [
        {"prompt_id": "p" if reward is not None else "q", "prompt": "x", "completion": "y"}
        | ({} if reward is None else {"reward": reward})
        for reward in rewards
    ]
    found = opened(tmp_path, *lines, {**LINE, "prompt_id": "r", "advantage": -7.0})
    advantages = found.advantages(AdvantageSettings())
    deviation = math.sqrt(((2 / 3) ** 2 + 2 * (1 / 3) ** 2) / 2)
    assert advantages[1] == pytest.approx((2 / 3) / deviation, rel=1e-5)
    assert advantages[2] == pytest.approx((-1 / 3) / deviation, rel=1e-5)
    assert math.isnan(advantages[4])
    assert advantages[5] == -7.0


def test_an_unscored_completion_has_no_advantage_and_no_part_in_those_of_the_others(
    tmp_path: Path,
) -> None:
    known = {"prompt_id": "p", "prompt": "x", "completion": "y", "outcome": "scored"}
    lines = [{**known, "reward": 2.0}, {**known, "reward": 1.0}]
    failed = {**known, "reward": None, "outcome": "error"}
    found = opened(tmp_path, *lines, failed).advantages(AdvantageSettings())
    assert [found[1], found[2]] == pytest.approx([math.sqrt(0.5), -math.sqrt(0.5)], rel=1e-5)
    assert found[3] == 0.0


def test_only_the_lines_that_are_asked_for_are_parsed(tmp_path: Path) -> None:
    broken = {**LINE, "index": 1, "entropy": ["x"]}
    found = opened(tmp_path, LINE, broken)
    assert found.entries[0].line().index == 0
    with pytest.raises(DataError, match=r"x\.jsonl:2: entropy\[0\]=\"x\": must be a number"):
        found.entries[1].line()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"prompt": "q"}', "the field completion is missing"),
        ('{"completion": "c"}', "the field prompt is missing"),
        (
            '{"messages": [{"role": "user", "content": "q"}]}',
            "do not end with a turn of the assistant",
        ),
        ('{"prompt": "q", "completion": "c", "weights": [1, 2}', "not JSON"),
        ('{"prompt": "q", "completion": 3}', "completion=3: must be text"),
        ('"text"', "not a JSON object"),
        ('{"a": ' * 9999, "nested too deep"),
        (
            '{"prompt": "q", "completion": "c", "seed": ' + "9" * 9999 + "}",
            "seed: the number is too large",
        ),
        ('{"prompt": "q", "completion": "c", "seed": true}', "seed=true: must be a whole number"),
        ('{"prompt": "q", "completion": "c", "reward": 1e400}', "reward: the number is too large"),
        ('{"prompt": "q", "completion": "c", "reward": NaN}', "reward=NaN: must be finite"),
        ('{"prompt": "q", "completion": "c", "version": "v2"}', 'version="v2": this dgpo reads'),
        ('{"prompt": "q", "completion": "c", "score": {"a": 1}}', "score={...}: must be a number"),
        ('{"prompt": "q", "response": ["c", 3]}', "response=[...]: must be text, or a list"),
        (
            '{"prompt": "q", "completion": "c", "policy_version": "step-3"}',
            'policy_version="step-3": must be a whole number',
        ),
        (
            '{"completion": "c", "messages": [{"role": "user", "content": {"text": "q"}}]}',
            "messages[0].content={...}: must be text",
        ),
        ('{"prompt": [["q"]], "completion": "c"}', "prompt[0]=[...]: must be an object"),
    ],
)
def test_broken_lines_are_named(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"prompt": "q", "completion": "c"}\n' + text)
    with pytest.raises(DataError, match=r"x\.jsonl:2: ") as caught:
        open_rollouts(path)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_is_not_utf8_says_so(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"prompt": "\xff", "completion": "c"}')
    with pytest.raises(DataError, match=r"x\.jsonl:1: not UTF-8"):
        open_rollouts(path)


def test_null_is_not_there(tmp_path: Path) -> None:
    bare = {"prompt": "q", "completion": "c"}
    names = [field.name for field in fields(TrainedRecord)]
    line = dict.fromkeys(names) | bare
    assert opened(tmp_path, line).entries[0].line() == opened(tmp_path, bare).entries[0].line()


def test_content_of_null_is_no_text(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": None}, {"role": "assistant", "content": None}]
    line = opened(tmp_path, {"messages": turns}).entries[0].line()
    assert (line.prompt.text, line.completion.text) == ("", "")


@pytest.mark.parametrize("name", NAMES["answer"])
@pytest.mark.parametrize(
    ("answer", "text"),
    [("12", "12"), (12, "12"), (0.5, "0.5"), (["1/2"], "1/2"), (["2", 5], "2, 5"), ([], "")],
)
def test_answers_of_other_programs_are_read(
    tmp_path: Path, name: str, answer: object, text: str
) -> None:
    found = opened(tmp_path, {"prompt": "q", "completion": "c", name: answer})
    assert found.entries[0].line().prompt.answer == text


def test_a_packed_file_is_the_file(tmp_path: Path) -> None:
    plain, packed = tmp_path / "x.jsonl", tmp_path / "x.jsonl.gz"
    plain.write_text(json.dumps(LINE) + "\n" + json.dumps(LINE))
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    lines = [[entry.line() for entry in open_rollouts(path).entries] for path in (plain, packed)]
    assert [replace(line, prompt=replace(line.prompt, source="")) for line in lines[0]] == [
        replace(line, prompt=replace(line.prompt, source="")) for line in lines[1]
    ]
    packed.write_bytes(packed.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"x\.jsonl\.gz: is damaged"):
        open_rollouts(packed)


def test_a_prompt_as_it_was_rendered_tells_of_its_thought(tmp_path: Path) -> None:
    line = {"prompt": "<|user|>1+1?<|assistant|><think>\n", "completion": "2"}
    told = {**line, "starts_in_thought": False}
    first, second = opened(tmp_path, line, told).entries
    assert first.line().completion.starts_in_thought
    assert not second.line().completion.starts_in_thought


def test_a_typed_completion_is_a_file_of_one_line() -> None:
    file = typed_rollout("q", "c")
    (entry,) = file.entries
    line = entry.line()
    assert (line.prompt.text, line.completion.text, line.index) == ("q", "c", 0)
    assert math.isnan(file.advantages(AdvantageSettings())[0])
