"""What is read from the folder of a study, finished or broken."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest

from dgpo_cli.core import io
from dgpo_cli.core.errors import ConfigError
from dgpo_cli.core.types import Trial, Tuned
from dgpo_cli.study.folder import ended_line, read_tuned, write_tuned
from dgpo_cli.study.read import read_study
from tests.study.samples import write_study


def planted(variant: str, seed: int, step: int) -> float:
    return 0.1 * seed + 0.01 * step + (variant == "entropy")


def test_every_run_is_read_with_its_steps(tmp_path: Path) -> None:
    write_study(tmp_path / "s", reward=planted)
    found = read_study(tmp_path / "s")
    assert (found.name, found.baseline, found.seeds) == ("s", "uniform", (0, 1, 2))
    assert [(each.variant, each.seed) for each in found.runs] == [
        *(("uniform", seed) for seed in (0, 1, 2)),
        *(("entropy", seed) for seed in (0, 1, 2)),
    ]
    assert {each.state for each in found.runs} == {"finished"}
    assert [line["reward/mean"] for line in found.runs[4].steps] == pytest.approx(
        [1.11, 1.12, 1.13, 1.14]
    )
    assert found.notes == ()


def test_each_run_is_in_the_state_that_its_folder_shows(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "s", reward=planted)
    shutil.rmtree(folder.run("uniform", 0))
    shutil.rmtree(folder.run("uniform", 1) / "checkpoints" / "step-000004")
    failed = folder.run("entropy", 1)
    shutil.rmtree(failed / "checkpoints")
    log = folder.log(failed)
    log.parent.mkdir(parents=True)
    log.write_text("error: no space left on the disk\n" + ended_line(1, seconds=3.0))
    with io.locked(folder.run("entropy", 2)):
        found = read_study(tmp_path / "s")
    states = [each.state for each in found.runs]
    assert states == ["missing", "stopped", "finished", "finished", "failed", "running"]
    assert found.notes == ("entropy, seed 1: failed: no space left on the disk",)


def test_a_run_with_fewer_steps_than_planned_is_not_finished(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "s", reward=planted)
    settings = folder.settings("uniform")
    settings.write_text(settings.read_text().replace("steps = 4", "steps = 6"))
    states = {each.variant: each.state for each in read_study(tmp_path / "s").runs}
    assert states == {"uniform": "stopped", "entropy": "finished"}


def test_broken_lines_are_left_out_and_noted(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "s", reward=planted)
    metrics = folder.run("uniform", 0) / "metrics.jsonl"
    first, *rest = metrics.read_text().splitlines(keepends=True)
    metrics.write_text(first.replace("{", "<") + "".join(rest))
    found = read_study(tmp_path / "s")
    assert [line["step"] for line in found.runs[0].steps] == [2, 3, 4]
    assert found.notes == ("uniform, seed 0: line 1 of metrics.jsonl is left out",)


def test_a_variant_that_left_the_file_is_noted(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "s", reward=planted)
    shutil.copytree(folder.path / "runs" / "uniform", folder.path / "runs" / "old")
    assert read_study(tmp_path / "s").notes == (
        "runs of old are left out: study.toml no longer has them",
    )


def test_what_the_search_chose_is_read_with_the_variant(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "s", reward=planted)
    text = folder.file.read_text()
    folder.file.write_text(text + '[tune]\nseeds = [9]\n"optim.lr" = [1e-4, 2e-4]\n')
    trials = (Trial({"optim.lr": 1e-4}, 4, {"9": 0.5}, 0.5),)
    write_tuned(folder.tuned("entropy"), Tuned("entropy", {}, {"optim.lr": 1e-4}, trials))
    folder.tuned("uniform").parent.mkdir(parents=True)
    folder.tuned("uniform").write_text(json.dumps({"version": 1}))
    found = read_study(tmp_path / "s")
    assert [dict(each.tuned) for each in found.variants] == [{}, {"optim.lr": 1e-4}]
    (note,) = found.notes
    assert "tuned.json: the field variant is missing" in note


@pytest.mark.parametrize("name", ["nowhere", "."])
def test_another_folder_is_no_study(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="name the folder of a study"):
        read_study(tmp_path / name)


def test_a_search_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    path = tmp_path / "tuned.json"
    path.write_text(
        """{"version": 1, "variant": "uniform", "search": {"seeds": [1000]},
        "chosen": {"optim.lr": 0.0002}, "trials": [
        {"settings": {"optim.lr": 0.0001}, "steps": 60, "scores": {"1000": null}, "score": null},
        {"settings": {"optim.lr": 0.0002}, "steps": 60, "scores": {"1000": 0.5}, "score": 0.5}]}"""
    )
    found = read_tuned(path)
    assert found is not None and found.chosen == {"optim.lr": 0.0002}
    assert math.isnan(found.trials[0].score) and math.isnan(found.trials[0].scores["1000"])
    write_tuned(tmp_path / "again.json", found)
    assert json.loads((tmp_path / "again.json").read_text()) == json.loads(path.read_text())
