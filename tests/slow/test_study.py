"""A real study that is killed and goes on: its runs are those of `dgpo train`, to the bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from dgpo_cli.study.folder import steps_kept
from dgpo_cli.study.read import read_study
from tests.cli.helpers import environment
from tests.processes import left_behind

STUDY = """
preset = "tiny"
seeds = [3]
[set]
train.steps = 6
train.checkpoint_every = 2
train.threads = 1
eval.every = 0
rollout.prompts_per_step = 4
rollout.group_size = 4
[variants.uniform]
credit.rule = "uniform"
[variants.entropy]
credit.rule = "entropy"
[eval]
bench = "sums-easy"
k = 2
"""
ALONE = (
    *("train", "--preset", "tiny", "--steps", "6", "--set", "train.threads=1", "--seed", "3"),
    *("--set", "eval.every=0", "--set", "rollout.prompts_per_step=4"),
    *("--set", "rollout.group_size=4", "--set", "credit.rule=entropy", "--out", "alone"),
)


def numbers(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    timed = ("time/", "throughput/", "memory/")
    return [{k: v for k, v in line.items() if not k.startswith(timed)} for line in lines]


@pytest.mark.slow
def test_a_killed_study_goes_on_to_the_bit(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text(STUDY)
    mark = f"{os.getpid()}-{time.time()}"
    root = str(Path(__file__).parents[2])
    env = environment(MARK=mark, PYTHONPATH=root)

    def start(*words: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "dgpo_cli", *words]
        return subprocess.Popen(command, cwd=tmp_path, env=env, text=True, stderr=subprocess.PIPE)

    runs = tmp_path / "studies/s/runs"
    study = start("study", "s.toml", "--jobs", "2")
    deadline = time.monotonic() + 240
    while not any(0 < steps_kept(run) < 6 for run in runs.glob("*/*")):
        assert study.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    study.send_signal(signal.SIGKILL)
    study.wait()
    assert left_behind(f"MARK={mark}", within_s=60) == []
    again = start("study", "s.toml", "--jobs", "2")
    assert again.wait(timeout=400) == 0, again.stderr and again.stderr.read()
    assert start(*ALONE).wait(timeout=200) == 0
    assert numbers(runs / "entropy/seed-3") == numbers(tmp_path / "alone")
    found = read_study(tmp_path / "studies/s")
    assert {run.state for run in found.runs} == {"finished"} and found.notes == ()
    for run in found.runs:
        assert run.before is not None and run.after is not None
        assert (run.before.k, run.after.k) == (2, 2)
