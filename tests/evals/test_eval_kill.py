"""An evaluation that was killed and resumed has the bytes of one that was not."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.train.test_kill import processes_of

BATCH = 16
K = 24
ARGS = [
    *["eval", "--bench", "sums", "--preset", "tiny", "--k", str(K)],
    *["--set", f"rollout.backend.batch_size={BATCH}", "--set", "train.threads=1"],
    *["--set", "reward.workers=1"],
]


def start(out: Path, *extra: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "dgpo_cli", *ARGS, "--out", str(out), *extra],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(out: Path, *extra: str) -> str:
    process = start(out, *extra)
    text, _ = process.communicate(timeout=300)
    assert process.returncode == 0, text
    return text


def lines(out: Path) -> list[bytes]:
    path = out / "samples.jsonl"
    return path.read_bytes().splitlines(keepends=True) if path.exists() else []


def wait_for_samples(out: Path, count: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        if len(lines(out)) >= count:
            return
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.002)
    raise AssertionError(f"{count} samples were not reached")


@pytest.mark.slow
def test_killed_at_random_moments_and_resumed_has_the_bytes_of_a_straight_one(
    tmp_path: Path,
) -> None:
    finish(tmp_path / "whole")
    whole = lines(tmp_path / "whole")
    assert len(whole) == 30 * K
    rng = random.Random(int.from_bytes(os.urandom(4), "little"))
    out = tmp_path / "killed"
    for _ in range(3):
        target = min(len(lines(out)) + rng.randrange(1, 200), 30 * K - 2 * BATCH)
        process = start(out)
        wait_for_samples(out, target, process)
        time.sleep(rng.random() * 0.1)  # anywhere in a batch, a write included
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        there = lines(out)
        assert len(there) >= target  # what was once on the disk stays there
        assert without_second(whole)[: len(there)] == without_second(there), target
    text = finish(out)
    assert lines(out) == whole
    assert "samples are stored; drawing the others" in text
    reports = [json.loads((path / "report.json").read_text()) for path in (tmp_path / "whole", out)]
    assert reports[0]["problems"] == reports[1]["problems"]


def without_second(found: list[bytes]) -> list[bytes]:
    """The lines as they were before the second opinion was asked, without their digest."""
    return [re.split(rb',"second":|,"digest":', line)[0] for line in found]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_ctrl_c_keeps_what_is_finished_and_says_how_to_go_on(tmp_path: Path) -> None:
    process = start(tmp_path / "out")
    wait_for_samples(tmp_path / "out", 2 * BATCH, process)
    os.kill(process.pid, signal.SIGINT)
    text = process.communicate(timeout=60)[0]
    kept = len(lines(tmp_path / "out"))
    assert process.returncode == 130
    assert kept % BATCH == 0 and kept >= 2 * BATCH
    assert f"stopped; {kept} of {30 * K} samples are kept in {tmp_path / 'out'}" in text
    assert "Traceback" not in text
    deadline = time.monotonic() + 10
    while processes_of(process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert processes_of(process.pid) == []


@pytest.mark.slow
def test_regrade_and_a_larger_k_from_the_command_line(tmp_path: Path) -> None:
    out = tmp_path / "out"
    finish(out, "--k", "2")
    command = [sys.executable, "-m", "dgpo_cli", "regrade", str(out), "--json", "--answers"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    data = json.loads(done.stdout)
    assert data["flips"] == []
    assert data["report"] == json.loads((out / "report.json").read_text())
    text = finish(out, "--k", "3")
    assert "60 of 90 samples are stored" in text
    assert len(lines(out)) == 90
