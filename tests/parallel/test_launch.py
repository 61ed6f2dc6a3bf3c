"""Starting and ending ranks: real processes, whose program is a few lines without torch."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dgpo_cli.core.errors import ConfigError, DgpoError
from dgpo_cli.parallel.launch import Launcher, log_of
from dgpo_cli.parallel.place import Start
from tests.processes import left_behind

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

LAUNCHER = """
import sys
from pathlib import Path
from dgpo_cli.parallel import launch
from dgpo_cli.parallel.place import Start
run, count, program, limit = sys.argv[1:]
launch._END_S = launch._AT_ONCE_S = float(limit)
launch._GRACE_S = 1.0
launcher = launch.Launcher(
    [sys.executable, "-c", program], start=Start(int(count)), run=Path(run), stop_signal="SIGUSR1"
)
outcome = launcher.run()
if outcome.error is not None:
    print("error:", outcome.error, file=sys.stderr)
sys.exit(outcome.code)
"""
# told(): the next message of the launcher, None at its end. One process group gets Ctrl-C.
RANK = """
import json, os, signal, sys, time
rank, pipe = int(os.environ["RANK"]), open(int(os.environ["DGPO_CONTROL"]))
signal.signal(signal.SIGINT, lambda *_: None)
def told():
    line = pipe.readline()
    return json.loads(line) if line else None
"""


class Launched:
    """A launcher in a process group of its own, and all that is below it."""

    def __init__(self, run: Path, *, program: str, count: int = 2, limit_s: float = 20) -> None:
        self.run, self.mark = run, f"DGPO_TEST_MARK={run}"
        self.process = subprocess.Popen(
            [sys.executable, "-c", LAUNCHER, str(run), str(count), RANK + program, str(limit_s)],
            env={**os.environ, "DGPO_TEST_MARK": str(run)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def wait_for(self, name: str) -> None:
        deadline = time.monotonic() + 30
        while not (self.run / name).exists():
            assert self.process.poll() is None and time.monotonic() < deadline, name
            time.sleep(0.01)

    def end(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=60)
        assert left_behind(self.mark, within_s=5) == []
        return self.process.returncode, out, err


@pytest.fixture
def started(tmp_path: Path) -> Iterator[list[Launched]]:
    launched: list[Launched] = []
    yield launched
    for each in launched:
        if each.process.poll() is None:
            os.killpg(each.process.pid, signal.SIGKILL)
        each.process.communicate()


def test_each_rank_has_its_place_rank_0_the_terminal_and_the_others_a_log(tmp_path: Path) -> None:
    log = log_of(tmp_path, 1)
    log.parent.mkdir()
    log.write_text("of an earlier start")
    program = """
names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
print(json.dumps([os.environ[name] for name in names]), "DGPO_LISTENER" in os.environ)
print("to stderr", file=sys.stderr)
"""
    code, out, err = Launched(tmp_path, program=program).end()
    told, listens = out.strip().rsplit(" ", 1)
    *place, port = json.loads(told)
    assert (code, err) == (0, "to stderr\n")
    assert (place, listens) == (["0", "2", "0", "2", "127.0.0.1"], "True")
    place = json.dumps(["1", "2", "1", "2", "127.0.0.1", port])
    assert sorted(log.read_text().splitlines()) == [f"{place} False", "to stderr"]


@pytest.mark.parametrize(
    ("ends", "code", "error"),
    [
        ("sys.exit(0)", 0, ""),
        ("sys.exit(3)", 3, ""),
        ("sys.exit(130)", 130, ""),
        ("os.kill(os.getpid(), signal.SIGTERM)", 143, ""),
        ("os.kill(os.getpid(), signal.SIGKILL)", 137, "was killed by SIGKILL, as the system does"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", 139, "was killed by SIGSEGV"),
    ],
)
def test_the_exit_code_is_that_of_rank_0_and_the_others_learn_that_it_ended(
    tmp_path: Path, ends: str, code: int, error: str
) -> None:
    program = f"""
if rank == 0:
    {ends}
while (message := told()) is not None:
    print(message, flush=True)
    if "ended" in message:
        break
"""
    found, _, err = Launched(tmp_path, program=program).end()
    assert found == code
    assert "'ended': True" in log_of(tmp_path, 1).read_text()
    host = socket.gethostname()
    assert err.startswith(f"error: rank 0 (node {host}): {error}") if error else err == ""


def test_rank_0_is_told_why_another_rank_ended_and_tells_the_user(tmp_path: Path) -> None:
    program = """
if rank == 1:
    print("error: first", "error: CUDA out of memory", "bye", sep="\\n", file=sys.stderr)
    sys.exit(1)
if rank == 2:
    time.sleep(600) if "failed" in told() else None
print(told()["failed"], flush=True)
sys.exit(1)
"""
    launched = Launched(tmp_path, program=program, count=3, limit_s=2)
    code, out, err = launched.end()
    log = log_of(tmp_path, 1)
    expected = {"rank": 1, "host": socket.gethostname(), "error": "CUDA out of memory"}
    assert out == f"{expected | {'log': str(log)}}\n"
    assert (code, err) == (1, "")


def test_a_killed_rank_is_called_that(tmp_path: Path) -> None:
    program = """
if rank == 1:
    os.kill(os.getpid(), signal.SIGKILL)
