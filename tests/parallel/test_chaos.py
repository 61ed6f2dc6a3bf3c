"""What happens to a run when faults are planted in its ranks; see chaos.py."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.core.test_digests import flip_a_bit
from tests.parallel.chaos import Fault, assert_same_run, lines_of, overrides, run_ranks

_MOMENTS = "shard-00001-model-00001-of-00001.safetensors"
SHORT = {"train__steps": 4, "train__checkpoint_every": 1}
# In turn, on one run: each is met by the run that went on from the kill before.
KILLS = {
    "replicate": [
        Fault("decode", at=20, rank=1),
        Fault("write", at=6, rank=0),  # half of a line or of a file is written
        Fault("backward", at=2, rank=1),
        Fault("flush", at=12, rank=0),  # a checkpoint is written and not yet renamed
    ],
    "shard": [
        Fault("backward", at=2, rank=1),
        Fault("tensors", at=2, rank=1),  # its part of a checkpoint is half written
        Fault("renamed", at=2, rank=0),
    ],
}


@pytest.mark.parametrize("kind", KILLS)
def test_a_run_whose_ranks_were_killed_is_the_run_that_was_not(kind: str, tmp_path: Path) -> None:
    settings = overrides(kind, count=2, **SHORT)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    ended = run_ranks(whole, settings, count=2)
    assert ended.good, ended.text
    for kill in KILLS[kind]:
        ended = run_ranks(killed, settings, count=2, faults=[kill])
        assert -9 in ended.codes, f"{kill}: {ended}"
    ended = run_ranks(killed, settings, count=2)
    assert ended.good, ended.text
    assert_same_run(killed, whole)


def test_a_gradient_of_one_rank_that_is_not_finite_skips_the_step_on_all(tmp_path: Path) -> None:
    settings = overrides("replicate", count=2, **SHORT)
    spoilt = [Fault("backward", at=1, rank=1, effect="nan")]
    ended = run_ranks(tmp_path / "run", settings, count=2, faults=spoilt)
    assert ended.good, ended.text
    lines = lines_of(tmp_path / "run" / "metrics.jsonl")
    assert [line["optim/skipped_nonfinite"] for line in lines] == [1, 0, 0, 0]
    assert "step 1: loss or gradient is not finite; the weights are unchanged" in ended.text


def test_three_such_steps_in_a_row_end_the_run(tmp_path: Path) -> None:
    settings = overrides("replicate", count=2, **SHORT)
    spoilt = [Fault("backward", at=n, rank=1, effect="nan") for n in range(1, 20)]
    ended = run_ranks(tmp_path / "run", settings, count=2, faults=spoilt, rest_s=5.0)
    assert ended.codes[0] == 1
    assert "loss or gradient was not finite in 3 steps in a row" in ended.texts[0]
    assert lines_of(tmp_path / "run" / "metrics.jsonl")[-1]["step"] == 3


def test_a_rank_whose_disk_is_full_fails_the_checkpoint_and_is_named(tmp_path: Path) -> None:
    out, settings = tmp_path / "run", overrides("shard", count=2, **SHORT)
    full = [Fault("tensors", at=2, rank=1, effect="full disk")]  # the weights of the second step
    ended = run_ranks(out, settings, count=2, faults=full, rest_s=5.0)
    assert ended.codes[0] == 1
    assert "step-000002: cannot be written: rank 1:" in ended.texts[0]
    assert "No space left on device" in ended.texts[0]
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["step-000001"]


def test_damaged_parts_of_checkpoints_are_named_and_the_run_goes_on_from_a_whole_one(
    tmp_path: Path,
) -> None:
    settings = overrides("shard", count=2, **SHORT, train__keep_checkpoints=4)
    whole, damaged = tmp_path / "whole", tmp_path / "damaged"
    ended = run_ranks(whole, settings, count=2)
    assert ended.good, ended.text
    shutil.copytree(whole, damaged)
    last, before = (damaged / "checkpoints" / f"step-{step:06d}" for step in (4, 3))
    flip_a_bit(last / "model-00002-of-00002.safetensors")
    (before / "optimizer" / _MOMENTS).unlink()
    ended = run_ranks(damaged, settings, count=2)
    assert ended.good, ended.text
    for folder, reason in (
        (last, "model-00002-of-00002.safetensors: has changed since it was written"),
        (before, f"optimizer/{_MOMENTS}: is missing"),
    ):
        aside = folder.with_name(f"{folder.name}.damaged")
        assert f"{folder}/{reason}" in ended.text and f"is now {aside}" in ended.text
        shutil.rmtree(aside)
    assert "steps 3 to 4 are done again, from the checkpoint of step 2" in ended.text
    assert_same_run(damaged, whole)


@pytest.mark.parametrize("kind", ["replicate", "shard"])
def test_a_run_that_goes_on_with_other_numbers_of_ranks_computes_the_same(
    kind: str, tmp_path: Path
) -> None:
    recipe = {"train__steps": 8, "train__checkpoint_every": 2, "optim__eps": "1e-3"}
    whole, moved = tmp_path / "whole", tmp_path / "moved"
    ended = run_ranks(whole, overrides(kind, count=2, **recipe), count=2)
    assert ended.good, ended.text
    for count, step in ((2, 0), (1, 2), (2, 4), (4, 6)):
        killed = [Fault("clip", at=3, rank=0)] if step < 6 else []
        settings = overrides(kind, count=count, **recipe)
        ended = run_ranks(moved, settings, count=count, faults=killed)
        assert ended.good or killed, ended.text
        assert not step or f"at step {step}" in ended.texts[0]
    mine, theirs = (lines_of(run / "metrics.jsonl") for run in (moved, whole))
    assert len(mine) == len(theirs) == 8
    for ours, own in zip(mine, theirs, strict=True):
        assert ours.keys() == own.keys()
        for name, value in own.items():
            if not name.startswith(("noise/", "sampler/")):  # rounding itself
                assert ours[name] == pytest.approx(value, rel=1e-5, abs=1e-6), name
