"""Two ranks, each with a vLLM engine of its own, that sample and are synced together."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tests import ranks as on
from tests.processes import left_behind
from tests.vllm.conftest import SETTINGS
from tests.vllm.test_process import MEMORY
from tests.vllm.test_server import CLOSE

if TYPE_CHECKING:
    from pathlib import Path

    from dgpo_cli.core.types import Group
    from dgpo_cli.engine.engine import Engine
    from dgpo_cli.parallel.ranks import TorchRanks

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

MARK = f"DGPO_RANKS_TEST=session-{os.getpid()}"
KINDS = {
    "replicate": ("adapter.kind=lora", "adapter.rank=8"),
    "shard": ("adapter.kind=none",),
}


@pytest.fixture
def mark(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(on, "_LIMIT_S", 850.0)
    yield MARK
    assert left_behind(MARK, within_s=30) == []


def _settings(model: Path, kind: str) -> Any:
    from dgpo_cli.config.load import resolve

    changes = (f"model.path={model}", f"parallel.kind={kind}", "parallel.gpus=2")
    return resolve(preset="tiny", overrides=[*SETTINGS, *MEMORY, *changes, *KINDS[kind]]).settings


def _move(engine: Engine) -> None:
    import torch

    with torch.no_grad():
        for _, weight in engine.policy.trainable():
            weight.add_(0.02)


def _rank(ranks: TorchRanks, model: Path, kind: str, mark: str) -> list[Any]:
    """Sample, move the weights, sync and sample; return what the leader found, and who drew."""
    from dgpo_cli.engine.setup import training_engine

    name, value = mark.split("=")
    os.environ[name] = value  # what the engines inherit
    engine = training_engine(_settings(model, kind), ranks=ranks)
    drew = _count(engine)
    if ranks.leads:
        found: list[Any] = [_gap(engine)]
        for version in (1, 2):
            with ranks.call("move"):
                _move(engine)
            engine.policy_version = version
            engine.sync()
            found.append(_gap(engine))
        engine.__exit__()
        ranks._control.send(None)
        return [*found, drew]
    for name, args in ranks.calls():
        if name == "move":
            _move(engine)
        else:
            engine.calls()[name](*args)
    return drew


def _count(engine: Engine) -> list[int]:
    """Note how many completions this rank draws of each round."""
    own, counts = engine.sampler._own, []  # type: ignore[union-attr]
    draw = own.draw

    def counting(*args: Any, **options: Any) -> Any:
        found = draw(*args, **options)
        counts.append(len(found))
        return found

    own.draw = counting
    return counts


def _gap(engine: Engine) -> tuple[float, list[tuple[int, ...]]]:
    """Return how far sampler and trainer are apart, at most, and the tokens."""
    from dgpo_cli.core.types import Message, Prompt

    prompts = [
        Prompt(str(i), (Message("user", f"{i}+{i}?"),), answer="1", source="typed")
        for i in range(6)
    ]
    groups: list[Group] = engine.sample(
        prompts, seeds=[[10 * i + j for j in range(4)] for i in range(6)]
    )
    completions = [c for group in groups for c in group.completions]
    assert {c.policy_version for c in completions} == {engine.policy_version}
    trainers = engine.logprobs(groups).logprobs
    gaps = [
        abs(a - b)
        for c, own in zip(completions, trainers, strict=True)
        for a, b in zip(c.sampling_logprobs, own, strict=True)
    ]
    return max(gaps), [c.token_ids for c in completions]


@pytest.mark.parametrize("kind", KINDS)
def test_every_ranks_engine_samples_with_the_weights_of_each_sync(
    small_model: Path, mark: str, kind: str
) -> None:
    found, followers = on.on_ranks(
        _rank, 2, small_model, kind, mark, collective=kind == "shard", timeout_s=600.0
    )
    *rounds, leaders = found
    assert [gap < CLOSE for gap, _ in rounds] == [True] * 3
    assert len({tuple(tokens) for _, tokens in rounds}) == 3  # the weights moved
    assert [a + b for a, b in zip(leaders, followers, strict=True)] == [24] * 3
    assert all(leaders) and all(followers)
