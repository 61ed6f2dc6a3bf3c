"""What ends the run after the step, with a checkpoint: Ctrl-C, SIGTERM, a warning of the end.

A second Ctrl-C or SIGTERM ends it at once. Other ranks, and what started them, pass on what they
got: everybody counts, and the highest count holds, so that a signal to all counts once.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType
from typing import Any, Protocol, Self

from dgpo_cli.core.events import Observer, tell
from dgpo_cli.parallel.ranks import ALONE, Ranks

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_POKE = signal.SIGTERM  # wakes the main thread, whatever it waits for


class Interruptible(Protocol):
    """A run that a signal can stop."""

    observer: Observer

    def wait_no_more(self) -> None:
        """Called in the first signal's handler: it may take no lock."""
        ...

    def stopped_at_once(self) -> str:
        """Return the last line for a run that the second signal ends."""
        ...


class Interrupt:
    """Catches the first signal and lets the second one through; use it as a context.

    Outside the main thread, where Python delivers no signals, only other ranks are heard.
    """

    def __init__(
        self, run: Interruptible, *, ranks: Ranks = ALONE, stop_signal: str = "none"
    ) -> None:
        """stop_signal: train.stop_signal, which never ends the run at once."""
        self._run, self._ranks = run, ranks
        self._warning = None if stop_signal == "none" else signal.Signals[stop_signal]
        self._caught: int | None = None
        self._own = self._times = 0  # signals of this process; the most that anybody got
        self._last: float | None = None  # when the last one came
        self._failure: Exception | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            numbers = (*_SIGNALS, *filter(None, [self._warning]))
            self._before = {number: signal.signal(number, self._handle) for number in numbers}
        self._ranks.heed(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._ranks.heed(None)
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @property
    def requested(self) -> bool:
        """Whether the run should end."""
        return self._caught is not None

    def end(self, message: str) -> None:
        """End the process as the signal would have; `message` is the last line for the user."""
        if self._caught == signal.SIGINT:
            raise KeyboardInterrupt(message)
        tell(self._run.observer, message)
        raise SystemExit(128 + (self._caught or 0))

    def ask(self, number: int, times: int) -> None:
        """See Stoppable.ask."""
        more, self._times = times > self._times, max(times, self._times)
        if more and times > 1:
            self._caught = number
            os.kill(os.getpid(), _POKE)
        else:
            self._stop_after_step(number)

    def fail(self, error: Exception) -> None:
        """See Stoppable.fail."""
        self._failure = error
        os.kill(os.getpid(), _POKE)

    def tell(self, text: str) -> None:
        """See Stoppable.tell."""
        tell(self._run.observer, text)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._failure is not None:
            raise self._failure
        if self._times > 1:  # another rank was told so, and this is the poke
            self.end(self._run.stopped_at_once())
        last, self._last = self._last, time.monotonic()
        if last is not None and self._last - last < self._ranks.echo_s:
            return
        if number != self._warning:
            self._own += 1
        if self._own > 1:
            self._caught = number
            self.end(self._run.stopped_at_once())
        self._times = max(self._own, self._times)
        self._stop_after_step(number)

    def _stop_after_step(self, number: int) -> None:
        if self.requested:
            return
        self._caught = number
        self._run.wait_no_more()
        tell(
            self._run.observer,
            "stopping with a checkpoint after this step; a second signal stops at once, "
            "without one",
        )
