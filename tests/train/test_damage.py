"""A run goes on from the newest checkpoint that is whole, as if it had been killed there."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dgpo_cli.cli.train import parse_resume
from dgpo_cli.core.digests import check_loaded
from dgpo_cli.core.errors import CheckpointError, ConfigError, UnreadableError
from dgpo_cli.core.events import NOBODY
from dgpo_cli.runs.run_folder import RunFolder, checkpoint_to_load
from dgpo_cli.train.resume import starting_point
from tests.core.test_digests import DAMAGES, earlier, flip_a_bit
from tests.recorder import Notes
from tests.train.test_kill import numbers
from tests.train.test_train import run_tiny

EVERY_STEP = (
    "optim.lr=1e-3",
    "train.checkpoint_every=2",
    "train.rollouts_every=1",
    "eval.every=2",
    "eval.bench=sums",
    "eval.k=1",
)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run of 5 steps, and the same after 4 of them, with checkpoints of steps 2 and 4."""
    folder = tmp_path_factory.mktemp("runs")
    for name, steps in (("whole", 5), ("four", 4)):
        run_tiny(folder / name, *EVERY_STEP, steps=steps)
    return folder / "whole", folder / "four"


@pytest.fixture
def run(parts: tuple[Path, Path], tmp_path: Path) -> RunFolder:
    shutil.copytree(parts[1], tmp_path / "run")
    return RunFolder(tmp_path / "run")


def go_on(run: RunFolder, **others: int) -> list[str]:
    events: list[str] = []
    run_tiny(run.path, *EVERY_STEP, steps=5, events=events, **others)
    return events


def assert_is_the_whole_run(whole: Path, run: RunFolder) -> None:
    assert numbers(whole) == numbers(run.path)
    evals = [json.loads(line) for line in (whole / "evals.jsonl").read_text().splitlines()]
    assert run.read_evals() == evals
    files = ["checkpoints/step-000005/model.safetensors"]
    files += [f"rollouts/step-00000{step}.jsonl" for step in range(1, 6)]
    files += [f"evals/step-00000{step}/samples.jsonl" for step in (2, 4, 5)]
    for name in files:
        assert (whole / name).read_bytes() == (run.path / name).read_bytes(), name


def of_another_step(checkpoint: Path) -> None:
    shutil.rmtree(checkpoint)
    shutil.copytree(checkpoint.with_name("step-000002"), checkpoint)


def weights(damage: Callable[[Path], None]) -> Callable[[Path], None]:
    return lambda checkpoint: damage(checkpoint / "model.safetensors")


DAMAGED_RUNS: dict[str, tuple[Callable[[Path], None], str]] = {
    "flipped": (weights(DAMAGES["flipped"]), "model.safetensors: has changed since it was written"),
    "cut": (weights(DAMAGES["cut"]), "model.safetensors: has changed since it was written"),
    "empty": (weights(DAMAGES["empty"]), "model.safetensors: is empty"),
    "missing": (weights(DAMAGES["missing"]), "model.safetensors: is missing"),
    "of another step": (of_another_step, "its state.json is of step 2"),
    "optimiser": (lambda folder: flip_a_bit(folder / "trainer.pt"), "trainer.pt: has changed"),
    "state": (lambda folder: (folder / "state.json").unlink(), "state.json: cannot be read"),
    "gone": (lambda folder: [path.unlink() for path in folder.iterdir()] and None, "state.json"),
}


@pytest.mark.parametrize(("damage", "reason"), DAMAGED_RUNS.values(), ids=DAMAGED_RUNS)
def test_a_damaged_checkpoint_is_named_and_set_aside(
    run: RunFolder, damage: Callable[[Path], None], reason: str
) -> None:
    newest = run.checkpoint_dir(4)
    damage(newest)
    events: list[str] = []
    found = starting_point(run, resume="auto", found=(), observer=Notes(events))
    assert found == run.checkpoint_dir(2)
    assert events[0].startswith(str(newest)) and reason in events[0]
    assert events[0].endswith(f"is now {newest}.damaged")
    assert events[1:] == ["steps 3 to 4 are done again, from the checkpoint of step 2"]
    assert Path(f"{newest}.damaged").is_dir() and run.checkpoints() == [found]


