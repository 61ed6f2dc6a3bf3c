"""Which signals this process got: one to stop, as by Ctrl-Z, and continue; one to end.

A handler of Python's runs when the main thread gets to it, which may be a second later; by then
another thread may have drawn over what the shell wrote. The number of a signal is in a pipe from
the moment it comes.
"""

from __future__ import annotations

import os
import signal
import threading
from types import TracebackType
from typing import Any, Self

_ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_MANY = 4096  # bytes of the pipe that are read at once


class Signals:
    """Notices that the process was continued or interrupted; use it as a context.

    interrupted: whether SIGINT, SIGTERM or SIGHUP came, as of the last look.

    Outside the main thread, where Python catches no signals, it notices nothing.
    """

    def __init__(self) -> None:
        self._pipe: tuple[int, int] | None = None
        self._handler: Any = None
        self._wakeup = -1
        self._untold = False
        self.interrupted = False

    def __enter__(self) -> Self:
        main = threading.current_thread() is threading.main_thread()
        if main and os.name == "posix":
            self._pipe = os.pipe()
            for end in self._pipe:
                os.set_blocking(end, False)
            self._wakeup = signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
            self._handler = signal.signal(signal.SIGCONT, lambda number, frame: None)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._pipe is None:
            return
        self.look()
        signal.signal(signal.SIGCONT, self._handler)
        signal.set_wakeup_fd(self._wakeup)
        for end in self._pipe:
            os.close(end)
        self._pipe = None

    def look(self) -> None:
        """Take in the signals since the last look."""
        if self._pipe is None:
            return
        try:
            came = os.read(self._pipe[0], _MANY)
        except BlockingIOError:  # no signal at all
            return
        self.interrupted |= any(number in came for number in _ENDS)
        self._untold |= signal.SIGCONT in came

    def continued(self) -> bool:
        """Look; return whether the process was stopped and continued since the last call."""
        self.look()
        untold, self._untold = self._untold, False
        return untold
