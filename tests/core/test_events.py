"""Laws of observers: all hear all, in order; one that fails is dropped and ends nothing."""

from __future__ import annotations

import ast
import os
import signal
import threading
from collections import deque
from pathlib import Path

import pytest

import dgpo_cli
from dgpo_cli.config.load import resolve
from dgpo_cli.core.events import (
    Checkpointed,
    Ended,
    Event,
    Note,
    Observers,
    Progress,
    Sampled,
    StepDone,
    phase,
    tell,
)
from dgpo_cli.runs.run_folder import RunFolder
from dgpo_cli.train import train
from tests.recorder import AtStep, Killed, Notes, Recorder
from tests.train.test_train import SMALL, numbers, run_tiny


class Breaks:
    """Fails when it is told a text."""

    def __init__(self, at: str) -> None:
        self.at, self.heard = at, 0

    def on(self, event: Event) -> None:
        self.heard += 1
        if event == Note(self.at):
            raise OSError(28, "No space left\non http://me:secret@host")


def test_a_member_that_fails_is_dropped_and_told_of_once() -> None:
    first, broken, last = Recorder(), Breaks("b"), Recorder()
    every = Observers([first, broken, last])
    for text in "abcb":
        tell(every, text)
    note = "Breaks failed and is off from here on: OSError: [Errno 28] No space left on http://host"
    assert first.notes == last.notes == ["a", "b", note, "c", "b"]
    assert broken.heard == 2


def test_the_member_that_fails_is_the_one_that_is_dropped() -> None:
    class Equal(Notes):
        """Equal to every other one, as two observers with equal contents are."""

        def __init__(self, breaks: bool) -> None:
            super().__init__()
            self.breaks = breaks

        def on(self, event: Event) -> None:
            if self.breaks:
                raise ValueError
            super().on(event)

    whole, broken = Equal(breaks=False), Equal(breaks=True)
    assert whole == broken
    every = Observers([whole, broken])
    tell(every, "a")
    assert whole.texts == ["a", "Equal failed and is off from here on: ValueError:"]


def test_the_last_member_may_fail_too() -> None:
    every = Observers([Breaks("a")])
    tell(every, "a")
    tell(every, "a")


def test_what_a_member_tells_comes_after_what_it_was_told() -> None:
    recorder = Recorder()

    class Echo:
        def on(self, event: Event) -> None:
            if event == Note("a"):
                tell(every, "b")
                tell(every, "c")

    every = Observers([Echo(), recorder])
    tell(every, "a")
    assert recorder.notes == ["a", "b", "c"]


def test_what_a_signals_handler_tells_waits_for_the_member_that_was_interrupted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    heard: list[str] = []

    class Slow:
        busy = False

        def on(self, event: Event) -> None:
            assert not self.busy, "told in the middle of being told"
            self.busy = True
            if event == Note("a"):
                os.kill(os.getpid(), signal.SIGUSR1)
            heard.append(getattr(event, "text", ""))
            self.busy = False

    every = Observers([Slow()])
    before = signal.signal(signal.SIGUSR1, lambda number, frame: tell(every, "signal"))
    try:
        tell(every, "a")
        tell(every, "b")
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert heard == ["a", "signal", "b"]


def test_what_a_signals_handler_tells_after_the_last_look_is_heard_at_once() -> None:
    recorder = Recorder()
    every = Observers([recorder])

    class Interrupted(deque[Event]):
        """A signal comes once the queue is seen to be empty."""

        late = True

        def __len__(self) -> int:
            found = super().__len__()
            if not found and self.late:
                self.late = False
                tell(every, "signal")
            return found

    every._waiting = Interrupted()
    tell(every, "a")
    assert recorder.notes == ["a", "signal"]


def test_threads_tell_one_at_a_time_and_nothing_is_lost() -> None:
    inside, most = 0, 0
    recorder = Recorder()

    class Counts:
        def on(self, event: Event) -> None:
            nonlocal inside, most
            inside += 1
            most = max(most, inside)
            inside -= 1

    every = Observers([Counts(), recorder])

    def work(name: str) -> None:
        for number in range(200):
            tell(every, f"{name} {number}")

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert sorted(recorder.notes) == sorted(f"{n} {i}" for n in "abcd" for i in range(200))