@pytest.mark.parametrize("name", ["state.json", "SHA256SUMS", "model.safetensors", "trainer.pt"])
def test_a_checkpoint_that_the_system_does_not_give_is_no_damage(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    kept, plain = run.checkpoint_dir(4) / name, io.open
    flip_a_bit(run.checkpoint_dir(2) / "model.safetensors")
    before = sorted(run.path.rglob("*"))

    def refuse(file: Any, *arguments: Any, **others: Any) -> Any:
        if Path(file) == kept:
            raise OSError(errno.EIO, "Input/output error")
        return plain(file, *arguments, **others)

    monkeypatch.setattr(io, "open", refuse)
    told = re.escape(f"{kept}: cannot be read: input/output error; make it readable")
    with pytest.raises(UnreadableError, match=told) as caught:
        go_on(run)
    assert caught.value.exit_code == 1
    assert set(before) >= {path for path in run.path.rglob("*") if path.name != "run.lock"}
    assert run.checkpoints() == [run.checkpoint_dir(2), run.checkpoint_dir(4)]
    with pytest.raises(UnreadableError, match=told):
        starting_point(run, resume=4, found=(), observer=NOBODY)


def test_checkpoints_that_cannot_be_listed_are_not_taken_for_none(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(folder: Any) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied", str(folder))

    before = run.metrics_file.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, "listdir", refuse)
        with pytest.raises(PermissionError, match="checkpoints"):
            go_on(run)
    assert run.metrics_file.read_bytes() == before


def test_a_checkpoint_that_was_renamed_to_a_later_step_is_set_aside(
    parts: tuple[Path, Path], run: RunFolder
) -> None:
    later = run.checkpoint_dir(4).rename(run.checkpoint_dir(9))
    with pytest.raises(CheckpointError, match=r"step-000009: its state\.json is of step 4"):
        go_on(run, resume=9)
    events = go_on(run)
    assert events[0].endswith(
        f"state.json is of step 4; this checkpoint is not used and is now {later}.damaged"
    )
    assert_is_the_whole_run(parts[0], run)


def test_after_a_damaged_checkpoint_the_run_is_the_one_that_was_not(
    parts: tuple[Path, Path], run: RunFolder
) -> None:
    flip_a_bit(run.checkpoint_dir(4) / "model.safetensors")
    assert f"resumed from {run.checkpoint_dir(2)} at step 2" in go_on(run)
    assert_is_the_whole_run(parts[0], run)


def test_a_checkpoint_can_be_chosen(parts: tuple[Path, Path], run: RunFolder) -> None:
    events = go_on(run, resume=2)
    assert "steps 3 to 4 are done again, from the checkpoint of step 2" in events
    assert f"resumed from {run.checkpoint_dir(2)} at step 2" in events
    assert_is_the_whole_run(parts[0], run)


def test_a_chosen_checkpoint_must_be_there_and_whole(run: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"--resume 3: .* no checkpoint .* are: 2, 4"):
        go_on(run, resume=3)
    flip_a_bit(run.checkpoint_dir(2) / "model.safetensors")
    said = (
        r"step-000002/model\.safetensors: has changed .*; the run also has step 4; give one of "
        "them to --resume, or leave it out"
    )
    with pytest.raises(CheckpointError, match=said):
        go_on(run, resume=2)
    with pytest.raises(
        CheckpointError, match=r"another checkpoint; in the same folder: step-000004$"
    ):
        check_loaded(run.checkpoint_dir(2))
    shutil.copytree(run.checkpoint_dir(4), run.checkpoint_dir(3))
    with pytest.raises(CheckpointError, match="the run also has steps 3, 4; give"):
        go_on(run, resume=2)
    with pytest.raises(CheckpointError, match=r"--resume 2: no checkpoint in .*other"):
        run_tiny(tmp_path / "other", resume=2)
    assert not (tmp_path / "other").exists()


def test_a_finished_run_does_the_steps_of_a_damaged_last_checkpoint_again(
    parts: tuple[Path, Path], tmp_path: Path
) -> None:
    shutil.copytree(parts[0], tmp_path / "run")
    run = RunFolder(tmp_path / "run")
    flip_a_bit(run.checkpoint_dir(5) / "model.safetensors")
    assert "step 5 is done again, from the checkpoint of step 4" in go_on(run)
    assert_is_the_whole_run(parts[0], run)


def test_where_no_checkpoint_is_whole_nothing_is_touched(run: RunFolder) -> None:
    for checkpoint in run.checkpoints():
        flip_a_bit(checkpoint / "model.safetensors")
    before = sorted(path for path in run.path.rglob("*"))
    with pytest.raises(CheckpointError, match=r"no checkpoint can be resumed from") as caught:
        go_on(run)
    for checkpoint in run.checkpoints():
        assert f"{checkpoint / 'model.safetensors'}: has changed" in str(caught.value)
    assert sorted(path for path in run.path.rglob("*")) == before


def test_a_checkpoint_of_an_earlier_version_is_resumed_from_with_a_note(
    parts: tuple[Path, Path], run: RunFolder
) -> None:
    newest = earlier(run.checkpoint_dir(4))
    events = go_on(run)
    assert [event for event in events if "without checksums" in event] == [
        f"{newest}: written by an earlier version, without checksums; changed weights would "
        "not be noticed"
    ]
    assert f"resumed from {newest} at step 4" in events
    assert_is_the_whole_run(parts[0], run)


def test_a_damaged_checkpoint_is_not_loaded_and_the_others_are_named(run: RunFolder) -> None:
    flip_a_bit(run.checkpoint_dir(4) / "model.safetensors")
    with pytest.raises(
        CheckpointError, match=r"has changed .*; the run also has step 2; dgpo train"
    ):
        checkpoint_to_load(run.path, step=None, observer=NOBODY)
    assert checkpoint_to_load(run.path, step=2, observer=NOBODY) == run.checkpoint_dir(2)
    with pytest.raises(CheckpointError, match="no checkpoint of step 3; there are: 2, 4"):
        checkpoint_to_load(run.path, step=3, observer=NOBODY)


def test_metrics_that_a_run_lost_are_told_when_it_goes_on(run: RunFolder) -> None:
    lines = run.metrics_file.read_bytes().splitlines(keepends=True)
    run.metrics_file.write_bytes(lines[0] + b"\0" * 64 + b"\n" + lines[3])
    events = go_on(run)
    assert f"{run.metrics_file}: line 2 is broken, moved to metrics.jsonl.bad" in events
    assert "metrics of steps 2 to 3 are missing" in events
    assert [line["step"] for line in run.read_metrics()] == [1, 4, 5]


def test_a_torn_last_line_hides_neither_itself_nor_what_is_done_again(run: RunFolder) -> None:
    with run.metrics_file.open("ab") as file:
        file.write(b'{"step": 999999999}\ngarbage')
    shutil.rmtree(run.checkpoint_dir(4))
    events = go_on(run)
    assert "steps 3 to 4 are done again, from the checkpoint of step 2" in events
    assert f"{run.metrics_file}: lines 5, 6 are broken, moved to metrics.jsonl.bad" in events
    assert not any("missing" in event for event in events)


def test_a_run_whose_metrics_are_gone_goes_on(run: RunFolder) -> None:
    run.metrics_file.unlink()
    assert "metrics of steps 1 to 4 are missing" in go_on(run)


def test_resume_takes_a_word_or_a_step() -> None:
    assert [parse_resume(text) for text in ("auto", "never", "must", "40")] == [
        *("auto", "never", "must"),
        40,
    ]
    for text in ("", "Must", "-1", "4.0", "²", "must 40"):
        with pytest.raises(ConfigError, match="--resume"):
            parse_resume(text)


@pytest.mark.parametrize("last", ["no evaluation", "an evaluation"])
def test_a_run_killed_before_old_checkpoints_were_deleted_deletes_them_when_run_again(
    last: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = 2 if last == "an evaluation" else 0
    run = RunFolder(tmp_path / "run")
    settings = (
        *("train.checkpoint_every=1", "train.keep_checkpoints=1", f"eval.every={every}"),
        *("eval.bench=sums", "eval.k=1"),
    )
    prune = RunFolder.prune_checkpoints

    def killed(folder: RunFolder, *, keep: int) -> None:
        if len(folder.checkpoints()) > 1:
            raise SystemExit(137)
        prune(folder, keep=keep)

    with monkeypatch.context() as planted, pytest.raises(SystemExit):
        planted.setattr(RunFolder, "prune_checkpoints", killed)
        run_tiny(run.path, *settings, steps=2)
    assert [path.name for path in run.checkpoints()] == ["step-000001", "step-000002"]
    run_tiny(run.path, *settings, steps=2)
    assert [path.name for path in run.checkpoints()] == ["step-000002"]


def test_a_finished_run_keeps_its_checkpoints_when_a_command_would_keep_fewer(
    run: RunFolder,
) -> None:
    before = run.checkpoints()
    run_tiny(run.path, *EVERY_STEP, "train.keep_checkpoints=1", steps=4)
    assert run.checkpoints() == before and len(before) == 2
