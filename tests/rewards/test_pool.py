"""The pool under tasks that hang, die, eat memory, print; and what it leaves behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dgpo_cli.core.errors import DgpoError
from dgpo_cli.rewards.protocol import Check, encode, take_frames
from dgpo_cli.rewards.workers import pool as pool_module
from dgpo_cli.rewards.workers.pool import WorkerPool

ROOT = Path(__file__).parents[2]
MISBEHAVE = Check("tests.rewards.checks:misbehave")


def task(gold: str, text: str = "") -> tuple[str, str, str]:
    return gold, text, "stop"


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended but was not collected does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def wait_until(condition: Callable[[], bool], *, seconds: float = 20) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


@pytest.fixture
def pool() -> Iterator[WorkerPool]:
    with WorkerPool(MISBEHAVE, workers=2, timeout_s=60) as pool:
        yield pool


@pytest.fixture
def hasty_pool() -> Iterator[WorkerPool]:
    with WorkerPool(MISBEHAVE, workers=2, timeout_s=0.8) as pool:
        yield pool


def test_results_come_in_the_order_of_the_tasks(pool: WorkerPool) -> None:
    texts = [str(i) for i in range(500)]
    assert pool.run([task("", text) for text in texts]) == [("correct", text) for text in texts]


def test_no_tasks_start_no_worker(pool: WorkerPool) -> None:
    assert pool.run([]) == []
    assert pool.pids == ()


def test_workers_are_started_once(pool: WorkerPool) -> None:
    first = {pid for _, pid in pool.run([task("pid")] * 50)}
    started = pool.pids
    again = {pid for _, pid in pool.run([task("pid")] * 50)}
    # On a busy machine one worker may do all of a run; the other is there all the same.
    assert len(started) == 2
    assert pool.pids == started
    assert first | again <= {str(pid) for pid in started}


@pytest.mark.parametrize("hang", ["hang", "hang in C"])
def test_a_hanging_task_times_out_and_no_other(hang: str) -> None:
    with WorkerPool(MISBEHAVE, workers=1, timeout_s=0.8) as pool:
        (pid,) = [pid for _, pid in pool.run([task("pid")])]
        tasks = [task("", str(i)) for i in range(40)]
        tasks[7] = task(hang)
        results = pool.run(tasks)
        assert results.pop(7) == ("timeout", None)
        assert all(outcome == "correct" for outcome, _ in results)
        assert not is_alive(int(str(pid)))


@pytest.mark.parametrize("death", ["die", "exit"])
def test_a_dying_task_crashes_and_no_other(pool: WorkerPool, death: str) -> None:
    tasks = [task("", str(i)) for i in range(100)]
    for i in (0, 1, 50, 99):
        tasks[i] = task(death)
    results = pool.run(tasks)
    assert [i for i, (outcome, _) in enumerate(results) if outcome == "crash"] == [0, 1, 50, 99]
    assert [text for _, text in results if text] == [text for gold, text, _ in tasks if not gold]


def test_a_task_over_the_memory_limit_crashes_and_one_below_does_not(pool: WorkerPool) -> None:
    results = pool.run([task("memory", str(2 << 30)), task("memory", str(64 << 20)), task("", "a")])
    assert results == [("crash", None), ("wrong", str(64 << 20)), ("correct", "a")]


def test_an_exception_is_a_crash_of_its_task_alone(pool: WorkerPool) -> None:
    results = pool.run([task("raise"), task("", "a")])
    assert results == [("crash", None), ("correct", "a")]


def test_what_libraries_print_or_read_does_not_reach_the_pipes(pool: WorkerPool) -> None:
    assert pool.run([task("print", "a"), task("", "b")]) == [("wrong", "a"), ("correct", "b")]


def test_workers_ignore_ctrl_c(pool: WorkerPool) -> None:
    before = pool.run([task("pid")])
    assert pool.run([task("interrupt", "a")]) == [("correct", "a")]
    assert pool.run([task("pid")]) == before


def test_a_worker_ended_between_runs_costs_no_task(pool: WorkerPool) -> None:
    pool.run([task("")] * 20)
    for pid in pool.pids:
        os.kill(pid, signal.SIGKILL)
    assert wait_until(lambda: not any(map(is_alive, pool.pids)))
    assert pool.run([task("", "a")] * 20) == [("correct", "a")] * 20


def test_a_stopped_worker_times_out(hasty_pool: WorkerPool) -> None:
    hasty_pool.run([task("")])
    (pid,) = hasty_pool.pids
    os.kill(pid, signal.SIGSTOP)
    huge = "x" * 3_000_000  # more than a pipe holds
    assert hasty_pool.run([task("", huge)]) == [("timeout", None)]
    assert hasty_pool.run([task("", huge)]) == [("correct", huge)]


def test_any_text_survives_the_way_to_the_worker_and_back(pool: WorkerPool) -> None:
    texts = ["\ud800 lone surrogate", "\x00\x1b[31m", "漢字 😀", '"\\', "", "\r\n\u2028"]
    assert [text for _, text in pool.run([task("", text) for text in texts])] == texts


def test_frames_are_taken_whole_however_they_arrive() -> None:
    messages = [["a", "\ud800"], {"ready": True}, []]
    stream = b"".join(encode(message) for message in messages)
    buffer, taken = bytearray(), []
    for byte in stream:
        buffer.append(byte)
        taken += take_frames(buffer)
    assert taken == messages
    assert not buffer


def test_integer_workers_import_neither_torch_nor_settings_nor_sympy() -> None:
    code = (
        "import runpy, sys\n"
        "sys.argv = ['worker']\n"
        "import dgpo_cli.rewards.workers.worker as worker\n"
        "worker.load('dgpo_cli.rewards.answer:check_integer')\n"
        "print(' '.join(sys.modules))\n"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout.split()
    assert "dgpo_cli.rewards.integer" in loaded
    assert {"torch", "pydantic", "sympy", "math_verify", "numpy", "typer"}.isdisjoint(loaded)


def test_a_running_worker_has_no_torch_and_starts_fast(pool: WorkerPool) -> None:
    ((_, modules), (_, cpu_s)) = pool.run([task("modules"), task("cpu")])
    assert {"torch", "pydantic", "sympy", "math_verify"}.isdisjoint(str(modules).split())
    assert float(str(cpu_s)) < 1.0  # CPU time; 0.05 s when measured, the rest is for slow machines


def test_close_leaves_no_process_and_refuses_work() -> None:
    pool = WorkerPool(MISBEHAVE, workers=3, timeout_s=5)
    pool.run([task("")] * 50)
    pids = pool.pids
    assert len(pids) == 3
    assert all(map(is_alive, pids))
    pool.close()
    pool.close()
    assert not any(map(is_alive, pids))
    with pytest.raises(DgpoError, match="closed"):
        pool.run([task("")])


def test_a_pool_that_is_forgotten_leaves_no_process() -> None:
    pool = WorkerPool(MISBEHAVE, workers=1, timeout_s=5)
    pool.run([task("")])
    (pid,) = pool.pids
    del pool
    assert not is_alive(pid)


PARENT = """
import os, sys, threading
from dgpo_cli.rewards.workers.pool import WorkerPool
from dgpo_cli.rewards.protocol import Check

