"""An engine of our own in real runs: sampled with, killed, and gone with its run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from dgpo_cli.engine.setup import make_sampler
from dgpo_cli.parallel.guard import descendants
from dgpo_cli.samplers.vllm.engine import OwnEngine
from dgpo_cli.samplers.vllm.sampler import VllmSampler
from tests.processes import interrupt_until_told, left_behind, with_mark
from tests.vllm.test_server import CLOSE, FULL, LORA, Load, largest_gap, move, sample

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

ENGINE = ("rollout.backend.cache_gib=0.25", "rollout.backend.enforce_eager=true")
MEMORY = "rollout.backend.kind=vllm", *ENGINE


def test_an_engine_that_is_killed_comes_back_with_the_weights_that_it_had(load: Load) -> None:
    """All of them, put aside when they were synced: the policy has been trained further since."""
    settings, policy = load(*MEMORY, *FULL, "rollout.overlap=1")
    sampler = make_sampler(settings, policy=policy)
    assert isinstance(sampler, VllmSampler)
    fleet = sampler._fleet
    assert isinstance(fleet, OwnEngine)
    try:
        sample(sampler)
        move(policy)
        sampler.sync(policy_version=1)
        before = sample(sampler)
        assert largest_gap(policy, before, temperature=0.7) < CLOSE
        move(policy, seed=6)
        assert fleet._process is not None
        below = descendants(fleet._process.pid)
        (core,) = [pid for pid in below if b"EngineCore" in name(pid)]
        os.kill(core, signal.SIGKILL)
        after = sample(sampler)
        pairs = [
            (a, b) for g, h in zip(before, after, strict=True) for a, b in zip(g, h, strict=True)
        ]
        assert all(a.token_ids == b.token_ids for a, b in pairs)
        gaps = [
            abs(x - y)
            for a, b in pairs
            for x, y in zip(a.sampling_logprobs, b.sampling_logprobs, strict=True)
        ]
        assert max(gaps) < CLOSE < largest_gap(policy, after, temperature=0.7)
        assert fleet._starts == 2
    finally:
        sampler.close()
    assert [pid for pid in below if Path(f"/proc/{pid}").exists() and not is_zombie(pid)] == []


def test_more_seeded_prompts_than_fit_one_pass_are_sampled(load: Load) -> None:
    """vLLM would read some of them in two parts, which ends its engine on a CPU."""
    wide = ("rollout.backend.max_num_seqs=60", "prompts.max_prompt_tokens=400")
    settings, policy = load(*MEMORY, *LORA, *wide)
    sampler = make_sampler(settings, policy=policy)
    assert isinstance(sampler, VllmSampler)
    prompts = [[2 + (at + i * at) % 20 for i in range(390)] for at in range(60)]
    try:
        found = sample(sampler, prompts=prompts, seeds=[[at] for at in range(60)])
        again = sample(sampler, prompts=prompts[30:31], seeds=[[30]])
        assert sampler._fleet._starts == 1  # type: ignore[attr-defined]
    finally:
        sampler.close()
    assert len(found) == 60
    assert again[0][0].token_ids == found[30][0].token_ids


def name(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes() + Path(f"/proc/{pid}/comm").read_bytes()


def is_zombie(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def start_training(out: Path, *extra: str, model: Path, mark: str) -> subprocess.Popen[str]:
    settings = (
        *(f"model.path={model}", "model.device=cpu", *MEMORY, *LORA),
        # Steps of a second or so: what is done in the middle of one is not done after it.
        *("rollout.prompts_per_step=4", "rollout.group_size=8", "optim.micro_batch_size=4"),
        *("rollout.max_completion_tokens=16", "rollout.backend.max_num_seqs=4"),
        *("train.threads=1", "reward.workers=1", "train.checkpoint_every=1000", "eval.every=0"),
        *extra,
    )
    variable, value = mark.split("=")
    with log_of(out).open("w") as log:
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "dgpo_cli", "train", "--preset", "tiny"),
                *("--steps", "100000", "--out", str(out)),
                *(part for setting in settings for part in ("--set", setting)),
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env=os.environ | {variable: value},
        )


def log_of(out: Path) -> Path:
    """Return where a run of `start_training` says what it does."""
    return out.with_suffix(".log")


def wait_for_steps(out: Path, count: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 600
    file = out / "metrics.jsonl"
    while not file.exists() or len(file.read_text().splitlines()) < count:
        assert process.poll() is None, log_of(out).read_text()
        assert time.monotonic() < deadline
        time.sleep(0.05)


End = Callable[[subprocess.Popen[str], Path], None]


def interrupt_twice(process: subprocess.Popen[str], log: Path) -> None:
    interrupt_until_told(process, log)
    os.killpg(process.pid, signal.SIGINT)


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (interrupt_twice, 130),
        (lambda process, log: process.terminate(), 143),
        (lambda process, log: process.kill(), -9),
    ],
    ids=["Ctrl-C-twice", "SIGTERM", "SIGKILL"],
)
def test_a_run_trains_with_the_engine_and_takes_it_along_when_it_ends(
    small_model: Path, tmp_path: Path, end: End, code: int
) -> None:
    mark = f"DGPO_VLLM_TEST={uuid.uuid4().hex}"
    out = tmp_path / "run"
    process = start_training(out, model=small_model, mark=mark)
    try:
        wait_for_steps(out, 3, process)
        names = b" ".join(name(pid) for pid in with_mark(mark))
        assert b"EngineCore" in names and b"VLLM::Worker" in names
        end(process, log_of(out))
        process.wait(timeout=120)
        assert process.returncode == code, log_of(out).read_text()
        assert left_behind(mark, within_s=30) == []
    finally:
        for pid in with_mark(mark):
            os.kill(pid, signal.SIGKILL)
    for line in (out / "metrics.jsonl").read_text().splitlines():
        metrics = json.loads(line)
        assert metrics["sampler/logprob_gap_max"] < CLOSE
        assert 0 <= metrics["sampler/k3"] < 1e-9


# Rewards that differ by length, so that the weights move: random weights give no right answers.
MOVES = ("reward.overlong.buffer_tokens=15", "optim.lr=1e-2", "train.rollouts_every=1")


def test_a_run_that_samples_ahead_is_exact_goes_on_where_it_stopped_and_leaves_nothing(
    small_model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    mark = f"DGPO_VLLM_TEST={uuid.uuid4().hex}"
    ends: tuple[tuple[int, End, int], ...] = (
        (4, lambda process, log: process.terminate(), 143),
        (8, interrupt_twice, 130),
    )
    for count, end, code in ends:
        process = start_training(out, "rollout.overlap=1", *MOVES, model=small_model, mark=mark)
        try:
            wait_for_steps(out, count, process)
            end(process, log_of(out))
            process.wait(timeout=120)
            text = log_of(out).read_text()
            assert process.returncode == code, text
            assert "Traceback" not in text
            assert ("stopped at step" in text) == (code == 143)
            assert left_behind(mark, within_s=30) == []
        finally:
            for pid in with_mark(mark):
                os.kill(pid, signal.SIGKILL)
    steps = steps_of(out)
    assert [m["step"] for m in steps] == list(range(1, len(steps) + 1))
    updates = [m["optim/updates"] for m in steps]
    assert sum(updates) >= len(steps) / 2
    # Always the weights of one step before, across the interruption as well.
    assert [m["rollout/lag"] for m in steps] == [0.0, *updates[:-1]]
    for metrics in steps:
        assert metrics["sampler/logprob_gap_max"] < CLOSE  # of one version on both sides
        if metrics["rollout/lag"]:
            assert metrics["off_policy/stale_gap_mean"] > 10 * CLOSE  # the test can fail
    for path in sorted((out / "rollouts").iterdir()):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        assert len({line["policy_version"] for line in lines}) == 1


def steps_of(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_two_runs_of_one_machine_keep_to_themselves(small_model: Path, tmp_path: Path) -> None:
    """Started together, with weights that part; the end of one is nothing to the other."""
    outs = [tmp_path / "left", tmp_path / "right"]
    marks = [f"DGPO_VLLM_TEST={uuid.uuid4().hex}" for _ in outs]
    runs = [
        start_training(out, *MOVES, f"seed={seed}", model=small_model, mark=mark)
        for seed, (out, mark) in enumerate(zip(outs, marks, strict=True))
    ]
    try:
        for out, run in zip(outs, runs, strict=True):
            wait_for_steps(out, 2, run)
        runs[0].terminate()
        runs[0].wait(timeout=120)
        assert left_behind(marks[0], within_s=30) == []
        wait_for_steps(outs[1], len(steps_of(outs[1])) + 3, runs[1])
        runs[1].terminate()
        runs[1].wait(timeout=120)
        assert left_behind(marks[1], within_s=30) == []
    finally:
        for pid in (pid for mark in marks for pid in with_mark(mark)):
            os.kill(pid, signal.SIGKILL)
    assert [run.returncode for run in runs] == [143, 143]
    for out in outs:
        # A sync ends a run whose engine has other weights than its own.
        assert max(m["sampler/logprob_gap_max"] for m in steps_of(out)) < CLOSE
        assert sum(m["optim/updates"] for m in steps_of(out)) > 0
