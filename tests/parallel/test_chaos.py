"""What happens to a run when faults are planted in its ranks; see chaos.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.parallel.chaos import Fault, assert_same_run, lines_of, overrides, run_ranks

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
