"""Keys that are pressed while the panel is shown.

Lines are not edited and nothing is echoed meanwhile; Ctrl-C and Ctrl-Z work as ever. The terminal
gets its own mode back when the panel ends, and while the process is in the background.
"""

from __future__ import annotations

import os
import select
import sys
from types import TracebackType
from typing import Any, Self

try:
    import termios
    import tty
except ImportError:  # Windows
    termios = None  # type: ignore[assignment]

_MANY = 64  # bytes that are read at once


class Keys:
    """Reads single keys from stdin where that is our terminal; use it as a context."""

    def __init__(self) -> None:
        self._own: list[Any] | None = None  # the terminal's mode before

    def __enter__(self) -> Self:
        self.listen()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._own is not None and _in_front():
            termios.tcsetattr(sys.stdin.fileno(), termios.TCSADRAIN, self._own)
        self._own = None

    def listen(self) -> None:
        """Set the terminal's mode; once more after Ctrl-Z, when a shell has set its own."""
        if not _in_front():
            return
        descriptor = sys.stdin.fileno()
        if self._own is None:
            self._own = termios.tcgetattr(descriptor)
        tty.setcbreak(descriptor, termios.TCSADRAIN)

    def pressed(self) -> str:
        """Return the keys since the last call, without waiting."""
        if self._own is None or not _in_front():
            return ""
        descriptor = sys.stdin.fileno()
        if not select.select([descriptor], [], [], 0)[0]:
            return ""
        return os.read(descriptor, _MANY).decode(errors="replace")


def _in_front() -> bool:
    """Whether stdin is the terminal whose foreground we are in: reading it stops no process."""
    try:
        descriptor = sys.stdin.fileno()
        return (
            termios is not None
            and os.isatty(descriptor)
            and os.tcgetpgrp(descriptor) == os.getpgrp()
        )
    except (AttributeError, OSError, ValueError):  # closed, or not our controlling terminal
        return False
