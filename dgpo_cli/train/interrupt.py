"""Ctrl-C and SIGTERM while training: the first ends the run after the step, with a checkpoint."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any, Protocol, Self

from dgpo_cli.core.events import Observer, tell

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


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

    Outside the main thread, where Python delivers no signals, it does nothing.
    """

    def __init__(self, run: Interruptible) -> None:
        self._run = run
        self._caught: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
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

    def _handle(self, number: int, frame: FrameType | None) -> None:
        again = self.requested
        self._caught = number
        if again:
            self.end(self._run.stopped_at_once())
        self._run.wait_no_more()
        tell(
            self._run.observer,
            "stopping with a checkpoint after this step; a second signal stops at once, "
            "without one",
        )
