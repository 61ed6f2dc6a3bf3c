"""Whole runs of `dgpo train` on several ranks: metrics, files and weights are those of one."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from safetensors.torch import load_file

from dgpo_cli.config.load import resolve
from dgpo_cli.core.events import NOBODY
from dgpo_cli.engine import setup
from dgpo_cli.engine.follow import follow
from dgpo_cli.parallel.ranks import ALONE
from dgpo_cli.parallel.shard_checkpoint import ShardWriter
from dgpo_cli.samplers.lockstep import Lockstep
from dgpo_cli.samplers.ranked import RankedRemoteSampler
from dgpo_cli.train import train
from tests.ranks import on_ranks
from tests.train.remote import SharedTwinSampler

if TYPE_CHECKING:
    from dgpo_cli.config.load import Resolved
    from dgpo_cli.config.settings import Settings
    from dgpo_cli.parallel.ranks import Ranks
    from dgpo_cli.policy.policy import Policy

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
VALUES = {"credit.rule": "value", "credit.continuations": 2, "rollout.max_completion_tokens": 40}
KINDS: dict[str, dict[str, Any]] = {
    "replicate": {"parallel.kind": "replicate"},
    "replicate, adapter": {"parallel.kind": "replicate", **LORA},
    "replicate, values": {"parallel.kind": "replicate", **VALUES},
    "two ranks a sequence": {"parallel.kind": "replicate", "parallel.sequence": 2},
    "shard": {"parallel.kind": "shard", "parallel.reference": "offload"},
    "shard, adapter": {"parallel.kind": "shard", **LORA},
}


def settings_of(kind: str, *, count: int) -> Resolved:
    changes = {**RECIPE, **KINDS[kind], "parallel.gpus": count}
    if "credit.rule" in changes:
        changes.pop("credit.noise_every")
    if count == 1:
        changes.pop("parallel.sequence", None)
    return resolve(preset="tiny", overrides=[f"{k}={v}".lower() for k, v in changes.items()])


def run(ranks: Ranks, kind: str, out: Path) -> None:
    """Take one rank's part in a run."""
    if not ranks.leads:
        write = ShardWriter._write
        ShardWriter._write = lambda *args: (write(*args), time.sleep(0.5))  # type: ignore
        follow(ranks)
        assert not {"checkpoint", "dgpo-sampling"} & {t.name for t in threading.enumerate()}
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


def _ahead(count: int) -> Resolved:
    changes = {
        **RECIPE,
        "eval.every": 0,
        "train.steps": 4,
        "optim.lr": 1e-3,
        "optim.updates_per_step": 1,
        "rollout.max_completion_tokens": 48,  # so that rewards differ in every step
        "rollout.backend.kind": "vllm-server",
        "rollout.overlap": 1,
        "parallel.kind": "replicate",
        "parallel.gpus": count,
    }
    return resolve(preset="tiny", overrides=[f"{k}={v}".lower() for k, v in changes.items()])


def _run_ahead(ranks: Ranks, out: Path) -> list[int]:
    """Take one rank's part in a run that samples ahead; return the versions of its draws."""
    made: list[SharedTwinSampler] = []

    def make(settings: Settings, *, policy: Policy, ranks: Ranks) -> Any:
        made.append(SharedTwinSampler(policy))
        if ranks.count == 1:
            return made[0]
        lockstep = Lockstep(policy, ranks=ranks)
        return RankedRemoteSampler(made[0], ranks=ranks, among=ranks.count, lockstep=lockstep)

    before, setup.make_sampler = setup.make_sampler, make
    try:
        if ranks.leads:
            train.run(_ahead(ranks.count), out=out, resume="auto", ranks=ranks, observer=NOBODY)
            ranks.close()
        else:
            follow(ranks)
    finally:
        setup.make_sampler = before
    return made[0].versions or [version for version, _, _ in made[0].samples]


def test_ranks_that_sample_ahead_learn_what_one_device_does(tmp_path: Path) -> None:
    alone = _run_ahead(ALONE, tmp_path / "1")
    both = on_ranks(_run_ahead, 2, tmp_path / "2")
    assert alone == [0, 0, 1, 2]
    assert {*both[0], *both[1]} == {0, 1, 2} and all(both)
    check_metrics(tmp_path / "2", tmp_path / "1")
    lags = [line["rollout/lag"] for line in metrics_of(tmp_path / "2")]
    assert lags == [0.0, 1.0, 1.0, 1.0]
    theirs, mine = (weights_of(tmp_path / n / "checkpoints" / "step-000004") for n in "12")
    assert all((mine[name] - weight).abs().max() <= 1e-6 for name, weight in theirs.items())


OWN = """
import torch
from dgpo_cli import CreditRule, Loss

class Surprise(CreditRule):
    power: float = 1.0

    def token_scores(self, stats, mask, *, vocab_size):
        return (-stats.old_logprobs) ** self.power

class Plain(Loss):
    def token_losses(self, logprobs, *, old_logprobs, token_advantages, **others):
        ratio = (logprobs - old_logprobs).exp()
        return -ratio * token_advantages, ratio.detach(), torch.zeros_like(ratio).bool()
"""


def run_own(ranks: Ranks, file: Path, out: Path) -> None:
    """Take one rank's part in a run with a rule and a loss of that file."""
    if not ranks.leads:
        follow(ranks)
        return
    own = {"credit.rule": f"{file}:Surprise", "credit.power": 0.5, "loss.kind": f"{file}:Plain"}
    given = {k: v for k, v in RECIPE.items() if k != "credit.noise_every"} | own
    given |= {"train.steps": 2, "eval.every": 0, "parallel.kind": "replicate"}
    given["rollout.max_completion_tokens"] = 40  # some answers are right
    changes = {**given, "parallel.gpus": ranks.count}
    resolved = resolve(preset="tiny", overrides=[f"{k}={v}" for k, v in changes.items()])
    train.run(resolved, out=out, resume="auto", ranks=ranks, observer=NOBODY)
    ranks.close()


def test_a_rule_and_a_loss_of_a_file_are_the_same_on_every_rank(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text(OWN, encoding="utf-8")
    run_own(ALONE, file, tmp_path / "1")
    on_ranks(run_own, 2, file, tmp_path / "2")
    check_metrics(tmp_path / "2", tmp_path / "1")
    assert any(line["optim/grad_norm"] for line in metrics_of(tmp_path / "1"))
