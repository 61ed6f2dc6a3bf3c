"""Seconds by phase: what is inside is not counted twice."""

from __future__ import annotations

import threading

import pytest

from dgpo_cli.core import timing
from dgpo_cli.core.timing import Stopwatch


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(timing.time, "perf_counter", lambda: self.now)


def test_what_an_inner_phase_takes_is_not_the_outers(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    watch = Stopwatch()
    with watch.phase("statistics"):
        clock.now += 2
        with watch.phase("update"):
            clock.now += 5
        clock.now += 1
        with watch.phase("update"):
            clock.now += 4
    clock.now += 50  # nobody's
    with watch.phase("update"):
        clock.now += 0.5
    assert watch.take() == {"statistics": 3.0, "update": 9.5}
    assert watch.take() == {}


def test_a_phase_that_fails_is_counted_and_left(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    watch = Stopwatch()
    with pytest.raises(KeyError), watch.phase("outer"):
        clock.now += 1
        with watch.phase("inner"):
            clock.now += 2
            raise KeyError
    with watch.phase("outer"):
        clock.now += 4
    assert watch.take() == {"outer": 5.0, "inner": 2.0}


def test_the_device_is_waited_for_before_every_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)

    def settle() -> None:  # what was launched takes 3 seconds
        clock.now += 3

    watch = Stopwatch(settle)
    with watch.phase("update"):
        clock.now += 1
    assert watch.take() == {"update": 4.0}


def test_threads_at_work_at_once_are_counted_in_full_and_only_the_owner_settles(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock(monkeypatch)
    settled: list[int] = []
    watch = Stopwatch(lambda: settled.append(threading.get_ident()))
    inside, leave = threading.Event(), threading.Event()

    def beside() -> None:
        with watch.phase("sample"):
            inside.set()
            leave.wait(60)

    thread = threading.Thread(target=beside)
    with watch.phase("statistics"):
        thread.start()
        inside.wait(60)
        clock.now += 3
        with watch.phase("update"):
            clock.now += 4
        leave.set()
        thread.join()
    assert watch.take() == {"sample": 7.0, "statistics": 3.0, "update": 4.0}
    assert set(settled) == {threading.get_ident()}
