"""What fails between two updates costs no update that was made: a checkpoint is written first."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from dgpo_cli.core.errors import DgpoError
from dgpo_cli.rewards.grader import Grader
from dgpo_cli.rewards.workers import pool as pool_module
from dgpo_cli.runs.run_folder import RunFolder
from tests.train.test_train import numbers, run_tiny, weights

RARELY = "train.checkpoint_every=100"


class NoMoreStarts:
    """From the n-th grading on, workers are gone and none starts."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, grading: int) -> None:
        self._left = grading
        self._grade = Grader.grade
        self._patch = monkeypatch
        monkeypatch.setattr(Grader, "grade", lambda grader, *a, **k: self(grader, *a, **k))
        monkeypatch.setattr(pool_module, "FIRST_PAUSE_S", 0.001)

    def __call__(self, grader: Grader, items: Sequence[Any], **rest: Any) -> Any:
        self._left -= 1
        if self._left == 0:
            for worker in grader._work._pool._workers:
                worker.kill()
            self._patch.setattr(pool_module, "WorkerProcess", self._no_process)
        return self._grade(grader, items, **rest)

    def _no_process(self, *args: Any, **rest: Any) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")


@pytest.mark.parametrize("dynamic", ["true", "false"])
def test_a_run_whose_answer_checker_does_not_start_goes_on_where_it_was(
    tmp_path: Path, dynamic: str
) -> None:
    settings = (RARELY, f"rollout.dynamic_sampling={dynamic}")
    whole, whole_lines = run_tiny(tmp_path / "whole", *settings, steps=4)
    events: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        NoMoreStarts(patch, grading=3)
        with pytest.raises(DgpoError, match=r"no worker process starts.*reward\.workers") as ended:
            run_tiny(tmp_path / "run", *settings, steps=4, events=events)
    assert ended.value.exit_code == 1
    (saved,) = RunFolder(tmp_path / "run").checkpoints()
    step = int(saved.name.removeprefix("step-"))
    assert (
        events[-1]
        == f"trained up to step {step}; checkpoint {saved}; run the same command to resume"
    )
    again, lines = run_tiny(tmp_path / "run", *settings, steps=4, resume="must")
    assert lines[0]["step"] > 1
    assert numbers(lines) == numbers(whole_lines)[-len(lines) :]
    one, two = weights(whole.checkpoint), weights(again.checkpoint)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_run_that_fails_in_its_first_step_has_nothing_to_keep(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        NoMoreStarts(patch, grading=1)
        with pytest.raises(DgpoError, match="no worker process starts"):
            run_tiny(tmp_path / "run", RARELY)
    assert RunFolder(tmp_path / "run").checkpoints() == []


def test_weights_that_cannot_be_handed_over_are_kept_with_their_metrics(tmp_path: Path) -> None:
    from dgpo_cli.core.errors import BackendError
    from dgpo_cli.engine.engine import Engine

    syncs: list[int] = []

    def sync(engine: Engine) -> None:
        syncs.append(engine.policy_version)
        if len(syncs) == 2:
            raise BackendError("the server is gone")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "sync", sync)
        with pytest.raises(BackendError, match="the server is gone"):
            run_tiny(tmp_path / "run", RARELY)
    folder = RunFolder(tmp_path / "run")
    (saved,) = folder.checkpoints()
    assert saved == folder.checkpoint_dir(2)
    assert [json.loads(line)["step"] for line in folder.metrics_file.open()] == [1, 2]


@pytest.mark.parametrize("dynamic", ["true", "false"])
def test_a_sampler_that_does_not_leave_the_device_costs_no_update(
    tmp_path: Path, dynamic: str
) -> None:
    from dgpo_cli.core.errors import BackendError
    from dgpo_cli.engine.engine import Engine

    rests: list[int] = []

    def rest(engine: Engine) -> None:
        rests.append(engine.policy_version)
        if rests[-1] == 2:
            raise BackendError("vLLM cannot sleep")

    settings = (RARELY, f"rollout.dynamic_sampling={dynamic}")
    whole, whole_lines = run_tiny(tmp_path / "whole", *settings, steps=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "rest", rest)
        with pytest.raises(BackendError, match="vLLM cannot sleep"):
            run_tiny(tmp_path / "run", *settings, steps=4)
    again, lines = run_tiny(tmp_path / "run", *settings, steps=4, resume="must")
    assert numbers(lines) == numbers(whole_lines)[2:]
    one, two = weights(whole.checkpoint), weights(again.checkpoint)
    assert all(torch.equal(one[name], two[name]) for name in one)
