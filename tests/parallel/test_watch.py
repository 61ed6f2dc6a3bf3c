"""Ranks that watch each other: each a thread here, with heartbeats fifty times as fast."""

from __future__ import annotations

import datetime
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from dgpo_cli.core.errors import RankError
from dgpo_cli.parallel import watch as module
from dgpo_cli.parallel.pace import Pace, Paces, names
from dgpo_cli.parallel.place import DGPO, Place
from dgpo_cli.parallel.ranks import Seat
from dgpo_cli.parallel.watch import Watch

FAST_S = 0.02


class Run:
    """A run that remembers what the watch asks of it."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []
        self.failures: list[Exception] = []
        self.told: list[str] = []

    def ask(self, number: int, times: int) -> None:
        self.asked.append((number, times))

    def fail(self, error: Exception) -> None:
        self.failures.append(error)

    def tell(self, text: str) -> None:
        self.told.append(text)


class Rank:
    """One rank: a thread that does `work`, and then waits for leave to end."""

    def __init__(self, store: Any, number: int, *, count: int, control: int | None = None) -> None:
        self.run, self.left = Run(), list[int]()
        seat = Seat(number, count, number, "127.0.0.1", 1, hosts=False)
        self.watch = Watch(
            Place(seat, count, DGPO if control is not None else "torchrun", control),
            tell=self.run.tell,
            log=Path(f"run/ranks/rank-{number:05d}.log") if number else None,
            interval_s=FAST_S,
            leave=self.left.append,
        )
        self.error: Exception | None = None
        self._store, self._end = store, threading.Event()
        self.work: Callable[[], None] = lambda: None
        self._thread = threading.Thread(target=self._live, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        self._end.set()
        self._thread.join(30)
        assert not self._thread.is_alive()
        self.watch._thread.join(30)  # it kills the process if a pipe ends

    def _live(self) -> None:
        try:
            with self.watch.guarding():
                self.watch.begin(self._store)
                self.watch.heed(self.run)
                self.work()
                self._end.wait()
        except Exception as error:
            self.error = error


@contextmanager
def ranks(count: int, **works: Callable[[Rank], None]) -> Iterator[list[Rank]]:
    """Start ranks; a keyword such as rank1 is what that rank does."""
    limit = datetime.timedelta(seconds=30)
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, timeout=limit, wait_for_workers=False)
    found = [Rank(store, number, count=count) for number in range(count)]
    for number, rank in enumerate(found):
        work = works.get(f"rank{number}")
        if work is not None:
            rank.work = lambda rank=rank, work=work: work(rank)  # type: ignore[misc]
    with ExitStack() as stack:
        for rank in found:
            rank.start()
            stack.callback(rank.end)
        yield found


def wait_for(what: Callable[[], Any], *, within_s: float = 20) -> None:
    deadline = time.monotonic() + within_s
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_an_error_of_one_rank_is_raised_on_all_as_its_own() -> None:
    def fails(rank: Rank) -> None:
        wait_for(lambda: len(rank.watch._others) > 0)
        raise MemoryError("CUDA out of memory\nand more")

    with ranks(3, rank2=fails) as found:
        wait_for(lambda: found[0].run.failures and found[1].run.failures)
    expected = (
        f"rank 2 (node {os.uname().nodename}): MemoryError: CUDA out of memory; "
        "its log: run/ranks/rank-00002.log"
    )
    for rank in found[:2]:
        (failure,) = rank.run.failures
        assert isinstance(failure, RankError) and str(failure) == expected
    assert isinstance(found[2].error, MemoryError)


def test_what_a_broken_exchange_raises_gives_way_to_its_cause() -> None:
    def fails(rank: Rank) -> None:
        wait_for(lambda: len(rank.watch._others) > 0)
        time.sleep(0.1)
        raise ValueError("the cause")

    def follows(rank: Rank) -> None:
        raise RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [::1]:1")

    with ranks(3, rank0=follows, rank1=fails) as found:
        wait_for(lambda: found[0].error)
    assert isinstance(found[0].error, RankError)
    assert "rank 1 (node" in str(found[0].error) and "ValueError: the cause" in str(found[0].error)


def test_an_exchange_that_took_too_long_names_whom_it_waited_for() -> None:
    def works(rank: Rank) -> None:
        rank.watch.doing("measure")

    def gives_up(rank: Rank) -> None:
        with rank.watch.waiting():
            wait_for(lambda: any(o.call == "measure" for o in rank.watch._others.values()))
            raise RuntimeError("Timed out waiting 1000ms for recv operation to complete")

    with ranks(2, rank0=gives_up, rank1=works) as found:
        wait_for(lambda: found[0].error)
    text = str(found[0].error)
    assert text.startswith("an exchange failed while waiting for rank 1 (")
    assert "parallel.timeout_s" in text


def test_a_silent_rank_is_missed_by_the_leader_and_a_silent_leader_by_all() -> None:
    for silent, witness in ((1, 0), (0, 1)):
        with ranks(2) as found:
            wait_for(lambda: all(rank.watch._others for rank in found))
            found[silent].watch._beat = lambda: None  # type: ignore[method-assign]
            wait_for(lambda witness=witness: found[witness].run.failures)
        (failure,) = found[witness].run.failures
        assert f"rank {silent} (node" in str(failure) and "no sign of life" in str(failure)


def test_a_store_that_never_answers_is_missed_by_its_followers() -> None:
    with ranks(2) as found:
        wait_for(lambda: all(rank.watch._others for rank in found))
        stopped = threading.Event()  # the process of rank 0: a question to its store hangs
        found[1].watch._tick = stopped.wait  # type: ignore[assignment, method-assign]
        wait_for(lambda: found[1].run.failures)
        (failure,) = found[1].run.failures
        assert f"rank 0 (node {os.uname().nodename}): no sign of life" in str(failure)
        stopped.set()


def test_a_rank_that_is_gone_right_after_all_have_met_is_missed_and_named() -> None:
    limit = datetime.timedelta(seconds=30)
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, timeout=limit, wait_for_workers=False)
    leader, follower = (Rank(store, number, count=2).watch for number in (0, 1))
    for watch in (leader, follower):  # no thread runs: neither gives another heartbeat
        watch.begin(store)
    for watch in (leader, follower):
        watch.met()
    for _ in range(30):
        leader._look_at_all()
    follower._leader_ended("has ended")
    for watch, gone in ((leader, 1), (follower, 0)):
        assert str(watch.failure).startswith(f"rank {gone} (node {os.uname().nodename}): ")


@pytest.mark.parametrize("number", [0, 1])
def test_the_threads_of_a_rank_end_before_it_does(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_END", 1000)
    beating, (theirs, ours) = threading.Event(), os.pipe()

    def beats() -> None:
        beating.set()
        time.sleep(0.3)

    watch = Rank(None, number, count=2, control=theirs).watch
    watch._tick = beats  # type: ignore[method-assign]
    with watch.guarding():
        assert beating.wait(20)
    assert not watch._heart.is_alive() and not watch._thread.is_alive()
    os.close(ours)


def test_a_store_that_never_answers_does_not_hold_up_the_end() -> None:
    beating, answer = threading.Event(), threading.Event()

    def hangs() -> None:
        beating.set()
        answer.wait()

    watch = Rank(None, 1, count=2).watch
    watch._tick = hangs  # type: ignore[method-assign]
    with watch.guarding():
        assert beating.wait(20)
    assert watch._heart.is_alive()
    answer.set()
    watch._heart.join(20)
    assert not watch._heart.is_alive()


def test_a_sleep_of_all_is_no_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    with ranks(2) as found:
        wait_for(lambda: all(rank.watch._others for rank in found))
        for rank in found:  # as Ctrl-Z stops them, longer than silence may last
            rank.listen = rank.watch._listen  # type: ignore[attr-defined]
            rank.watch._listen = lambda until: time.sleep(0.6)  # type: ignore[method-assign]
        time.sleep(0.7)
        for rank in found:
            rank.watch._listen = rank.listen  # type: ignore[attr-defined, method-assign]
        time.sleep(0.3)
        assert [rank.run.failures for rank in found] == [[], []]


def test_a_main_thread_that_hangs_is_left_with_the_failure_on_stderr(
    capfd: pytest.CaptureFixture[str],
) -> None:
    def fails(rank: Rank) -> None:
        wait_for(lambda: len(rank.watch._others) > 0)
        raise ValueError("the cause")

    with ranks(2, rank1=fails) as found:
        wait_for(lambda: found[0].left)
    assert found[0].left == [1]
    assert "\nerror: rank 1 (node" in capfd.readouterr().err


def test_a_main_thread_that_stays_in_an_exchange_is_left_before_one_that_works(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_GRACE", 100_000)

    def fails(rank: Rank) -> None:
        wait_for(lambda: len(rank.watch._others) > 0)
        raise ValueError("the cause")

    def hangs(rank: Rank) -> None:
        with rank.watch.waiting():
            rank._end.wait()

    def waits_later(rank: Rank) -> None:
        wait_for(lambda: rank.run.failures)
        with rank.watch.waiting():
            rank._end.wait()

    works = {"rank1": fails, "rank2": hangs, "rank3": waits_later}
    with ranks(4, **works) as found:
        wait_for(lambda: found[2].left)
        time.sleep(0.2)
        assert [rank.left for rank in found] == [[], [], [1], []]
        for rank in found:
            rank.watch._deadline = None


def test_a_follower_ends_when_the_leader_has_ended_but_not_after_its_last_call() -> None:
    with ranks(3) as found:
        wait_for(lambda: all(rank.watch._others for rank in found))
        found[2].watch.over()
        found[0].end()
        wait_for(lambda: found[1].run.failures)
        time.sleep(0.2)
    assert "rank 0 (node" in str(found[1].run.failures[0])
    assert found[2].run.failures == [] and found[0].run.failures == []


def test_a_signal_of_a_follower_reaches_the_leader() -> None:
    with ranks(3) as found:
        wait_for(lambda: all(rank.watch._run for rank in found))
        found[2].watch._ask(signal.SIGTERM, 1)
        wait_for(lambda: found[0].run.asked)
        assert found[0].run.asked[-1] == (signal.SIGTERM, 1)
        found[1].watch._ask(signal.SIGTERM, 2)
        wait_for(lambda: found[0].run.asked[-1] == (signal.SIGTERM, 2))


def test_the_launcher_is_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[tuple[int, int]] = []
    theirs, ours = os.pipe()
    rank = Rank(None, 0, count=2, control=theirs)
    rank.watch.begin = lambda store: None  # type: ignore[method-assign]
    rank.start()
    wait_for(lambda: rank.watch._run)
    os.write(ours, b'{"stop": [15, 1]}\n{"stop": [2, 2]}\n')
    wait_for(lambda: len(rank.run.asked) == 2)
    assert rank.run.asked == [(15, 1), (2, 2)]
    failed = b'{"failed": {"rank": 1, "host": "gpu7", "error": "killed", "log": "a.log"}}\n'
    os.write(ours, failed)
    wait_for(lambda: rank.run.failures)
    assert str(rank.run.failures[0]) == "rank 1 (node gpu7): killed; its log: a.log"
    monkeypatch.setattr(os, "kill", lambda pid, number: killed.append((pid, number)))
    os.close(ours)
    wait_for(lambda: killed)
    assert killed == [(os.getpid(), signal.SIGKILL)]
    rank.end()


def test_what_a_rank_has_told_of_its_failure_holds_over_what_the_launcher_saw() -> None:
    limit = datetime.timedelta(seconds=30)
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, timeout=limit, wait_for_workers=False)
    theirs, ours = os.pipe()
    leader, failed = Rank(store, 0, count=2, control=theirs), Rank(store, 1, count=2).watch
    leader.watch._tick = lambda: None  # type: ignore[method-assign]
    failed.begin(store)
    failed._publish(module.Failure(1, "gpu7", "MemoryError: CUDA out of memory", "a.log"))
    leader.start()
    wait_for(lambda: leader.watch._run)
    seen = {"rank": 1, "host": "gpu7", "error": "ended with exit code 1", "log": "a.log"}
    os.write(ours, json.dumps({"failed": seen}).encode() + b"\n")
    wait_for(lambda: leader.run.failures)
    told = "rank 1 (node gpu7): MemoryError: CUDA out of memory; its log: a.log"
    assert str(leader.run.failures[0]) == told
    leader.watch._deadline = None
    leader.end()
    os.close(ours)


def test_a_stop_that_a_hanging_start_does_not_hear_ends_the_process(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    killed: list[int] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: killed.append(number))
    theirs, ours = os.pipe()
    rank = Rank(None, 0, count=2, control=theirs)
    rank.watch.begin = lambda store: None  # type: ignore[method-assign]
    rank.watch.heed = lambda run: None  # type: ignore[method-assign]
    rank.start()
    os.write(ours, b'{"stop": [10, 0]}\n')  # a warning is kept for the run
    os.write(ours, b'{"stop": [15, 1]}\n')
    wait_for(lambda: rank.left)
    assert (killed, rank.left) == ([signal.SIGTERM], [128 + signal.SIGTERM])
    assert capfd.readouterr().err == "\ninterrupted\n"
    rank.end()
    os.close(ours)


def test_a_long_wait_names_the_rank_and_its_call_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_NOTE", 5)

    def measures(rank: Rank) -> None:
        rank.watch.doing("measure")

    def waits(rank: Rank) -> None:
        with rank.watch.waiting():
            wait_for(lambda: rank.run.told)
            time.sleep(0.3)

    def waits_too(rank: Rank) -> None:
        with rank.watch.waiting():
            rank._end.wait()

    with ranks(3, rank0=waits, rank1=measures, rank2=waits_too) as found:
        wait_for(lambda: not found[0].watch._waits_since and found[0].run.told)
    (note,) = found[0].run.told
    host = os.uname().nodename
    assert note.startswith("waiting 0") or note.startswith("waiting 1")
    assert note.endswith(f"s for rank 1 ({host}), which is in measure")


def test_ranks_that_never_came_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_NOTE", 5)
    with ranks(1) as found:
        found[0].watch.count = 3
        with found[0].watch.waiting():
            wait_for(lambda: found[0].run.told)
    assert found[0].run.told == ["waiting 0 s for ranks 1, 2, not started yet"]


def test_a_rank_that_is_slow_again_and_again_is_named_once() -> None:
    paces, hosts = Paces(), {n: f"gpu{n}" for n in range(4)}
    notes = []
    for minute in range(10):
        parts = 10 * minute
        # Rank 3 takes twice as long; rank 1 was slow for a while.
        work = dict.fromkeys(range(4), (1.0 * parts, parts))
        work[3] = 2.0 * parts, parts
        work[1] = (1.0 * parts + (30.0 if minute > 4 else 0.0), parts)
        notes.append(paces.slow_one(work, hosts, now=61.0 * minute))
    assert [note for note in notes if note] == [
        "rank 3 (gpu3) is slow: 2 s for a micro-batch, the median rank 1 s; all others wait for it"
    ]


def test_nearly_equal_ranks_and_those_without_work_are_not_called_slow() -> None:
    paces, with_idle = Paces(), Paces()
    for minute in range(10):
        parts = 10 * minute
        work = {0: (1.0 * parts, parts), 1: (1.4 * parts, parts)}
        assert paces.slow_one(work, {}, now=61.0 * minute) is None
        work = {0: (1.0 * parts, parts), 1: (9.0 * parts, 3)}
        assert with_idle.slow_one(work, {}, now=61.0 * minute) is None


def test_only_work_on_micro_batches_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    pace = Pace()

    def lasts(seconds: float) -> None:
        clock[0] += seconds

    pace.begin()
    lasts(5)  # a call without micro-batches, such as a sync
    pace.pause()
    lasts(100)  # for the others
    pace.begin()
    pace.deal(3)
    lasts(6)
    pace.pause()
    assert (pace.busy_s, pace.parts) == (6.0, 3)


def test_many_ranks_are_named_in_short() -> None:
    hosts = {n: f"g{n // 2}" for n in range(9)}
    assert names([4], hosts) == "rank 4 (g2)"
    assert names([1, 2, 3, 4, 5], hosts) == "ranks 1 (g0), 2 (g1), 3 (g1) and 2 more"
