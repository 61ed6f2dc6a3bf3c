"""Runs dgpo as a user does: in a process of its own, in a pipe or on a terminal."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from typer.testing import CliRunner, Result

from dgpo_cli.cli.main import app

CLEAN = ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "TERMINAL_WIDTH", "GITHUB_ACTIONS", "PY_COLORS")
ESCAPE = "\x1b"
COLOUR = re.compile(r"\x1b\[(?:\d+;)*(?:3[0-7]|38|9[0-7]|4[0-7])(?:;\d+)*m")
OTHER = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def in_process(*arguments: str) -> Result:
    """Run dgpo in this process, so that its workflows can be replaced."""
    return CliRunner().invoke(app, list(arguments))


@dataclass(frozen=True)
class Ended:
    """How a process ended. On a terminal, everything it printed is in `out`."""

    code: int
    out: str
    err: str


def environment(**more: str) -> dict[str, str]:
    base = {key: value for key, value in os.environ.items() if key not in CLEAN}
    return base | {"TERM": "xterm-256color", "OMP_NUM_THREADS": "1"} | more


def run_python(code: str, *arguments: str) -> Ended:
    """Run a piece of Python with sys.argv[1:] = arguments, in pipes."""
    return _piped([sys.executable, "-c", code, *arguments], environment())


def dgpo(*arguments: str, env: Mapping[str, str] | None = None) -> Ended:
    """Run dgpo in pipes."""
    return _piped([sys.executable, "-m", "dgpo_cli", *arguments], environment(**(env or {})))


def _piped(command: list[str], env: dict[str, str]) -> Ended:
    done = subprocess.run(
        command, env=env, capture_output=True, text=True, timeout=60, check=False, encoding="utf-8"
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def on_terminal(*command: str, columns: int = 80, env: Mapping[str, str] | None = None) -> Ended:
    """Run a command with stdout and stderr on a pseudo-terminal of `columns`."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        command,
        env=environment(COLUMNS=str(columns), **(env or {})),
        stdin=follower,
        stdout=follower,
        stderr=follower,
    )
    os.close(follower)
    out = b"".join(_chunks(leader)).decode().replace("\r\n", "\n")
    os.close(leader)
    return Ended(process.wait(timeout=60), out, "")


def _chunks(descriptor: int) -> Iterator[bytes]:
    with contextlib.suppress(OSError):  # Linux reports the end of a terminal as an error
        while chunk := os.read(descriptor, 65536):
            yield chunk


def without_escapes(text: str) -> str:
    return OTHER.sub("", text)
