"""A run that was killed and resumed is the run that was not; nothing of it stays behind."""

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
from typing import IO

import pytest
import torch

from tests.processes import interrupt_until_told

STEPS = 10
ARGS = [
    "train",
    "--preset",
    "tiny",
    "--steps",
    str(STEPS),
    *(
        part
        for value in (
            "rollout.prompts_per_step=4",
            "rollout.group_size=4",
            "rollout.max_completion_tokens=48",
            "optim.lr=1e-3",
            "optim.micro_batch_size=8",
            "train.checkpoint_every=2",
            "train.keep_checkpoints=1",
            "train.rollouts_every=1",
            "train.threads=1",
            "reward.workers=1",
        )
        for part in ("--set", value)
    ),
]


DYNAMIC = (
    *("--set", "rollout.dynamic_sampling=true", "--set", "rollout.max_rounds=3"),
    *("--set", "reward.overlong.buffer_tokens=16", "--set", "loss.mask_truncated=true"),
)
VALUES = ("--set", "credit.rule=value", "--set", "credit.continuations=4")


def start(out: Path, *extra: str, log: IO[str] | int = subprocess.PIPE) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "dgpo_cli", *ARGS, "--out", str(out), *extra],
        stdout=log,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def run_command(*arguments: str) -> str:
    """Run dgpo to its end; return what it wrote to stdout."""
    done = subprocess.run(
        [sys.executable, "-m", "dgpo_cli", *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def finish(out: Path, *extra: str) -> str:
    process = start(out, *extra)
    text, _ = process.communicate(timeout=300)
    assert process.returncode == 0, text
    return text


def wait_for_step(out: Path, step: int, process: subprocess.Popen[str]) -> None:
    metrics = out / "metrics.jsonl"
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        if metrics.exists() and len(metrics.read_text().splitlines()) >= step:
            return
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.005)
    raise AssertionError(f"step {step} was not reached")


def numbers(out: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [
        {k: v for k, v in line.items() if not k.startswith(("time/", "throughput/"))}
        for line in lines
    ]


def assert_same_run(one: Path, two: Path) -> None:
    assert numbers(one) == numbers(two)
    last = f"checkpoints/step-{STEPS:06d}"
    model = "model.safetensors"
    assert (one / last / model).read_bytes() == (two / last / model).read_bytes()
    first, second = (torch.load(run / last / "trainer.pt", weights_only=True) for run in (one, two))
    assert torch.equal(first["rng"]["torch"], second["rng"]["torch"])
    states = [trainer["optimizer"]["state"] for trainer in (first, second)]
    for index, state in states[0].items():
        for name, value in state.items():
            assert torch.equal(value, states[1][index][name]), name
    for path in sorted((one / "rollouts").iterdir()):
        assert path.read_bytes() == (two / "rollouts" / path.name).read_bytes()


def processes_of(session: int) -> list[int]:
    """Processes of a session that are still there (Linux)."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == session and fields[0] != "Z":
                found.append(int(entry.name))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("extra", [(), DYNAMIC, VALUES], ids=["plain", "dynamic", "values"])
def test_killed_at_random_steps_and_resumed_is_the_run_that_was_not(
    tmp_path: Path, extra: tuple[str, ...]
) -> None:
    finish(tmp_path / "whole", *extra)
    rng = random.Random(int.from_bytes(os.urandom(4), "little"))
    for number in range(3):
        step = rng.randrange(1, STEPS)
        out = tmp_path / f"kill-{number}-after-step-{step}"  # a failure names the step
        process = start(out, *extra)
        wait_for_step(out, step, process)
        time.sleep(rng.random() * 0.3)  # anywhere within the step, a checkpoint's write included
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        finish(out, *extra)
        assert_same_run(tmp_path / "whole", out)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_however_a_run_ends_no_process_stays_behind(tmp_path: Path, how: signal.Signals) -> None:
    process = start(tmp_path / "run", "--steps", "1000")
    wait_for_step(tmp_path / "run", 1, process)
    assert len(processes_of(process.pid)) >= 2  # the run and its worker
    os.kill(process.pid, how)
    text = process.communicate(timeout=60)[0]
    expected = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -signal.SIGKILL}
    assert process.returncode == expected[how]
    assert "Traceback" not in text
    if how != signal.SIGKILL:  # the step was finished and nothing is lost
        done = len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
        kept = tmp_path / "run" / "checkpoints" / f"step-{done:06d}"
        assert kept.is_dir()
        assert f"stopped at step {done}; checkpoint {kept}; run the same command to resume" in text
        assert "error" not in text
    deadline = time.monotonic() + 10
    while processes_of(process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert processes_of(process.pid) == []


@pytest.mark.slow
def test_second_interrupt_ends_the_run_at_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    large = ("--steps", "1000", "--set", "rollout.group_size=256")
    with log.open("w") as file:
        process = start(tmp_path / "run", *large, log=file)
    wait_for_step(tmp_path / "run", 1, process)
    time.sleep(1.0)  # well into the second step, which takes several seconds with 1,024 completions
    interrupt_until_told(process, log)
    for _ in range(3):  # and again, while the process is ending: there is no traceback to it
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.02)
    process.wait(timeout=60)
    text = log.read_text()
    assert process.returncode == 130
    assert "Traceback" not in text
    assert "stopping with a checkpoint after this step" in text
    assert re.search(
        r"^stopped at once in step \d+; run the same command to start over$", text, re.M
    )


@pytest.mark.slow
def test_second_process_on_a_run_folder_exits_with_1_and_says_who_holds_it(tmp_path: Path) -> None:
    process = start(tmp_path / "run", "--steps", "1000")
    try:
        wait_for_step(tmp_path / "run", 1, process)
        second = start(tmp_path / "run", "--steps", "1000")
        text = second.communicate(timeout=120)[0]
        assert second.returncode == 1
        assert f"in use by process {process.pid} on" in text
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