def work():
    pool.run([("", "", "stop")] * 50)
    print(*pool.pids, flush=True)
    pool.run([(gold, "", "stop") for gold in ("hang in C", "hang")])

if __name__ == "__main__":
    pool = WorkerPool(Check("tests.rewards.checks:misbehave"), workers=2, timeout_s=600)
    if sys.argv[1] == "thread":
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    else:
        work()
"""


# No Ctrl-C beside a thread: Python's main thread waits for the other one before it ends.
@pytest.mark.parametrize(
    ("where", "end"),
    [
        ("main", signal.SIGKILL),
        ("main", signal.SIGTERM),
        ("main", signal.SIGINT),
        ("thread", signal.SIGKILL),
        ("thread", signal.SIGTERM),
    ],
)
def test_workers_die_with_their_parent_however_it_dies(where: str, end: signal.Signals) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, where],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
    )
    assert parent.stdout is not None
    with parent:
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 2
        assert all(map(is_alive, pids))
        time.sleep(0.1)
        parent.send_signal(end)
    assert wait_until(lambda: not any(map(is_alive, pids)))


def test_workers_outlive_the_thread_that_started_them(pool: WorkerPool) -> None:
    thread = threading.Thread(target=lambda: pool.run([task("")] * 20))
    thread.start()
    thread.join()
    pids = pool.pids
    time.sleep(0.1)
    assert all(map(is_alive, pids))
    assert {pid for _, pid in pool.run([task("pid")] * 20)} <= {str(pid) for pid in pids}


def test_an_interrupted_run_leaves_nothing_in_flight(pool: WorkerPool) -> None:
    def interrupt(amount: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pool.run([task("", str(i)) for i in range(20)], on_done=interrupt)
    assert pool.pids == ()
    assert pool.run([task("", "a")]) == [("correct", "a")]


def test_every_task_is_reported_done_once(hasty_pool: WorkerPool) -> None:
    done: list[int] = []
    hasty_pool.run(
        [task("die"), task("hang"), task("raise"), *[task("")] * 30], on_done=done.append
    )
    assert sum(done) == 33


@pytest.mark.parametrize(
    "target", ["dgpo_cli.rewards.nothing:check", "dgpo_cli.rewards.answer:nothing"]
)
def test_a_check_that_cannot_be_imported_ends_the_run_with_its_reason(
    target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "FIRST_PAUSE_S", 0.001)
    with (
        WorkerPool(Check(target), workers=2, timeout_s=5) as pool,
        pytest.raises(DgpoError, match="nothing"),
    ):
        pool.run([task("")])
