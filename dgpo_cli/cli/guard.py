"""Ends the process for every way a command can end: exit codes and one line to the user.

0 done, 1 a failed run, 2 usage or settings, 130 Ctrl-C. Tracebacks only with --debug.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

import typer

from dgpo_cli.core.errors import DgpoError, Interrupted
from dgpo_cli.ui import console

FAILED = 1
USAGE = 2
INTERRUPTED = 130


def take_debug(arguments: list[str]) -> tuple[list[str], bool]:
    """Take --debug out of the arguments, wherever it stands before a "--"."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    rest = [argument for argument in arguments[:end] if argument != "--debug"]
    return [*rest, *arguments[end:]], len(rest) < end


class Guard:
    """Tells the user how a command ended; use it as a context, and then its exit code.

    result: what typer returned: the code of an early exit, which it also makes of a Ctrl-C.
    """

    def __init__(self, *, debug: bool) -> None:
        self.result: object = None
        self.code = FAILED
        self._debug = debug

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        if error is None:
            try:
                console.flush()
            except Exception as found:
                error = found
        if error is None:
            code = self.result if isinstance(self.result, int) else 0
            self.code = _explain(Interrupted()) if code == INTERRUPTED else code
        elif isinstance(error, KeyboardInterrupt):
            self.code = _explain(Interrupted(str(error)))
        elif isinstance(error, Exception):
            if self._debug and not isinstance(error, (BrokenPipeError, Interrupted)):
                console.show_traceback(error)
            self.code = _explain(error)
        else:
            return False
        return True


@contextmanager
def last_words() -> Iterator[None]:
    """Keep what a KeyboardInterrupt says: typer would drop it."""
    try:
        yield
    except KeyboardInterrupt as stop:
        raise Interrupted(str(stop)) from stop


def _explain(error: Exception) -> int:
    """Tell the user what happened, in one line where it is not ours to say more."""
    match error:
        case Interrupted():
            console.aside(str(error) or "interrupted")
            return INTERRUPTED
        case DgpoError():
            console.error(str(error))
            return error.exit_code
        case typer.Abort():
            return _explain(Interrupted())
        case BrokenPipeError():
            console.forget_stdout()
            return FAILED
        case OSError(errno=errno.ENOSPC):
            console.error(f"no space left on the disk{_place(error)}; make room and run it again")
        case OSError(strerror=str(reason)):
            console.error(f"{reason.lower()}{_place(error)}")
        case _:
            lines = [type(error).__name__, *str(error).splitlines()]
            console.error(f"{': '.join(lines[:2])} (--debug shows where)")
    return FAILED


def _place(error: OSError) -> str:
    name = error.filename2 or error.filename  # of a copy or a rename, where it went
    return f": {name}" if name else ""
