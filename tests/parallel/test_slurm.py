"""The script for Slurm, with a srun and a scontrol that write down how they were called."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.cli.helpers import dgpo

SCRIPT = Path(__file__).parents[2] / "examples" / "slurm" / "train.sbatch"


def program(place: Path, text: str) -> None:
    place.parent.mkdir(exist_ok=True)
    place.write_text(f"#!/bin/sh\n{text}\n")
    place.chmod(0o755)


def test_the_script_is_bash_and_asks_slurm_for_a_task_a_gpu() -> None:
    subprocess.run(["bash", "-n", str(SCRIPT)], check=True)
    lines = SCRIPT.read_text().splitlines()
    asked = dict(
        line.removeprefix("#SBATCH --").partition("=")[::2]
        for line in lines
        if line.startswith("#SBATCH ")
    )
    assert (asked["nodes"], asked["ntasks-per-node"], asked["gpus-per-node"]) == ("4", "8", "8")
    assert asked["signal"].startswith("USR1@") and "requeue" in asked
    # Slurm reads no line of its own after the first command.
    first = next(at for at, line in enumerate(lines) if line and not line.startswith("#"))
    assert not any(line.startswith("#SBATCH") for line in lines[first:])


@pytest.mark.parametrize(("code", "requeued"), [(138, True), (0, False), (1, False)])
def test_the_job_is_queued_again_only_after_a_warning(
    tmp_path: Path, code: int, requeued: bool
) -> None:
    program(tmp_path / "bin" / "srun", f'echo "$@" > "{tmp_path}/srun.txt"; exit {code}')
    program(tmp_path / "bin" / "scontrol", f'echo "$@" > "{tmp_path}/scontrol.txt"')
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [str(SCRIPT), "--set", "train.steps=7"],
        env={"PATH": path, "SLURM_JOB_ID": "42", "OUT": "/shared/run"},
        check=False,
    )
    assert done.returncode == code
    told = tmp_path / "scontrol.txt"
    assert (told.read_text() if told.exists() else None) == ("requeue 42\n" if requeued else None)
    command = (tmp_path / "srun.txt").read_text().split()
    assert command[:2] == ["dgpo", "train"]
    if requeued:
        shown = dgpo(*command[1:], "--dry-run")
        assert shown.code == 0, shown.err
        settings = dict(line.split()[:2] for line in shown.out.splitlines())
        assert settings["train.stop_signal"] == "SIGUSR1" and settings["train.steps"] == "7"
