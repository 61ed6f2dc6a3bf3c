"""The user's pager: which one it is, and text through it with the colours kept."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping


def command(environ: Mapping[str, str] = os.environ) -> list[str] | None:
    """The command of PAGER, less where it is not set; None where text is to be printed as it is.

    An empty PAGER and `cat` ask for no pager; a dumb terminal cannot show one.
    """
    if environ.get("TERM", "dumb") in ("", "dumb", "unknown"):
        return None
    chosen = environ.get("PAGER")
    if chosen is None:
        return ["less"] if shutil.which("less") else None
    try:
        words = shlex.split(chosen)
    except ValueError:  # an unclosed quote
        return None
    return None if not words or words == ["cat"] else words


def environment(environ: Mapping[str, str] = os.environ, *, encoding: str) -> dict[str, str]:
    """The pager's environment: less keeps colours and, unless told otherwise, ends where the text
    fits the screen and leaves it there."""
    own = dict(environ)
    less = own.get("LESS")
    own["LESS"] = "FRX" if less is None else f"{less} -R" if less.strip() else "R"
    own.setdefault("LV", "-c")
    if encoding.lower().replace("-", "") == "utf8":
        own.setdefault("LESSCHARSET", "utf-8")
    return own


def run(command: list[str], text: str, *, encoding: str) -> bool:
    """Show `text`, and wait until the user has left; False if the pager could not be started.

    Whoever leaves early reads no further; Ctrl-C is the pager's own while it is open.
    """
    try:
        pager = subprocess.Popen(command, stdin=subprocess.PIPE, env=environment(encoding=encoding))
    except OSError:
        return False
    try:
        pager.communicate(text.encode(encoding, errors="backslashreplace"))
    except KeyboardInterrupt:
        _wait(pager)
    return True


def _wait(pager: subprocess.Popen[bytes]) -> None:
    """Wait for the user to leave, however often Ctrl-C is pressed: it is meant for the pager."""
    while pager.poll() is None:
        try:
            if pager.stdin is not None and not pager.stdin.closed:
                pager.stdin.close()
            pager.wait()
        except KeyboardInterrupt:
            continue
        except BrokenPipeError:
            continue
