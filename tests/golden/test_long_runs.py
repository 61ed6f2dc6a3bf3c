"""Law: whole runs, killed and resumed ones among them, give the numbers that they gave."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.golden.commands import Commands, environment
from tests.golden.conftest import Check
from tests.golden.test_formats import files_of

pytestmark = pytest.mark.slow

WHOLE = ("--preset=tiny", "--steps=60", "--set=train.checkpoint_every=10", "--set=eval.every=30")
DYNAMIC = (
    *("--preset=tiny", "--steps=20", "--set=rollout.dynamic_sampling=true", "--set=eval.every=0"),
    *("--set=rollout.prompts_per_step=8", "--set=rollout.group_size=4"),
    *("--set=train.checkpoint_every=5", "--set=loss.aggregation=constant", "--set=optim.lr=1e-3"),
)
AHEAD = (
    *("--preset=tiny", "--steps=6", "--set=rollout.overlap=1", "--set=eval.every=0"),
    *("--set=rollout.prompts_per_step=4", "--set=rollout.group_size=4"),
    *("--set=rollout.max_completion_tokens=40", "--set=optim.lr=1e-3"),
    *("--set=train.checkpoint_every=2", "--set=train.keep_checkpoints=9"),
    *("--set=rollout.backend.kind=vllm-server", "--set=rollout.backend.weight_transfer=folder"),
)


def numbers_and_weights(run: Path) -> dict[str, Path]:
    """Return the lines of a run's steps and evaluations, and its last checkpoint."""
    last = sorted((run / "checkpoints").iterdir())[-1].relative_to(run).as_posix()
    wanted = ("metrics.jsonl", "evals.jsonl", last)
    is_text = ("README.md", "chat_template.jinja", "tokenizer.json", "tokenizer_config.json")
    return {
        name: path
        for name, path in files_of(run).items()
        if name.startswith(wanted) and not name.endswith(is_text)
    }


def killed_after(step: int, arguments: Sequence[str], *, folder: Path) -> None:
    """Run a command of its own and kill it as soon as that step is written down."""
    home = folder / "home"
    process = subprocess.Popen(
        [sys.executable, "-m", "dgpo_cli", *arguments],
        cwd=folder,
        env=environment(home),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    out = next(each for each in arguments if each.startswith("--out="))
    metrics = folder / out.removeprefix("--out=") / "metrics.jsonl"
    deadline = time.monotonic() + 300
    while not metrics.exists() or f'{{"step": {step},' not in metrics.read_text():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def test_sixty_steps_give_the_numbers_and_weights_that_they_gave(
    dgpo: Commands, check: Check
) -> None:
    dgpo("train", *WHOLE, "--out=whole")
    check("whole", numbers_and_weights(dgpo.folder / "whole"))


def test_sixty_steps_killed_and_resumed_give_the_same(dgpo: Commands, check: Check) -> None:
    killed_after(37, ("train", *WHOLE, "--out=killed"), folder=dgpo.folder)
    dgpo("train", *WHOLE, "--out=killed", "--resume=must")
    check("whole", numbers_and_weights(dgpo.folder / "killed"))


def test_dynamic_sampling_killed_and_resumed_gives_the_numbers_that_it_gave(
    dgpo: Commands, check: Check
) -> None:
    dgpo("train", *DYNAMIC, "--out=dynamic")
    check("dynamic", numbers_and_weights(dgpo.folder / "dynamic"))
    killed_after(13, ("train", *DYNAMIC, "--out=dynamic-killed"), folder=dgpo.folder)
    dgpo("train", *DYNAMIC, "--out=dynamic-killed", "--resume=must")
    check("dynamic", numbers_and_weights(dgpo.folder / "dynamic-killed"))


@pytest.fixture
def server(dgpo: Commands, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The setting with the address of a server that has the embedded model."""
    from tests.golden.model_server import ModelServer

    monkeypatch.setenv("XDG_STATE_HOME", str(dgpo.folder / "home"))
    server = ModelServer()
    yield f'--set=rollout.backend.urls=["{server.address}"]'
    server.down()


def test_a_batch_sampled_ahead_and_the_run_with_it_are_what_they_were(
    dgpo: Commands, server: str, check: Check
) -> None:
    dgpo("train", *AHEAD, server, "--out=ahead")
    files = files_of(dgpo.folder / "ahead")
    kept = ("metrics.jsonl", "checkpoints/step-000004/waiting.json")
    last = numbers_and_weights(dgpo.folder / "ahead")
    check("ahead", {**last, **{name: files[name] for name in kept}})
    killed_after(5, ("train", *AHEAD, server, "--out=ahead-killed"), folder=dgpo.folder)
    dgpo("train", *AHEAD, server, "--out=ahead-killed", "--resume=must")
    files = files_of(dgpo.folder / "ahead-killed")
    last = numbers_and_weights(dgpo.folder / "ahead-killed")
    check("ahead", {**last, **{name: files[name] for name in kept}})


def test_doctor_looks_at_what_it_looked_at(dgpo: Commands, check: Check) -> None:
    """What it finds, and whether that is enough, is the machine's."""
    found = json.loads(dgpo("doctor", "--json").out)
    for each in found["findings"]:
        each |= {name: type(each[name]).__name__ for name in ("state", "found", "fix")}
    found["ok"] = type(found["ok"]).__name__
    check("doctor", {"printed.json": json.dumps(found, indent=2) + "\n"})
