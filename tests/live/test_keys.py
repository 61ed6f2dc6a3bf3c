"""Keys that are pressed while a run is shown: pause, other completions, help, stop."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from dgpo_cli.core.events import StepDone
from dgpo_cli.live.live import RunPanel
from tests.cli.helpers import environment, on_terminal

STEPS = """
import sys
from pathlib import Path
from dgpo_cli.core.events import StepDone
from dgpo_cli.live.live import RunPanel
with RunPanel(name="b", out=Path("runs/x"), steps=500, eval_every=0) as view:
    for step in range(1, 501):
        import time; time.sleep(0.05)
        view.on(StepDone(step, {"reward/mean": 0.5, "time/step_s": 0.05}))
"""


@dataclass
class Terminal:
    process: subprocess.Popen[bytes]
    leader: int
    before: list[object]
    follower: int
    sent: str = ""

    def read(self, *, seconds: float) -> str:
        """What comes in some seconds."""
        start, end = len(self.sent), time.monotonic() + seconds
        while time.monotonic() < end:
            if select.select([self.leader], [], [], 0.05)[0]:
                self.sent += os.read(self.leader, 65536).decode(errors="replace")
        return self.sent[start:]

    def until(self, found: Callable[[str], object]) -> None:
        """Read until `found` is true of what has come since the call."""
        start, end = len(self.sent), time.monotonic() + 120
        while not found(self.sent[start:]):
            assert time.monotonic() < end, self.sent[-2000:]
            self.read(seconds=0.1)

    def press(self, keys: str) -> None:
        os.write(self.leader, keys.encode())


@pytest.fixture
def shown() -> Iterator[Terminal]:
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    before = termios.tcgetattr(follower)

    def own_terminal() -> None:
        os.setsid()
        fcntl.ioctl(follower, termios.TIOCSCTTY, 0)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    process = subprocess.Popen(
        [sys.executable, "-c", STEPS],
        env=environment(CI=""),
        stdin=follower,
        stdout=follower,
        stderr=follower,
        preexec_fn=own_terminal,
    )
    try:
        yield Terminal(process, leader, before, follower)
    finally:
        process.kill()
        process.wait()
        os.close(leader)
        os.close(follower)


def steps_of(text: str) -> list[int]:
    return [int(found) for found in re.findall(r"step (\d+)/500", text)]


def test_p_holds_the_run_after_a_step_until_p_again(shown: Terminal) -> None:
    shown.until(steps_of)
    shown.press("p")
    shown.until(lambda text: "paused" in text)
    assert len(set(steps_of(shown.read(seconds=1.5)))) <= 1  # nothing moves
    held = steps_of(shown.sent)[-1]
    shown.press("p")
    shown.until(lambda text: any(step > held + 1 for step in steps_of(text)))


def test_h_explains_the_keys_and_q_ends_as_ctrl_c_does(shown: Terminal) -> None:
    shown.until(steps_of)
    shown.press("h")
    shown.until(lambda text: "q stop after this step" in text)
    shown.press("q")
    shown.process.wait(timeout=60)
    assert shown.process.returncode != 0
    shown.read(seconds=0.5)
    assert "KeyboardInterrupt" in shown.sent
    assert termios.tcgetattr(shown.follower) == shown.before


def test_ctrl_c_ends_a_pause(shown: Terminal) -> None:
    shown.until(steps_of)
    shown.press("p")
    shown.until(lambda text: "paused" in text)
    shown.press("\x03")
    shown.process.wait(timeout=60)
    assert termios.tcgetattr(shown.follower) == shown.before


def test_without_a_terminal_on_stdin_no_key_is_read(tmp_path: Path) -> None:
    from dgpo_cli.live.keys import Keys

    with Keys() as keys:  # pytest's stdin is not one
        assert keys.pressed() == ""


IN_THE_BACKGROUND = """
import os, signal, threading, time
from pathlib import Path
from dgpo_cli.core.events import StepDone
from dgpo_cli.live.live import RunPanel
came = []
signal.signal(signal.SIGTERM, lambda number, frame: came.append(number))
with RunPanel(name="b", out=Path("runs/x"), steps=5, eval_every=0) as view:
    view.live._screen.in_front = lambda: False
    view._press("p")
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
    threading.Timer(20.0, view._press, "p").start()
    start = time.monotonic()
    view.on(StepDone(1, {"reward/mean": 0.5, "time/step_s": 0.05}))
    ended = time.monotonic() - start < 10
print("the pause ended" if ended and came else "the pause held")
os._exit(0)
"""


def test_a_signal_ends_a_pause_in_the_background_too() -> None:
    ended = on_terminal(sys.executable, "-c", IN_THE_BACKGROUND, columns=80, env={"LINES": "30"})
    assert "the pause ended" in ended.out


def test_keys_and_steps_at_the_same_time_lose_nothing() -> None:
    view = RunPanel(name="b", out=Path("runs/x"), steps=200, eval_every=0)
    ended = threading.Event()

    def press() -> None:
        while not ended.is_set():
            view._press("h")

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread = threading.Thread(target=press)
    thread.start()
    try:
        for step in range(1, 201):
            view.on(StepDone(step, {"reward/mean": 0.5, "time/step_s": 0.1}))
            time.sleep(5e-4)
            assert view._state.step == step
    finally:
        ended.set()
        thread.join()
        sys.setswitchinterval(before)
