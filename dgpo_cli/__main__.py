"""The program `dgpo`, also as `python -m dgpo_cli`: ends quietly on Ctrl-C while it still loads."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any, NoReturn

_INTERRUPTED = 130


def main() -> NoReturn:
    """Load the command line and run it."""
    # Whoever started us may have switched Ctrl-C off, as nohup does; that stays.
    listens = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if listens:
        signal.signal(signal.SIGINT, _end)
    from dgpo_cli.cli.main import app

    if listens:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        app()
    except KeyboardInterrupt:  # a second Ctrl-C, while the first is being reported
        sys.exit(_INTERRUPTED)
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