print(told()["failed"]["error"])
sys.exit(1)
"""
    code, out, _ = Launched(tmp_path, program=program).end()
    assert (code, out) == (1, "was killed by SIGKILL, as the system does when memory runs out\n")


def test_ranks_that_hang_after_a_failure_are_killed_and_the_failure_is_on_top(
    tmp_path: Path,
) -> None:
    program = """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if rank == 1:
    sys.exit(7)
time.sleep(600)
"""
    code, _, err = Launched(tmp_path, program=program, limit_s=0.2).end()
    host = socket.gethostname()
    log = log_of(tmp_path, 1)
    told = f"rank 1 (node {host}): ended with exit code 7; its log: {log}"
    assert (code, err) == (1, f"error: {told}; run the same command to resume\n")


@pytest.mark.parametrize(("stopped", "code"), [(0, 137), (1, 1)])
def test_a_stopped_rank_is_killed_as_soon_as_another_has_failed(
    tmp_path: Path, stopped: int, code: int
) -> None:
    program = f"""
from pathlib import Path
ready = Path(os.environ["DGPO_TEST_MARK"]) / "ready"
if rank == {stopped}:
    ready.touch()
    os.kill(os.getpid(), signal.SIGSTOP)
while not ready.exists():
    time.sleep(0.01)
time.sleep(0.3)
print("error: rank {stopped} (node a): no sign of life for 20 s", file=sys.stderr)
sys.exit(1)
"""
    found, _, err = Launched(tmp_path, program=program, limit_s=600).end()
    assert found == code
    assert err.startswith(f"error: rank {stopped} (node a): no sign of life for 20 s")
    assert err.count("rank") == 1


WAITS = """
from pathlib import Path
here = Path(os.environ["DGPO_TEST_MARK"])
(here / f"ready{rank}").touch()
while True:
    message = told()
    print(message, flush=True)
    if message and ("ended" in message or (rank == 0 and message["stop"][1] >= STOPS)):
        break
    (here / f"told{rank}").touch()
time.sleep(0.5)
sys.exit(143 if rank == 0 else 0)
"""


def test_a_stop_reaches_the_ranks_and_waits_for_their_checkpoint(
    tmp_path: Path, started: list[Launched]
) -> None:
    launched = Launched(tmp_path, program=WAITS.replace("STOPS", "2"))
    started.append(launched)
    for rank in (0, 1):
        launched.wait_for(f"ready{rank}")
    launched.process.send_signal(signal.SIGUSR1)  # a warning never counts as the second
    launched.wait_for("told0")
    launched.process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    assert launched.process.poll() is None
    os.killpg(launched.process.pid, signal.SIGINT)  # Ctrl-C: the ranks get it too
    code, out, err = launched.end()
    assert (code, err) == (143, "")
    messages = [[signal.SIGUSR1, 0], [signal.SIGTERM, 1], [signal.SIGINT, 2]]
    assert out.splitlines() == [str({"stop": [int(n) for n in each]}) for each in messages]
    assert log_of(tmp_path, 1).read_text().splitlines()[:3] == out.splitlines()


def test_a_second_stop_is_what_ended_the_run_however_rank_0_ended(
    tmp_path: Path, started: list[Launched]
) -> None:
    aborts = WAITS.replace("STOPS", "2").replace("sys.exit(143", "rank or os.abort()\nsys.exit(143")
    launched = Launched(tmp_path, program=aborts)
    started.append(launched)
    for rank in (0, 1):
        launched.wait_for(f"ready{rank}")
    launched.process.send_signal(signal.SIGTERM)
    launched.wait_for("told0")
    os.killpg(launched.process.pid, signal.SIGINT)
    code, _, err = launched.end()
    assert (code, err) == (130, "error: stopped at once; run the same command to resume\n")


def test_a_killed_launcher_leaves_no_rank(tmp_path: Path, started: list[Launched]) -> None:
    launched = Launched(tmp_path, program=WAITS.replace("STOPS", "9"), count=3)
    started.append(launched)
    for rank in range(3):
        launched.wait_for(f"ready{rank}")
    launched.process.kill()
    launched.process.communicate()
    assert left_behind(launched.mark, within_s=10) == []


def test_what_a_rank_leaves_behind_is_ended_too(tmp_path: Path) -> None:
    program = """
import subprocess
if rank == 1:
    subprocess.Popen(["setsid", "sleep", "600"])
"""
    code, _, _ = Launched(tmp_path, program=program).end()
    assert code == 0


def test_a_port_in_use_is_a_usage_error_before_anything_starts(tmp_path: Path) -> None:
    with socket.create_server(("", 0)) as other:
        port = other.getsockname()[1]
        start = Start(1, nodes=2, node=0, address="gpu1", port=port)
        with pytest.raises(ConfigError, match=f"--rdzv-endpoint gpu1:{port}: address already in"):
            Launcher(["false"], start=start, run=tmp_path / "run", stop_signal="none").run()
    assert not (tmp_path / "run").exists()


def test_no_rank_starts_before_machine_0_can_be_reached(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
    start = Start(1, nodes=2, node=1, address="127.0.0.1", port=port)
    launcher = Launcher(
        ["false"], start=start, run=tmp_path / "run", stop_signal="none", timeout_s=0.05
    )
    with pytest.raises(DgpoError, match=f"--rdzv-endpoint 127.0.0.1:{port}: nobody listens"):
        launcher.run()
    assert not (tmp_path / "run").exists()
