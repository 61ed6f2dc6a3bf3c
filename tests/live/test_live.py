"""The live panel on a terminal, from events and from real runs."""

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
import time
from pathlib import Path

import pytest

from tests.cli.helpers import ESCAPE, Ended, dgpo, environment, on_terminal
from tests.cli.terminal import Terminal

COLUMNS, ROWS = 90, 30
TINY = (
    "rollout.prompts_per_step=4",
    "rollout.group_size=4",
    "rollout.max_completion_tokens=48",
    "optim.micro_batch_size=8",
    "reward.workers=1",
    "eval.every=0",
)
EVENTS = """
import sys, warnings
from pathlib import Path
from dgpo_cli.live.live import RunPanel
from dgpo_cli.core.events import Diagnosed, Sampled, StepDone, phase, tell
from dgpo_cli.core.types import Completion, Diagnosis, Message, Prompt, ScoredGroup, Verdict
prompt = Prompt("1", (Message("user", "1+1?"),), "2", "test")
drawn = Completion((1,), (0.0,), "\\x1b[31m\\\\boxed{2}", "stop", 0, 0)
group = ScoredGroup(prompt, (1,), (drawn,), (Verdict("correct", "2", 1.0),), (0.0,))
past = [{"step": n, "reward/mean": 0.1 * n} for n in (1, 2, 3, 9)]
run = dict(name="[b]", out=Path("runs/x"), steps=10, eval_every=0)
with RunPanel(**run, start=3, past=(past, [])) as view:
    tell(view, "resumed [red]")
    view.on(Sampled(4, (group,)))
    with phase(view, "sampling", total=8, unit="completions") as advance:
        advance(8)
    view.on(StepDone(4, {"reward/mean": 0.75, "time/step_s": 1.0}))
    ill = Diagnosis("flat", 4, "the reward is flat", "for 4 steps", "raise optim.lr")
    view.on(Diagnosed(4, ()))
    view.on(Diagnosed(4, (ill,)))
    sys.stderr.write("half ")
    sys.stderr.write("a line\\nloading  1%\\rloading 99%\\n")
    print("from stdout")
    warnings.warn("of a library")
    if "fail" in sys.argv:
        raise RuntimeError("boom")
print("result")
"""


def screen_of(ended: Ended) -> list[str]:
    terminal = Terminal(COLUMNS, ROWS)
    terminal.feed(ended.out.replace("\n", "\r\n"))
    assert terminal.modes == {"7": True, "25": True, "2026": False}
    return terminal.shown()


def run_events(*arguments: str) -> Ended:
    return on_terminal(
        sys.executable, "-c", EVENTS, *arguments, columns=COLUMNS, env={"LINES": str(ROWS)}
    )


def test_everything_that_was_said_stays_above_the_last_panel() -> None:
    lines = screen_of(run_events())
    text = "\n".join(lines)
    start = next(at for at, line in enumerate(lines) if line.startswith("[b]  runs/x"))
    above = lines[:start]
    assert above[:4] == [
        "note: resumed [red]",
        "half a line",
        "loading 99%",
        "from stdout",
    ]
    assert "UserWarning: of a library" in "\n".join(above)
    assert lines[start].endswith("step 4/10 · done")
    assert lines[-1] == "result"
    assert "! the reward is flat\n  raise optim.lr\n" in text
    assert r"\x1b[31m\boxed{2}" in text
    assert "best 0.750" in text  # step 9 of a part that is done again is no past


def test_an_exception_leaves_the_panel_and_a_usable_terminal() -> None:
    ended = run_events("fail")
    lines = screen_of(ended)
    assert ended.code == 1
    assert any(line.endswith("step 4/10 · failed") for line in lines)
    assert lines[-1] == "RuntimeError: boom"


def test_a_panel_that_cannot_be_laid_out_ends_no_run() -> None:
    broken = "import dgpo_cli.live.live as live\nlive.panel = lambda *a, **k: 1 / 0\n"
    ended = on_terminal(
        sys.executable, "-c", broken + EVENTS, columns=COLUMNS, env={"LINES": str(ROWS)}
    )
    assert ended.code == 0
    lines = screen_of(ended)
    assert lines[0] == "note: resumed [red]" and lines[-1] == "result"
    (note,) = (line for line in lines if line.startswith("note: the panel failed"))
    assert "ZeroDivisionError" in note


