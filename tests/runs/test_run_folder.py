"""Laws of the run folder: one holder, whole files, and nothing of a step that is done again."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dgpo_cli.core.errors import CheckpointError, ConfigError, RunFolderBusy
from dgpo_cli.core.events import NOBODY
from dgpo_cli.runs.run_folder import RunFolder, checkpoint_to_load, newest_run

HOLD = """
import sys, time
from pathlib import Path
from dgpo_cli.runs.run_folder import RunFolder
with RunFolder(Path(sys.argv[1])).lock():
    print("held", flush=True)
    time.sleep(60)
"""


def test_second_holder_is_refused_and_told_who_holds(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            with (
                pytest.raises(RunFolderBusy, match=f"process {holder.pid} on") as caught,
                RunFolder(tmp_path).lock(),
            ):
                pass
            assert caught.value.exit_code == 1
        finally:
            holder.send_signal(signal.SIGKILL)
    with RunFolder(tmp_path).lock():  # the system lets go of a killed holder's lock
        assert str(os.getpid()) in (tmp_path / "run.lock").read_text()


def test_what_fails_before_it_wrote_leaves_no_lock_and_no_folder_of_its_own(tmp_path: Path) -> None:
    def fails(out: Path, *, writes: str | None = None) -> None:
        with pytest.raises(ConfigError), RunFolder(out).lock():
            if writes is not None:
                (out / writes).write_text("")
            raise ConfigError("no")

    (tmp_path / "there").mkdir()
    fails(tmp_path / "there")
    assert list((tmp_path / "there").iterdir()) == []
    fails(tmp_path / "made")
    assert not (tmp_path / "made").exists()
    fails(tmp_path / "made", writes="settings.toml")
    assert {path.name for path in (tmp_path / "made").iterdir()} == {"run.lock", "settings.toml"}


def test_folder_that_cannot_be_made_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(ConfigError, match="name a folder that you can write to"),
        RunFolder(tmp_path / "file" / "run").lock(),
    ):
        pass


def test_metrics_that_are_not_finite_are_null(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write_metrics(1, {"loss/value": math.nan, "optim/grad_norm": math.inf, "a/b": 0.5})
    line = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert line == {"step": 1, "loss/value": None, "optim/grad_norm": None, "a/b": 0.5}


def test_line_cut_short_by_a_kill_is_left_out(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write_metrics(1, {"a/b": 1.0})
    with folder.metrics_file.open("a") as file:
        file.write('{"step": 2, "a/')
    assert folder.read_metrics() == [{"step": 1, "a/b": 1.0}]
    folder.forget_after(1)
    folder.write_metrics(2, {"a/b": 2.0})
    assert [line["step"] for line in folder.read_metrics()] == [1, 2]


def test_forgetting_drops_exactly_what_came_after(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.rollouts_dir.mkdir()
    for step in (1, 2, 3, 4):
        folder.write_metrics(step, {"a/b": float(step)})
        folder.rollout_file(step).write_text("{}\n")
        folder.checkpoint_dir(step).mkdir(parents=True)
    folder.forget_after(2)
    assert [line["step"] for line in folder.read_metrics()] == [1, 2]
    assert [path.name for path in folder.rollouts()] == ["step-000001.jsonl", "step-000002.jsonl"]
    assert [path.name for path in folder.checkpoints()] == ["step-000001", "step-000002"]


def test_pruning_keeps_the_newest_and_clears_interrupted_writes(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for step in (9, 10, 100):
        folder.checkpoint_dir(step).mkdir(parents=True)
    (folder.checkpoints_dir / ".step-000101.partial").mkdir()
    folder.prune_checkpoints(keep=2)
    assert sorted(os.listdir(folder.checkpoints_dir)) == ["step-000010", "step-000100"]
    assert folder.checkpoints()[-1].name == "step-000100"


def test_interrupted_write_is_never_the_newest_checkpoint(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    (folder.checkpoints_dir / ".step-000101.partial").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="no checkpoint"):
        checkpoint_to_load(tmp_path, step=None, observer=NOBODY)


def test_newest_run_is_the_one_written_to_last(tmp_path: Path) -> None:
    assert newest_run(tmp_path) is None
    for name, when in (("b", 200), ("a", 300), ("c", 100)):
        folder = RunFolder(tmp_path / name)
        folder.path.mkdir()
        folder.write_metrics(1, {})
        os.utime(folder.metrics_file, (when, when))
    assert newest_run(tmp_path) == tmp_path / "a"