def test_what_is_no_exception_ends_the_run_and_drops_nobody() -> None:
    recorder = Recorder()

    class Kills:
        def on(self, event: Event) -> None:
            if event == Note("a"):
                raise Killed

    every = Observers([Kills(), recorder])
    with pytest.raises(Killed):
        tell(every, "a")
    tell(every, "b")
    assert recorder.notes == ["b"]


def test_a_phase_begins_at_nothing_and_is_over_whatever_ends_it() -> None:
    recorder = Recorder()
    with pytest.raises(Killed), phase(recorder, "work", total=5, unit="units") as advance:
        advance(2)
        advance(1)
        raise Killed
    told = recorder.of(Progress)
    assert [(p.done, p.over) for p in told] == [(0, False), (2, False), (3, False), (3, True)]
    assert {(p.key, p.name, p.total, p.unit) for p in told} == {(told[0].key, "work", 5, "units")}
    with phase(recorder, "work", total=5, unit="units"):
        pass
    assert recorder.of(Progress)[-1].key != told[0].key


def test_a_run_whose_observer_fails_is_the_run_without_it(tmp_path: Path) -> None:
    _, lines = run_tiny(tmp_path / "plain")
    recorder = Recorder()

    def fail(step: int) -> None:
        raise ValueError(f"step {step}")

    every = Observers([AtStep(fail), recorder])
    settings = resolve(preset="tiny", overrides=[*SMALL, "train.steps=3"])
    train.run(settings, out=tmp_path / "run", resume="auto", observer=every)
    assert numbers(recorder.lines) == numbers(lines)
    failed = "AtStep failed and is off from here on: ValueError: step 1"
    assert recorder.notes.count(failed) == 1


def test_a_run_tells_in_order_what_it_does(tmp_path: Path) -> None:
    recorder = Recorder()
    overrides = [*SMALL, "train.steps=2", "train.checkpoint_every=1"]
    train.run(
        resolve(preset="tiny", overrides=overrides),
        out=tmp_path,
        resume="auto",
        observer=recorder,
    )
    shown = [
        (type(event).__name__, getattr(event, "step", None))
        for event in recorder.events
        if not isinstance(event, Note | Progress)
    ]
    step = ["Sampled", "Credited", "StepDone", "Diagnosed", "Checkpointed"]
    assert shown == [(name, n) for n in (1, 2) for name in step] + [("Ended", None)]
    assert recorder.of(Ended) == [Ended("done")]
    folder = RunFolder(tmp_path)
    assert [event.path for event in recorder.of(Checkpointed)] == folder.checkpoints()
    assert [len(event.groups) for event in recorder.of(Sampled)] == [
        resolve(preset="tiny", overrides=overrides).settings.rollout.prompts_per_step
    ] * 2
    assert [event.step for event in recorder.of(StepDone)] == [1, 2]


@pytest.mark.parametrize(("error", "state"), [(Killed, "stopped"), (KeyboardInterrupt, "stopped")])
def test_a_run_that_is_broken_off_tells_its_end(
    tmp_path: Path, error: type[BaseException], state: str
) -> None:
    recorder = Recorder()

    def stop(step: int) -> None:
        raise error

    with pytest.raises(error):
        train.run(
            resolve(preset="tiny", overrides=[*SMALL, "train.steps=2"]),
            out=tmp_path,
            resume="auto",
            observer=Observers([recorder, AtStep(stop)]),
        )
    assert [event.state for event in recorder.of(Ended)] == [state]
    assert isinstance(recorder.events[-1], Ended)


# Rooms whose functions a command calls, or that work for one: they are given an observer.
TOLD = ("train", "evals", "inspect", "report", "publish", "doctor", "planning", "engine", "prompts")


def callbacks(tree: ast.AST) -> list[str]:
    """Parameters by which a function would tell somebody something."""
    return [
        f"{node.name}({argument.arg})"
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        for argument in [*node.args.args, *node.args.kwonlyargs]
        if argument.arg.startswith("on_") or argument.arg in ("progress", "notify", "save_eval")
    ]


def test_nobody_takes_callbacks_but_an_observer() -> None:
    root = Path(dgpo_cli.__file__).parent
    found = {
        path.relative_to(root).as_posix(): names
        for room in TOLD
        for path in (root / room).rglob("*.py")
        if (names := callbacks(ast.parse(path.read_text(encoding="utf-8"))))
    }
    assert found == {}


def test_a_callback_is_found() -> None:
    planted = "def f(a, *, on_step, observer):\n    def g(progress): ...\n"
    assert callbacks(ast.parse(planted)) == ["f(on_step)", "g(progress)"]
