"""Ctrl-C while the program still loads ends it in one line, like later; nohup stays nohup."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

# Strikes in the middle of an import, where Python would put a traceback.
STRIKE = """
import os, signal, sys

class Strike:
    def find_spec(self, name, path=None, target=None):
        if name == "typer":
            os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, signal.{handler})
sys.meta_path.insert(0, Strike())
sys.argv = ["dgpo", "--version"]
from dgpo_cli.__main__ import main
main()
"""


@pytest.mark.parametrize(
    ("handler", "code", "out", "err"),
    [
        ("default_int_handler", 130, "", "interrupted\n"),
        ("SIG_IGN", 0, "dgpo ", ""),
    ],
)
def test_ctrl_c_while_loading(handler: str, code: int, out: str, err: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", STRIKE.format(handler=handler)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (ended.returncode, ended.stderr) == (code, err)
    assert ended.stdout.startswith(out) and bool(ended.stdout) == bool(out)


def test_the_installed_command_starts_there() -> None:
    project = Path(__file__).parents[2] / "pyproject.toml"
    scripts = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["scripts"]
    assert scripts == {"dgpo": "dgpo_cli.__main__:main"}
