"""Laws of environments of the package verifiers: what they ask and what they give."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import pytest

from dgpo_cli.core.errors import ConfigError
from dgpo_cli.environments.environment import Said
from dgpo_cli.environments.from_verifiers import completion_of
from dgpo_cli.environments.process import Asked, EnvProcess, EnvResult
from dgpo_cli.environments.source import EnvSource

HERE = str(Path(__file__).parent)


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [HERE, os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))


def test_a_taskset_is_played_turn_by_turn_and_gives_its_rewards_and_metrics() -> None:
    pytest.importorskip("verifiers")
    with closing(EnvProcess(EnvSource("verifiers", "sums-v1", {"count": 3}))) as process:
        prompts = process.tasks()
        assert [(p.id, p.text, p.answer) for p in prompts] == [
            ("s0", "0+1?", "1"), ("s1", "1+1?", "2"), ("s2", "2+1?", "3")
        ]  # fmt: skip
        process.play({1: ("s0", 0), 2: ("s1", 0), 3: ("s2", 0)})
        first = process.answers([1, 2, 3])
        assert first[1] == Asked([{"role": "user", "content": "0+1?"}], None)
        process.say({n: {"text": f"{n}7 <end>", "finish_reason": "stop"} for n in (1, 2, 3)})
        second = process.answers([1, 2, 3])
        assert second[1] == second[2] == Asked([{"role": "user", "content": "1+1?"}], None)
        failed = second[3]
        assert isinstance(failed, EnvResult) and failed.reward is None
        assert failed.outcome == "error" and "no board" in str(failed.note)
        process.say({1: {"text": "2", "finish_reason": "stop"}})
        process.say({2: {"text": "", "finish_reason": "length", "over": True}})
        ended = process.answers([1, 2])
        assert ended[1] == EnvResult(0.06, {"turns": 2.0, "digits": 0.03}, None, None)
        cut = ended[2]
        assert isinstance(cut, EnvResult) and cut.reward == 0.04


def test_a_taskset_that_is_not_there_is_named() -> None:
    pytest.importorskip("verifiers")
    with (
        closing(EnvProcess(EnvSource("verifiers", "nothing-v1"))) as process,
        pytest.raises(ConfigError, match=r"^prompts\.env=nothing-v1: .*nothing_v1"),
    ):
        process.tasks()


def test_thoughts_and_tool_calls_have_fields_of_their_own() -> None:
    text = (
        'so\n</think>\nI look.\n<tool_call>\n{"name": "look", "arguments": {"at": 3}}\n</tool_call>'
    )
    choice = completion_of(Said(text))["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    message = choice["message"]
    assert (message["content"], message["reasoning_content"]) == ("I look.", "so")
    assert message["tool_calls"] == [
        {
            "id": "call_0",
            "type": "function",
            "function": {"name": "look", "arguments": '{"at": 3}'},
        }
    ]
    broken = completion_of(Said("<tool_call>{nothing}</tool_call>", "length"))["choices"][0]
    assert broken["finish_reason"] == "length" and "tool_calls" not in broken["message"]
    assert broken["message"]["content"] == "<tool_call>{nothing}</tool_call>"


def test_a_tool_that_the_model_calls_answers_in_the_next_turn() -> None:
    pytest.importorskip("verifiers")
    with closing(EnvProcess(EnvSource("verifiers", "tools-v1", {}, 120.0))) as process:
        (prompt,) = process.tasks()
        assert [(m.role, m.content) for m in prompt.messages] == [
            ("system", "Look."),
            ("user", "What is in box 3?"),
        ]
        process.play({1: ("vault", 0)})
        asked = process.answers([1])[1]
        assert isinstance(asked, Asked), asked
        assert [m["content"] for m in asked.messages] == ["Look.", "What is in box 3?"]
        (tool,) = asked.tools or ()
        assert tool["function"]["parameters"]["required"] == ["number"]
        name = tool["function"]["name"]
        call = f'<tool_call>{{"name": "{name}", "arguments": {{"number": 3}}}}</tool_call>'
        process.say({1: {"text": call, "finish_reason": "stop"}})
        answered = process.answers([1])[1]
        assert isinstance(answered, Asked), answered
        (message,) = answered.messages
        assert (message["role"], message["content"]) == ("tool", "box 3 has 21")
        process.say({1: {"text": "It has 21.", "finish_reason": "stop"}})
        assert process.answers([1])[1] == EnvResult(1.0, {"found": 1.0}, None, None)