def train(out: Path, *more: str, steps: int) -> list[str]:
    settings = [part for one in TINY for part in ("--set", one)]
    return [
        *("train", "--preset", "tiny", "--steps", str(steps), "--out", str(out)),
        *settings,
        *more,
    ]


def test_a_real_run_draws_the_panel_and_ends_with_the_summary(tmp_path: Path) -> None:
    ended = on_terminal(
        *(sys.executable, "-m", "dgpo_cli"),
        *train(tmp_path / "run", steps=3),
        columns=COLUMNS,
        env={"LINES": str(ROWS), "CI": ""},
    )
    lines = screen_of(ended)
    assert ended.code == 0
    (header,) = [line for line in lines if line.endswith("step 3/3 · done")]
    assert header.startswith("run ")
    for label in ("outcome ", "credit ", "time ", "memory ", "last "):
        assert sum(line.startswith(label) for line in lines) == 1, label
    below = lines[lines.index(header) + 1 :]
    assert sum(line.startswith("trained to step 3: reward ") for line in below) == 1
    assert "step 0/3" in ended.out  # drawn while it went on
    again = on_terminal(
        *(sys.executable, "-m", "dgpo_cli"),
        *train(tmp_path / "run", steps=4),
        columns=COLUMNS,
        env={"LINES": str(ROWS), "CI": ""},
    )
    assert "step 3/4" in again.out and "step 0/4" not in again.out
    assert any(line.endswith("step 4/4 · done") for line in screen_of(again))


def test_in_a_pipe_there_is_a_line_a_step_and_nothing_else(tmp_path: Path) -> None:
    ended = dgpo(*train(tmp_path / "run", steps=2))
    assert ended.code == 0
    assert ESCAPE not in ended.out + ended.err
    first, *others = ended.err.splitlines()
    assert first.startswith("note: embedded:tiny: ")
    steps = [line for line in others if not line.startswith("note: step ")]
    assert steps[2] == f"next: dgpo report {tmp_path / 'run'}" and len(steps) == 5
    for number, line in enumerate(steps[:2], start=1):
        assert re.fullmatch(rf"step {number}/2  reward \d\.\d\d  correct .* tok/s", line)
    assert ended.out.splitlines()[0].startswith("trained to step 2: ")


@pytest.mark.parametrize(
    ("asked", "columns", "env", "shown"),
    [
        ("auto", COLUMNS, {}, "RunPanel"),
        ("auto", 59, {}, "Bars"),
        ("auto", COLUMNS, {"LINES": "19"}, "Bars"),
        ("auto", COLUMNS, {"TERM": "dumb"}, "Bars"),
        ("auto", COLUMNS, {"CI": "true"}, "Bars"),
        ("lines", COLUMNS, {}, "Bars"),
        ("panel", 40, {"LINES": "15", "CI": "true"}, "RunPanel"),
    ],
)
def test_auto_is_the_panel_where_it_belongs_and_lines_elsewhere(
    asked: str, columns: int, env: dict[str, str], shown: str
) -> None:
    ended = on_terminal(
        *(sys.executable, "-c", VIEW, asked),
        columns=columns,
        env={"LINES": str(ROWS), "CI": ""} | env,
    )
    assert ended.out == f"{shown}\n"


VIEW = """
import sys
from pathlib import Path
from dgpo_cli.cli.train import _view
from dgpo_cli.config.settings import Settings
view = _view(sys.argv[1], out=Path("x"), settings=Settings(), resume="auto")
print(type(view).__name__)
"""


def test_the_panel_is_refused_where_it_cannot_be_drawn(tmp_path: Path) -> None:
    ended = dgpo(*train(tmp_path / "run", "--view", "panel", steps=1))
    assert ended.code == 2
    assert ended.err.startswith("error: --view panel: stderr is not a terminal")
    assert not (tmp_path / "run").exists()


