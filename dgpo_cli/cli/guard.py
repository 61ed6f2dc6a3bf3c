"""Ends the process for every way a command can end: exit codes and one line to the user.

0 done, 1 a failed run, 2 usage or settings, 130 Ctrl-C. Tracebacks only with --debug.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

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


def guarded(command: Callable[[], object], *, debug: bool) -> int:
    """Run a command and return the exit code of the process."""
    try:
        result = command()
        console.flush()
    except KeyboardInterrupt as stop:
        return _explain(Interrupted(str(stop)))
    except Exception as error:
        if debug and not isinstance(error, (BrokenPipeError, Interrupted)):
            console.show_traceback(error)
        return _explain(error)
    # Typer returns the code of an early exit, and makes one of a Ctrl-C outside of any command.
    code = result if isinstance(result, int) else 0
    return _explain(Interrupted()) if code == INTERRUPTED else code


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
