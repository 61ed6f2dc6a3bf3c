"""Whole runs of `dgpo train` on several ranks: metrics, files and weights are those of one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from safetensors.torch import load_file

from dgpo_cli.config.load import resolve
from dgpo_cli.core.events import NOBODY
from dgpo_cli.engine.follow import follow
from dgpo_cli.parallel.ranks import ALONE
from dgpo_cli.train import train
from tests.ranks import on_ranks

if TYPE_CHECKING:
    from dgpo_cli.config.load import Resolved
    from dgpo_cli.parallel.ranks import Ranks

RECIPE = {
    "train.steps": 3,
    "train.checkpoint_every": 2,
    "train.rollouts_every": 1,
    "rollout.prompts_per_step": 4,
    "rollout.group_size": 4,
    "rollout.max_completion_tokens": 16,
    "optim.updates_per_step": 2,
    "optim.micro_batch_tokens": 256,
    "optim.eps": 1e-3,
    "eval.every": 2,
    "eval.k": 2,
    "credit.noise_every": 1,
}
LORA = {"adapter.kind": "lora", "adapter.rank": 4, "rollout.dynamic_sampling": True}
KINDS: dict[str, dict[str, Any]] = {
    "replicate": {"parallel.kind": "replicate"},
    "replicate, adapter": {"parallel.kind": "replicate", **LORA},
    "two ranks a sequence": {"parallel.kind": "replicate", "parallel.sequence": 2},
    "shard": {"parallel.kind": "shard", "parallel.reference": "offload"},
    "shard, adapter": {"parallel.kind": "shard", **LORA},
}


def settings_of(kind: str, *, count: int) -> Resolved:
    changes = {**RECIPE, **KINDS[kind], "parallel.gpus": count}
    if count == 1:
        changes.pop("parallel.sequence", None)
    return resolve(preset="tiny", overrides=[f"{k}={v}".lower() for k, v in changes.items()])


def run(ranks: Ranks, kind: str, out: Path) -> None:
    """Take one rank's part in a run."""
    if not ranks.leads:
        follow(ranks)
        return
    train.run(settings_of(kind, count=ranks.count), out=out, resume="auto", ranks=ranks,
              observer=NOBODY)  # fmt: skip
    ranks.close()


def metrics_of(folder: Path) -> list[dict[str, float | None]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    timed = ("time/", "throughput/", "memory/")
    return [{k: v for k, v in line.items() if not k.startswith(timed)} for line in lines]


def files_of(folder: Path) -> set[str]:
    """Return the names of a run's files; how many hold the weights depends on the ranks."""
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    parts = ("model", "optimizer/")
    return {n for n in names if not n.partition("checkpoints/")[2][12:].startswith(parts)}


def weights_of(checkpoint: Path) -> dict[str, Any]:
    files = checkpoint.glob("*.safetensors")
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


def check_metrics(found: Path, expected: Path) -> None:
    mine, theirs = metrics_of(found), metrics_of(expected)
    assert [line.keys() for line in mine] == [line.keys() for line in theirs]
    for ours, own in zip(mine, theirs, strict=True):
        for name, value in own.items():
            if name.startswith(("noise/", "sampler/")):  # rounding itself
                continue
            if value is None:
                assert ours[name] is None, name
            else:
                assert ours[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name


@pytest.fixture(scope="module", params=KINDS)
def runs(request: pytest.FixtureRequest, tmp_path_factory: Any) -> tuple[str, Path]:
    """The folder with a run of one device and one of two ranks."""
    folder = tmp_path_factory.mktemp("runs")
    kind = request.param
    train.run(settings_of(kind, count=1), out=folder / "1", resume="auto", ranks=ALONE,
              observer=NOBODY)  # fmt: skip
    sharded = KINDS[kind]["parallel.kind"] in ("shard", "hybrid")
    sequence = KINDS[kind].get("parallel.sequence", 1)
    on_ranks(run, 2, kind, folder / "2", collective=sharded, sequence=sequence)
    return kind, folder


def test_metrics_and_files_are_those_of_one_device(runs: tuple[str, Path]) -> None:
    _, folder = runs
    check_metrics(folder / "2", folder / "1")
    assert files_of(folder / "1") == files_of(folder / "2")
    evals = [(folder / n / "evals.jsonl").read_text().splitlines() for n in "12"]
    scores = [[json.loads(line)["avg_at_k"] for line in lines] for lines in evals]
    assert scores[0] == scores[1] and len(scores[0]) == 3


def test_weights_are_those_of_one_device(runs: tuple[str, Path]) -> None:
    _, folder = runs
    checkpoints = [folder / n / "checkpoints" / "step-000003" for n in "12"]
    theirs, mine = map(weights_of, checkpoints)
    assert mine.keys() == theirs.keys()
    for name, weight in theirs.items():
        assert (mine[name] - weight).abs().max() <= 1e-6, name
