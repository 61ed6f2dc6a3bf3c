"""Laws of runs in an environment: they resume as they would have gone on, and say what is wrong."""

from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from dgpo_cli.config.checks import check_rollout, check_trainable
from dgpo_cli.config.load import resolve
from dgpo_cli.core.errors import ConfigError
from dgpo_cli.core.events import Observers
from dgpo_cli.core.types import StepMetrics
from dgpo_cli.train import train
from tests.recorder import Notes, Recorder
from tests.train.test_train import SMALL, numbers

ROOT = Path(__file__).parents[2]


@pytest.fixture
def relay(tmp_path: Path) -> tuple[str, ...]:
    """The settings of the example, as a file that may change."""
    shutil.copy(ROOT / "examples" / "relay.py", tmp_path / "relay.py")
    prompts = f'{{kind = "environment", env = "{tmp_path}/relay.py:Relay", max_turn_tokens = 30}}'
    return (
        f"prompts={prompts}",
        "reward.kind=environment",
        "eval.every=0",
        "rollout.max_completion_tokens=90",
        "train.rollouts_every=1",
        "train.checkpoint_every=1",
        "optim.lr=1e-3",
    )


def run_env(out: Path, *overrides: str, steps: int) -> list[StepMetrics]:
    recorder = Recorder()
    small = [each for each in SMALL if not each.startswith("reward.")]
    train.run(
        resolve(preset="tiny", overrides=[*small, f"train.steps={steps}", *overrides]),
        out=out,
        resume="auto",
        observer=Observers([recorder, Notes([])]),
    )
    return recorder.lines


def lines_of(run: Path) -> list[dict[str, Any]]:
    files = sorted((run / "rollouts").glob("*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def test_a_run_of_the_example_goes_on_as_it_would_have(
    tmp_path: Path, relay: tuple[str, ...]
) -> None:
    """Dynamic sampling carries groups of several turns over."""
    each = (*relay, "rollout.dynamic_sampling=true")
    whole = run_env(tmp_path / "whole", *each, steps=3)
    run_env(tmp_path / "parts", *each, steps=1)
    rest = run_env(tmp_path / "parts", *each, steps=3)
    assert numbers(whole)[1:] == numbers(rest)
    lines = lines_of(tmp_path / "whole")
    assert lines == lines_of(tmp_path / "parts")
    assert {line["outcome"] for line in lines} == {"scored"}
    several = [line for line in lines if "environment" in line]
    assert len(several) > len(lines) / 2
    for line in several:
        start, stop = line["environment"][0]
        assert line["weights"][start:stop] == [0.0] * (stop - start)
        own = len(line["token_ids"]) - sum(b - a for a, b in line["environment"])
        assert math.isclose(math.fsum(line["weights"]), own, rel_tol=1e-4)
        assert set(line["terms"]) == {"right", "asked"}
    for metrics in whole:
        assert metrics["env/turns_mean"] > 1 and 0 < metrics["env/tokens_share"] < 1
        assert metrics["sampler/logprob_gap_max"] < 1e-3


def test_the_example_of_verifiers_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("verifiers")
    paths = [str(ROOT / "examples"), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    (metrics,) = run_env(
        tmp_path / "run",
        'prompts={kind = "verifiers", env = "relay-v1", max_turn_tokens = 30}',
        "reward.kind=environment",
        "eval.every=0",
        "rollout.max_completion_tokens=90",
        "train.rollouts_every=1",
        steps=1,
    )
    assert metrics["env/turns_mean"] > 1 and metrics["sampler/logprob_gap_max"] < 1e-3
    for line in lines_of(tmp_path / "run"):
        assert line["outcome"] == "scored", line["note"]
        assert line["reward"] == line["terms"]["right"] and 0 <= line["reward"] <= 1


def test_a_changed_environment_is_refused_on_resume(tmp_path: Path, relay: tuple[str, ...]) -> None:
    run_env(tmp_path / "run", *relay, steps=1)
    file = tmp_path / "relay.py"
    file.write_text(file.read_text() + "\nBOXED = BOXED\n")
    with pytest.raises(ConfigError, match=r"relay\.py"):
        run_env(tmp_path / "run", *relay, steps=2)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["eval.every=5"], r"^eval\.every=5: the answers of sums need a checker"),
        (["reward.kind=integer"], r"^reward\.kind=integer: an environment judges its own tasks"),
        (['prompts={kind = "sums"}'], r"^reward\.kind=environment: prompts\.kind=sums is none"),
    ],
)
def test_an_environment_gives_prompts_and_rewards(overrides: list[str], message: str) -> None:
    """What was given first is dropped by a later kind."""
    prompts = 'prompts={kind = "environment", env = "relay.py:Relay"}'
    settings = resolve(
        preset="tiny",
        overrides=[prompts, "reward.kind=environment", "eval.every=0", *overrides],
    ).settings
    with pytest.raises(ConfigError, match=message):
        check_trainable(settings)
    if "eval" not in message:
        with pytest.raises(ConfigError, match=message):
            check_rollout(settings)
