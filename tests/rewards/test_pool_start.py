"""Workers may be started ahead; those that do not start are done without, as long as one does."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dgpo_cli.core.errors import DgpoError
from dgpo_cli.rewards.grader import GradeItem, Grader
from dgpo_cli.rewards.protocol import Check
from dgpo_cli.rewards.settings import IntegerReward, MathReward
from dgpo_cli.rewards.workers import pool as pool_module
from dgpo_cli.rewards.workers.pool import WorkerPool
from dgpo_cli.rewards.workers.process import WorkerProcess
from tests.recorder import Notes
from tests.rewards.test_pool import MISBEHAVE, is_alive, task


def test_workers_that_were_started_ahead_do_the_work() -> None:
    with WorkerPool(MISBEHAVE, workers=2, timeout_s=60) as pool:
        pool.start()
        started = set(pool.pids)
        assert len(started) == 2 and all(map(is_alive, started))
        pool.start()
        assert set(pool.pids) == started
        found = {int(text or 0) for _, text in pool.run([task("pid")] * 20)}
        assert found <= started
    assert not any(map(is_alive, started))


def test_a_closed_pool_starts_nothing() -> None:
    pool = WorkerPool(MISBEHAVE, workers=2, timeout_s=60)
    pool.close()
    pool.start()
    assert pool.pids == ()


def test_a_grader_that_was_started_grades() -> None:
    with Grader(IntegerReward(workers=1)) as grader:
        grader.start()
        (verdict,) = grader.grade([GradeItem("4", r"\boxed{4}", "stop")])
    assert (verdict.outcome, verdict.reward) == ("correct", 1.0)


class Starts:
    """Stands for WorkerProcess: start number n (from 0) fails where `fails(n)` says so.

    how: "exit": the process ends at once; "limit": there is no process left for it.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fails: Callable[[int], bool], how: str):
        self.at: list[float] = []
        self.fails, self.how = fails, how
        self._start = pool_module.WorkerProcess
        monkeypatch.setattr(pool_module, "WorkerProcess", self)

    def __call__(self, check: Check, *, memory_bytes: int, log: object) -> WorkerProcess:
        number = len(self.at)
        self.at.append(time.monotonic())
        if not self.fails(number):
            return self._start(check, memory_bytes=memory_bytes, log=None)
        if self.how == "limit":
            raise BlockingIOError(11, "Resource temporarily unavailable")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "executable", "/bin/false")
            return self._start(check, memory_bytes=memory_bytes, log=None)


@pytest.mark.parametrize("how", ["exit", "limit"])
def test_a_pool_goes_on_with_the_workers_that_start_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(pool_module, "FIRST_PAUSE_S", 0.01)
    starts = Starts(monkeypatch, lambda number: number > 0, how)
    notes = Notes()
    tasks = [task("", str(number)) for number in range(2000)]
    with WorkerPool(MISBEHAVE, workers=3, timeout_s=60, observer=notes) as pool:
        for _ in range(3):
            assert pool.run(tasks) == [("correct", text) for _, text, _ in tasks]
        assert len(pool.pids) == 1
    assert len(starts.at) > 2  # it is tried again
    (note,) = notes.texts or [""]
    assert note.startswith("only 1 of 3 answer workers run, another does not start (")
    assert "reward.workers" in note


@pytest.mark.parametrize("how", ["exit", "limit"])
def test_starts_that_fail_are_tried_less_and_less_often(
    monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(pool_module, "FIRST_PAUSE_S", 0.05)
    starts = Starts(monkeypatch, lambda number: number < 4, how)
    with WorkerPool(MISBEHAVE, workers=1, timeout_s=60) as pool:
        assert pool.run([task("", "a")]) == [("correct", "a")]
    pauses = [after - before for before, after in zip(starts.at, starts.at[1:], strict=False)]
    assert len(pauses) == 4
    for pause, least in zip(pauses, (0.05, 0.1, 0.2, 0.4), strict=True):
        assert pause >= least


@pytest.mark.parametrize(
    ("how", "reason"), [("exit", "exit code 1"), ("limit", "Resource temporarily unavailable")]
)
def test_a_pool_of_which_no_worker_starts_ends_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, how: str, reason: str
) -> None:
    monkeypatch.setattr(pool_module, "FIRST_PAUSE_S", 0.001)
    starts = Starts(monkeypatch, lambda number: True, how)
    with (
        WorkerPool(MISBEHAVE, workers=2, timeout_s=5) as pool,
        pytest.raises(DgpoError, match=rf"no worker process starts.*{reason}.*reward\.workers"),
    ):
        pool.run([task("")])
    assert len(starts.at) >= pool_module.MAX_FAILED_STARTS


def test_a_limit_of_memory_that_is_too_small_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "FIRST_PAUSE_S", 0.001)
    check = MathReward().check()
    with (
        WorkerPool(check, workers=1, timeout_s=5, memory_bytes=48 << 20) as pool,
        pytest.raises(DgpoError, match=r"no worker process starts.*ulimit -v"),
    ):
        pool.run([task("1", "x")])


def test_the_last_line_of_a_worker_that_broke_down_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho noise >&2\necho ModuleNotFoundError: lost >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(pool_module, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(sys, "executable", str(broken))
    with (
        WorkerPool(MISBEHAVE, workers=1, timeout_s=5) as pool,
        pytest.raises(
            DgpoError, match=r"ModuleNotFoundError: lost; .*import tests\.rewards\.checks"
        ),
    ):
        pool.run([task("")])
