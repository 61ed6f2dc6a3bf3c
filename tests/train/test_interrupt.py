"""Signals that end a run, from whichever process of it they come."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from dgpo_cli.core.errors import RankError
from dgpo_cli.core.events import Event, Note
from dgpo_cli.parallel.ranks import OneRank, Stoppable
from dgpo_cli.train.interrupt import Interrupt


class Run:
    """A run that remembers what it was told; itself its observer."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.waits = 0
        self.observer = self

    def on(self, event: Event) -> None:
        assert isinstance(event, Note)
        self.told.append(event.text)

    def wait_no_more(self) -> None:
        self.waits += 1

    def stopped_at_once(self) -> str:
        return "stopped at once"


class Heard(OneRank):
    """A rank whose run is known, as the watch knows it."""

    run: Stoppable | None = None

    def heed(self, run: Stoppable | None) -> None:
        self.run = run


@contextmanager
def interrupted(
    *, stop_signal: str = "none", echo_s: float = 0.0
) -> Iterator[tuple[Run, Interrupt]]:
    run, ranks = Run(), Heard()
    ranks.echo_s = echo_s
    with Interrupt(run, ranks=ranks, stop_signal=stop_signal) as interrupt:
        assert ranks.run is interrupt
        yield run, interrupt
    assert ranks.run is None


def get(number: int) -> None:
    os.kill(os.getpid(), number)


def code_of(interrupt: Interrupt) -> int | str | None:
    try:
        interrupt.end("over")
    except SystemExit as end:
        return end.code
    except KeyboardInterrupt:
        return 130
    return None


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGHUP, signal.SIGXCPU])
def test_a_warning_stops_the_run_after_the_step_and_never_at_once(number: signal.Signals) -> None:
    with interrupted(stop_signal=number.name) as (run, interrupt):
        assert not interrupt.requested
        get(number)
        get(number)
        get(signal.SIGTERM)  # as Slurm sends when the time is over: the checkpoint is still wanted
        assert interrupt.requested and run.waits == 1 and len(run.told) == 1
        assert code_of(interrupt) == 128 + number
        with pytest.raises(SystemExit) as ended:
            get(signal.SIGTERM)
        assert ended.value.code == 143 and run.told[-1] == "stopped at once"


def test_without_the_setting_a_warning_keeps_its_own_meaning() -> None:
    before = signal.getsignal(signal.SIGUSR1)
    with interrupted():
        assert signal.getsignal(signal.SIGUSR1) == before


def test_one_press_that_every_process_gets_counts_once() -> None:
    with interrupted() as (run, interrupt):
        interrupt.ask(signal.SIGINT, 1)  # the launcher's
        get(signal.SIGINT)
        interrupt.ask(signal.SIGINT, 1)  # a follower's
        assert interrupt.requested and run.waits == 1 and len(run.told) == 1
        with pytest.raises(KeyboardInterrupt, match="stopped at once"):
            get(signal.SIGINT)


def test_a_second_signal_of_another_process_ends_the_run_at_once_as_that_signal() -> None:
    for number, ended in ((signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)):
        with interrupted() as (_, interrupt):
            interrupt.ask(number, 1)
            with pytest.raises(ended):
                interrupt.ask(number, 2)
            assert code_of(interrupt) == 128 + number


def test_a_warning_of_another_process_is_no_first_press() -> None:
    with interrupted() as (run, interrupt):
        interrupt.ask(signal.SIGUSR1, 0)
        get(signal.SIGINT)
        assert interrupt.requested and len(run.told) == 1
        assert code_of(interrupt) == 138


def test_a_signal_that_the_starter_repeats_is_one() -> None:
    with interrupted(echo_s=60) as (run, interrupt):
        get(signal.SIGINT)
        get(signal.SIGTERM)
        assert interrupt.requested and len(run.told) == 1


def test_the_failure_of_another_rank_is_raised_where_the_main_thread_is() -> None:
    failure = RankError("rank 3 (node gpu7): out of memory")
    with interrupted() as (_, interrupt):
        get(signal.SIGINT)
        with pytest.raises(RankError) as raised:
            interrupt.fail(failure)
        assert raised.value is failure
