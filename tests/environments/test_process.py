"""Laws of an environment's process: what it asks, what becomes of its faults, and that it ends."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psutil
import pytest

from dgpo_cli.core.errors import ConfigError
from dgpo_cli.environments.process import Asked, EnvProcess, EnvResult
from dgpo_cli.environments.source import EnvSource
from tests.processes import left_behind, with_mark

GAMES = str(Path(__file__).parent / "games.py")


@contextmanager
def opened(name: str, *, timeout_s: float = 60.0, **args: object) -> Iterator[EnvProcess]:
    source = EnvSource("environment", f"{GAMES}:{name}", args, timeout_s)
    with closing(EnvProcess(source)) as process:
        yield process


def say(process: EnvProcess, *numbers: int, text: str = "5") -> None:
    process.say({n: {"text": text, "finish_reason": "stop"} for n in numbers})


def test_tasks_are_prompts_in_order() -> None:
    with opened("Count") as process:
        prompts = process.tasks()
        assert [prompt.id for prompt in prompts] == ["t0", "t1", "t2", "t3"]
        assert [prompt.answer for prompt in prompts] == ["1", "2", "3", "4"]
        assert [(m.role, m.content) for m in prompts[2].messages] == [("user", "2+1?")]


def test_conversations_ask_turn_by_turn_and_end_with_a_score() -> None:
    with opened("Count", turns=2) as process:
        process.play({7: ("t3", 4001), 9: ("t0", 4002)})
        first = process.answers([7, 9])
        assert first == {
            7: Asked([{"role": "user", "content": "3+1?"}], None),
            9: Asked([{"role": "user", "content": "0+1?"}], None),
        }
        say(process, 7, 9)
        second = process.answers([7, 9])
        assert second[7] == Asked([{"role": "user", "content": "1+3?"}], None)
        say(process, 7, text="12345")
        assert process.answers([7]) == {7: EnvResult(0.06, {"turns": 2.0, "seed": 1.0}, None, None)}
        process.say({9: {"text": "", "finish_reason": "length", "over": True}})
        assert process.answers([9]) == {9: EnvResult(0.01, {"turns": 1.0, "seed": 2.0}, None, None)}


def test_a_fault_is_an_error_with_its_message_and_the_others_go_on() -> None:
    with opened("Trouble") as process:
        names = ("fine", "early", "raise", "nan", "greedy", "die")
        process.play({n: (name, 0) for n, name in enumerate(names)})
        first = process.answers(range(6))
        assert isinstance(first[1], EnvResult) and first[1].outcome == "error"
        assert re.search(r"games\.py, line \d+: OSError: no sandbox is left$", str(first[1].note))
        say(process, 0, 2, 3, 4)
        second = process.answers([0, 2, 3, 4])
        assert second[0] == EnvResult(1.0, {}, "correct", None)
        assert str(getattr(second[2], "note", "")).endswith(": KeyError: 'missing'")
        assert second[3] == EnvResult(
            None, {}, "error", "the reward is nan; return a finite number"
        )
        process.say({4: {"text": "", "finish_reason": "length", "over": True}})
        (greedy,) = process.answers([4]).values()
        assert isinstance(greedy, EnvResult) and greedy.reward is None
        assert greedy.outcome == "error" and "a conversation that is over" in str(greedy.note)
        say(process, 5)
        (died,) = process.answers([5]).values()
        assert died == EnvResult(None, {}, "error", "the process of the environment ended")
        process.play({1: ("fine", 0)})  # it starts again
        assert isinstance(process.answers([1])[1], Asked)


def test_one_that_does_not_answer_times_out_alone() -> None:
    with opened("Trouble", timeout_s=1.0) as process:
        process.play({1: ("hang", 0), 2: ("fine", 0)})
        process.answers([1, 2])
        say(process, 1, 2)
        found = process.answers([1, 2])
        assert found[2] == EnvResult(1.0, {}, "correct", None)
        assert found[1] == EnvResult(None, {}, "timeout", "no answer within prompts.timeout_s=1")


def test_one_that_holds_up_the_process_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dgpo_cli.environments.process._PING_S", 0.5)
    with opened("Trouble", timeout_s=1.0) as process:
        process.play({1: ("block", 0), 2: ("fine", 0)})
        process.answers([1, 2])
        say(process, 1)
        begun = time.monotonic()
        (blocked,) = process.answers([1]).values()
        assert isinstance(blocked, EnvResult) and blocked.outcome == "timeout"
        assert time.monotonic() - begun < 20
        say(process, 2)
        (other,) = process.answers([2]).values()
        assert other == EnvResult(None, {}, "error", "the process of the environment ended")


def test_what_an_environment_has_started_ends_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DGPO_TEST_MARK", mark := f"helped-{os.getpid()}")
    with opened("Helped") as process:
        process.tasks()
        assert len(with_mark(mark)) == 2
    assert left_behind(mark, within_s=10) == []


# Waits for the environment, which does not answer, in the middle of a conversation.
TALK = f"""
from dgpo_cli.environments.process import EnvProcess
from dgpo_cli.environments.source import EnvSource

process = EnvProcess(EnvSource("environment", {GAMES + ":Trouble"!r}))
process.play({{1: ("hang", 0)}})
process.answers([1])
process.say({{1: {{"text": "2", "finish_reason": "stop"}}}})
print("talking", flush=True)
process.answers([1])
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_ended_in_a_conversation_leaves_no_process(number: signal.Signals) -> None:
    mark = f"talk-{number}-{os.getpid()}"
    command = [sys.executable, "-c", TALK]
    with subprocess.Popen(
        command,
        env={**os.environ, "DGPO_TEST_MARK": mark},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as talk:
        assert talk.stdout is not None and talk.stdout.readline() == b"talking\n"
        assert len(with_mark(mark)) == 2
        talk.send_signal(number)
        assert talk.wait(30) == -number
    assert left_behind(mark, within_s=10) == []


def test_a_process_ends_with_its_end() -> None:
    with opened("Count") as process:
        process.tasks()
        assert process._process is not None
        pid = process._process._process.pid
    assert not psutil.pid_exists(pid)


@pytest.mark.parametrize(
    ("spec", "args", "message"),
    [
        (f"{GAMES}:Nothing", {}, "Nothing"),
        (f"{GAMES}:Iterable", {}, "is not a class derived from dgpo_cli.Environment"),
        (f"{GAMES}:Silent", {}, "Silent: the class has no play; define it"),
        (f"{GAMES}:Count", {"rounds": 3}, "unexpected keyword argument 'rounds'"),
        ("/nowhere/game.py:Count", {}, "/nowhere/game.py"),
    ],
)
def test_what_cannot_be_opened_is_named(spec: str, args: dict[str, int], message: str) -> None:
    with closing(EnvProcess(EnvSource("environment", spec, args))) as process:
        with pytest.raises(ConfigError, match=r"^prompts\.env=") as error:
            process.tasks()
        said = str(error.value)
        assert message in said and "\n" not in said and said.count(f"{spec}:") == 1
