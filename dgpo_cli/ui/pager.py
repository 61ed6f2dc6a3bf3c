"""The user's pager: its command, and text through it in colour."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from contextlib import suppress


def command(environ: Mapping[str, str] = os.environ) -> list[str] | None:
    """Return the command of PAGER, `less` if it is not set, or None for no pager.

    An empty PAGER and `cat` mean no pager; a dumb terminal has none.
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
    """Return the pager's environment: less keeps colours and, unless LESS says otherwise, exits if
    the text fits the screen and leaves it there."""
    own = dict(environ)
    less = own.get("LESS")
    own["LESS"] = "FRX" if less is None else f"{less} -R" if less.strip() else "R"
    own.setdefault("LV", "-c")
    if encoding.lower().replace("-", "") == "utf8":
        own.setdefault("LESSCHARSET", "utf-8")
    return own


def run(command: list[str], text: str, *, encoding: str) -> bool:
    """Show `text` and wait for the pager to exit; return False if it did not start."""
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
    """Wait for the pager to exit; Ctrl-C is the pager's while it is open."""
    while pager.poll() is None:
        with suppress(KeyboardInterrupt, BrokenPipeError):
            if pager.stdin is not None and not pager.stdin.closed:
                pager.stdin.close()
            pager.wait()