def test_ctrl_c_ends_after_the_step_and_leaves_a_usable_terminal(tmp_path: Path) -> None:
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    # A terminal throws away what is under way to it when Ctrl-C comes: here all is to be seen.
    kept = termios.tcgetattr(follower)
    kept[3] |= termios.NOFLSH
    termios.tcsetattr(follower, termios.TCSANOW, kept)
    before = termios.tcgetattr(follower)

    def own_terminal() -> None:
        os.setsid()
        fcntl.ioctl(follower, termios.TIOCSCTTY, 0)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    process = subprocess.Popen(
        [sys.executable, "-m", "dgpo_cli", *train(tmp_path / "run", steps=10_000)],
        env=environment(CI=""),
        stdin=follower,
        stdout=follower,
        stderr=follower,
        preexec_fn=own_terminal,
    )
    sent = b""
    interrupted = False
    deadline = time.monotonic() + 240
    while process.poll() is None or select.select([leader], [], [], 0.2)[0]:
        assert time.monotonic() < deadline, sent[-2000:]
        if select.select([leader], [], [], 0.2)[0]:
            sent += os.read(leader, 65536)
        if not interrupted and re.search(rb"step [1-9][0-9,]*/10,000", sent):  # not all are drawn
            os.write(leader, b"\x03")
            interrupted = True
    after = termios.tcgetattr(follower)
    os.close(follower)
    os.close(leader)
    assert process.returncode == 130
    assert after == before
    assert b"^C" not in sent  # keys are not echoed into the panel
    text = sent.decode()
    assert "stopping with a checkpoint after this step" in text
    assert "\x1b[?25l" not in text and "\x1b[?1049h" not in text
    assert text.rfind("\x1b[?7h") > text.rfind("\x1b[?7l")
    terminal = Terminal(COLUMNS, ROWS)
    terminal.feed(text)
    lines = terminal.shown()
    (kept,) = (tmp_path / "run" / "checkpoints").iterdir()
    step = int(kept.name.removeprefix("step-"))
    told = f"stopped at step {step}; checkpoint {kept}; run the same command to resume"
    assert "".join("".join(lines).split()).endswith("".join(told.split()))  # folded to the width
    assert any(line.endswith("stopped") for line in lines)


BUSY = """
import hashlib, sys
from pathlib import Path
from dgpo_cli.core.events import phase
from dgpo_cli.live.live import RunPanel
view = RunPanel(name="b", out=Path("runs/x"), steps=10, eval_every=0)
with view, phase(view, "sampling", total=100, unit="completions") as advance:
    advance(50)  # its rate is another in every frame
    while not Path(sys.argv[1]).exists():  # C code that lets other threads run, but no handler
        hashlib.pbkdf2_hmac("sha256", b"", b"", 1_500_000)
"""


def test_after_ctrl_z_the_panel_is_drawn_below_what_the_shell_wrote(tmp_path: Path) -> None:
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-c", BUSY, str(tmp_path / "end")],
        env=environment(CI=""),
        stderr=follower,
        start_new_session=True,
    )
    sent = ""

    def read_until(found: str, *, count: int = 1) -> None:
        nonlocal sent
        deadline = time.monotonic() + 60
        while sent.count(found) < count:
            assert time.monotonic() < deadline and process.poll() in (None, 0), sent
            if select.select([leader], [], [], 0.2)[0]:
                sent += os.read(leader, 65536).decode()

    try:
        read_until("/s")
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        os.write(follower, b"$ fg\ndgpo train\n")
        process.send_signal(signal.SIGCONT)
        read_until("step 0/10", count=2)
        (tmp_path / "end").touch()
        assert process.wait(60) == 0
        read_until("done")
    finally:
        process.kill()
        os.close(follower)
        os.close(leader)
    terminal = Terminal(COLUMNS, ROWS)
    terminal.feed(sent)
    first, bar, phase, *shell, last, _ = terminal.shown()
    assert "step 0/10" in first and bar.endswith("0%") and "sampling" in phase
    assert shell == ["$ fg", "dgpo train"]
    assert last.endswith("step 0/10 · done")
