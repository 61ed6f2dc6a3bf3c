"""Seconds by phase, measured where the work is done. No torch."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Stopwatch:
    """Adds up wall seconds by phase; an outer phase does not count its inner ones.

    Each thread has phases of its own: two that work at once are both counted in full.

    settle: called before each reading, to wait for a device that works asynchronously. Only in the
        thread that made the watch: another would wait for work that is not its own.
    """

    def __init__(self, settle: Callable[[], None] = lambda: None) -> None:
        self._settle = settle
        self._owner = threading.get_ident()
        self._seconds: dict[str, float] = {}
        self._lock = threading.Lock()
        self._own = _Readings()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the time inside as `name`."""
        self._book()
        self._own.open.append(name)
        try:
            yield
        finally:
            self._book()
            self._own.open.pop()

    def take(self) -> dict[str, float]:
        """Return the seconds of each phase since the last call."""
        with self._lock:
            found, self._seconds = self._seconds, {}
        return found

    def _book(self) -> None:
        """Add the time since the last reading to the innermost phase."""
        if threading.get_ident() == self._owner:
            self._settle()
        own, now = self._own, time.perf_counter()
        if own.open:
            name = own.open[-1]
            with self._lock:
                self._seconds[name] = self._seconds.get(name, 0.0) + now - own.since
        own.since = now


class _Readings(threading.local):
    """The open phases of a thread, the innermost last, and its last reading of the clock."""

    def __init__(self) -> None:
        self.open: list[str] = []
        self.since = 0.0
