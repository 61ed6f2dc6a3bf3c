"""Runs commands of dgpo, each in a process of its own that is forked from one with torch loaded.

    python -m tests.golden.commands

reads one JSON object a line (argv, cwd, stdin, stdout, stderr: the last three are files) and
answers with the exit code. A command starts in a few milliseconds instead of seconds, and what one
leaves behind in memory another never sees.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
# Of every command, so that no width, colour, cache or hash of the caller's gets into a file.
_ENVIRONMENT = {
    "PYTHONPATH": str(REPOSITORY),
    "PYTHONHASHSEED": "0",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "COLUMNS": "100",
    "LINES": "40",
    "TERM": "dumb",
    "NO_COLOR": "1",
    "LC_ALL": "C.UTF-8",
    "TZ": "UTC",
}
# Before any command; what dgpo itself imports is imported by each.
_LOADED = (
    *("typer", "rich.console", "rich.markup", "pydantic", "tomlkit", "peft"),
    *("torch.utils.tensorboard", "transformers.models.qwen2.modeling_qwen2"),
)
_KEPT = ("PATH", "LD_LIBRARY_PATH", "ATEN_CPU_CAPABILITY", "TMPDIR")


def environment(home: Path) -> dict[str, str]:
    """Return the environment of a command whose caches and keys are below `home`."""
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    state = {"HOME": str(home), "XDG_STATE_HOME": str(home), "XDG_CACHE_HOME": str(home)}
    return kept | _ENVIRONMENT | state


@dataclass(frozen=True, slots=True)
class Said:
    """What a command has printed."""

    code: int
    out: str
    err: str


class Commands:
    """Runs commands in one folder; use it as a context."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        home = folder / "home"
        home.mkdir()
        self._logs = folder / "logs"
        self._logs.mkdir()
        self._count = 0
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.golden.commands"],
            cwd=REPOSITORY,
            env=environment(home),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Commands:
        return self

    def __exit__(self, *raised: object) -> None:
        self._server.communicate()

    def __call__(self, *arguments: str | Path, code: int = 0, stdin: str = "") -> Said:
        """Run `dgpo ARGUMENTS` and expect an exit code."""
        self._count += 1
        files = {
            name: self._logs / f"{self._count:02}-{name}" for name in ("stdin", "stdout", "stderr")
        }
        files["stdin"].write_text(stdin)
        request = {"argv": list(map(str, arguments)), "cwd": str(self.folder)}
        request |= {name: str(path) for name, path in files.items()}
        assert self._server.stdin is not None and self._server.stdout is not None
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        answer = int(self._server.stdout.readline())
        said = Said(answer, files["stdout"].read_text(), files["stderr"].read_text())
        assert said.code == code, f"dgpo {' '.join(map(str, arguments))}\n{said.err[-3000:]}"
        return said


def _serve() -> None:
    for name in _LOADED:
        importlib.import_module(name)
    gc.freeze()  # else every command tidies up all that was imported here when it ends
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            _become(request)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)  # noqa: T201


def _become(request: Mapping[str, str]) -> None:
    """Be the command; its SystemExit ends this process as it would end any."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(request["cwd"])
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        flags = os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        os.dup2(os.open(request[name], flags, 0o600), number)
    sys.stdin = os.fdopen(0, encoding="utf-8")
    sys.argv = ["dgpo", *request["argv"]]
    runpy.run_module("dgpo_cli", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _serve()
