"""What is told of a server that ended, and what is ended with it."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest

from dgpo_cli.samplers.vllm import process as vllm_process
from dgpo_cli.samplers.vllm.process import OwnedProcess

WARNING = "(APIServer pid=9) WARNING 11-23 errors like `OSError: [Errno 24] Too many open files`\n"
PREFIX = "(Worker pid=7) ERROR 11-23 17:52:22 [executor.py:1063] "


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (f"{WARNING}{PREFIX}Traceback (most recent call last):\n{PREFIX}RuntimeError: no room\n"
         f"{PREFIX}vllm.errors.EngineDeadError: see above\n", "RuntimeError: no room"),
        (f"{WARNING}ValueError: head size 8\nlast\n", "ValueError: head size 8"),
        ("loading\nKilled\n\n", "Killed"),
    ],
)  # fmt: skip
def test_the_reason_is_the_first_exception_or_the_last_line(
    text: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_process.tempfile, "tempdir", str(tmp_path))
    process = object.__new__(OwnedProcess)
    process.log = tmp_path / "engine.log"
    process.log.write_text(text)
    [told, kept] = process.reason().removesuffix(")").split(" (full log: ")
    assert told == reason
    assert Path(kept).read_text() == text and kept != str(process.log)


def test_only_the_processes_of_the_session_are_killed() -> None:
    command = ["sleep", "60"]
    with (
        subprocess.Popen(command, start_new_session=True) as inside,
        subprocess.Popen(command) as outside,
    ):
        try:
            vllm_process._kill_session(inside.pid)
            assert inside.wait(timeout=20) == -signal.SIGKILL
            assert outside.poll() is None
        finally:
            outside.kill()
