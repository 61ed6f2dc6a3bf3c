"""Sampling on ranks that are processes: what tests/samplers holds of threads, over gloo."""

from __future__ import annotations

import os
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from dgpo_cli.config.load import resolve
from dgpo_cli.core.errors import BackendError
from dgpo_cli.core.events import NOBODY
from dgpo_cli.core.types import Message, Prompt
from dgpo_cli.engine.follow import BUILD, follow
from dgpo_cli.engine.setup import training_engine
from dgpo_cli.runs.run_folder import RunFolder
from dgpo_cli.samplers.hf import HfSampler
from dgpo_cli.samplers.lockstep import Lockstep
from dgpo_cli.samplers.ranked import RankedRemoteSampler, RankedSampler
from dgpo_cli.train import train
from tests.ranks import on_ranks
from tests.samplers.fake_vllm import FakeVllm, FakeWeights
from tests.samplers.vllm_cases import expected, sample, sampler_of

if TYPE_CHECKING:
    from dgpo_cli.core.types import Completion
    from dgpo_cli.engine.engine import Engine
    from dgpo_cli.parallel.ranks import TorchRanks

KINDS = ("replicate", "shard")
PROMPTS = [
    Prompt(str(i), (Message("user", f"{i}+{i * i}?"),), answer="1", source="typed")
    for i in range(6)
]
SEEDS = [list(range(10 * i, 10 * i + 5)) for i in range(6)]


def settings_of(kind: str, *, count: int) -> Any:
    changes = (f"parallel.kind={kind}", f"parallel.gpus={count}", "rollout.backend.batch_size=4")
    return resolve(preset="tiny", overrides=[*changes, "rollout.max_completion_tokens=32"]).settings


def drawn(engine: Engine) -> list[tuple[Completion, ...]]:
    return [group.completions for group in engine.sample(PROMPTS, seeds=SEEDS)]


def _living() -> list[str]:
    """The threads that draw, talk or write here."""
    names = [thread.name for thread in threading.enumerate()]
    return [name for name in names if name.startswith("dgpo") or name == "checkpoint"]


def _with_the_policy(ranks: TorchRanks, kind: str) -> list[Any]:
    if not ranks.leads:
        serve = RankedSampler._serve

        def late(sampler: RankedSampler) -> None:
            serve(sampler)
            time.sleep(0.5)

        RankedSampler._serve = late  # type: ignore[method-assign]
        follow(ranks)
        return _living()
    settings = settings_of(kind, count=2)
    with ranks.call(BUILD, settings, None):
        engine = training_engine(settings, ranks=ranks)
    with engine:
        found = [drawn(engine)]
        engine.policy_version = 3
        engine.sync()
        found.append(drawn(engine))
    ranks._control.send(None)  # the followers' calls are over; the ranks are not
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_completions_on_processes_are_those_of_one_device(kind: str) -> None:
    (first, second), living = on_ranks(_with_the_policy, 2, kind, collective=kind == "shard")
    assert living == []  # a follower's threads end before it does
    with training_engine(settings_of("single", count=1)) as engine:
        alone = drawn(engine)
    assert first == alone  # to the bit: the batches are the same
    assert {c.policy_version for own in second for c in own} == {3}
    assert [[c.token_ids for c in own] for own in second] == [
        [c.token_ids for c in own] for own in alone
    ]


def _with_servers(ranks: TorchRanks, folder: Path) -> list[Any]:
    os.environ["XDG_STATE_HOME"] = str(folder / str(ranks.number))
    server = FakeVllm()
    lockstep = Lockstep(FakeWeights(adapter=True, weight=0.5), ranks=ranks)
    own = sampler_of(server, weights=lockstep, timeout_s=60.0)
    sampler = RankedRemoteSampler(own, ranks=ranks, among=2, lockstep=lockstep)
    found: list[Any] = []
    if ranks.leads:
        found.append(sample(sampler) == expected(0.5, version=0))  # type: ignore[arg-type]
        sampler.sync(policy_version=2)
        found.append(sample(sampler) == expected(0.5, version=2))  # type: ignore[arg-type]
        found.append(_cancelled(sampler, server))
        sampler.close()
        ranks._control.send(None)
    else:
        for name, args in ranks.calls():
            if name == "hang":
                server.faults.hang_s = 30.0
            else:
                sampler.calls()[name](*args)
    found.append(sum(body["max_tokens"] > 4 for body in server.bodies))
    server.down()
    own.close()
    return found


def _cancelled(sampler: RankedRemoteSampler, server: FakeVllm) -> tuple[str, bool]:
    """Cancel a round in which every rank waits for its server."""
    with sampler._ranks.call("hang"):
        server.faults.hang_s = 30.0
    sampler.prepare(NOBODY)
    errors: list[str] = []

    def draw() -> None:
        try:
            sample(sampler)  # type: ignore[arg-type]
        except BackendError as error:
            errors.append(str(error))

    thread = threading.Thread(target=draw)
    thread.start()
    time.sleep(1.0)
    started = time.monotonic()
    sampler.cancel()
    thread.join(20)
    return errors[0], time.monotonic() - started < 15


def test_engines_of_processes_share_rounds_and_end_them_together(tmp_path: Path) -> None:
    (first, second, cancelled, leaders), (followers,) = on_ranks(_with_servers, 2, tmp_path)
    assert first and second
    assert cancelled == ("sampling was cancelled", True)
    assert leaders and followers


def _failing(ranks: TorchRanks, out: Path) -> str:
    """A run in which rank 1 cannot sample any more after two rounds."""
    if not ranks.leads:
        rounds = iter(range(2))
        draw = HfSampler.draw

        def failing(*args: Any, **options: Any) -> Any:
            if next(rounds, None) is None:
                raise MemoryError("planted")
            return draw(*args, **options)

        HfSampler.draw = failing  # type: ignore[method-assign]
        follow(ranks)
        return ""
    changes = ("parallel.kind=shard", "parallel.gpus=2", "train.steps=5", "eval.every=0")
    settings = resolve(preset="tiny", overrides=[*changes, "rollout.max_completion_tokens=16"])
    try:
        train.run(settings, out=out, resume="auto", ranks=ranks, observer=NOBODY)
    except BackendError as error:
        ranks._control.send(None)
        return str(error)
    return "it did not fail"


def test_a_rank_that_cannot_sample_ends_the_run_with_a_checkpoint(tmp_path: Path) -> None:
    error, _ = on_ranks(_failing, 2, tmp_path / "run", collective=True)
    assert error == f"rank 1 ({socket.gethostname()}): MemoryError: planted"
    (checkpoint,) = RunFolder(tmp_path / "run").checkpoints()
    assert checkpoint.name == "step-000002"
