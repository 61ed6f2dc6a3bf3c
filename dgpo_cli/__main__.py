"""The program `dgpo`, also as `python -m dgpo_cli`: ends quietly on Ctrl-C while it still loads.

When Python shuts down, it ends every other thread as soon as that asks for the interpreter. In C++,
as in a thread of torch, this aborts the process: a rank would die of SIGABRT after a good run. So a
process that has loaded torch leaves before that.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from typing import Any, NoReturn

_FAILED, _INTERRUPTED = 1, 130


class _End:
    """The end of the process. code: its exit code."""

    def __init__(self) -> None:
        self.code: object = _FAILED  # of an error that nobody expects
        atexit.register(self._leave)  # registered first, it is called last

    def exit(self, code: object) -> NoReturn:
        """End as sys.exit does."""
        self.code = code
        sys.exit(code)  # type: ignore[arg-type]

    def _leave(self) -> None:
        """End the process here if there may be other threads; torch has more than are listed."""
        if threading.active_count() == 1 and "torch" not in sys.modules:
            return
        from dgpo_cli.ui import console

        console.flush_last()
        code = self.code
        os._exit(code if isinstance(code, int) else 0 if code is None else _FAILED)


def main() -> NoReturn:
    """Load the command line and run it."""
    end = _End()
    # Whoever started us may have switched Ctrl-C off, as nohup does; that stays.
    listens = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if listens:
        signal.signal(signal.SIGINT, _end)
    from dgpo_cli.cli.main import app

    if listens:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        app()
    except SystemExit as ended:
        end.exit(ended.code)
    except KeyboardInterrupt:  # a second Ctrl-C, while the first is being reported
        end.exit(_INTERRUPTED)
    finally:
        # Python's own end has nothing to interrupt but libraries' tidying, with a traceback each.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise AssertionError("app ends the process")


def _end(number: int, frame: Any) -> NoReturn:
    # No exception: it would come out of some import, with a traceback.
    os.write(2, b"interrupted\n")
    os._exit(_INTERRUPTED)


if __name__ == "__main__":
    main()
