"""Weights that only all ranks together can read, for an engine on each. Threads are the ranks."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from dgpo_cli.core.errors import BackendError
from dgpo_cli.core.events import NOBODY
from dgpo_cli.samplers.lockstep import Lockstep
from dgpo_cli.samplers.ranked import RankedRemoteSampler
from tests.samplers.fake_ranks import FakeRanks, led
from tests.samplers.fake_vllm import FakeVllm, FakeWeights, fake_servers
from tests.samplers.vllm_cases import PARAMS, expected, sample, sampler_of

HERE = re.escape(socket.gethostname())


class Meeting:
    """Counts what the ranks read together; raises if they read different things, or not all."""

    def __init__(self, count: int) -> None:
        self.read: list[str] = []
        self._names: list[str] = []
        self._lock = threading.Lock()
        self._barrier = threading.Barrier(count, self._meet, timeout=10)

    def __call__(self, what: str) -> None:
        with self._lock:
            self._names.append(what)
        self._barrier.wait()

    def _meet(self) -> None:
        names, self._names = self._names, []
        assert len(set(names)) == 1, names
        self.read.append(names[0])


@dataclass
class Described:
    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]


class ShardedWeights(FakeWeights):
    """Weights in two tensors, which all ranks must gather at the same time."""

    def __init__(self, meeting: Meeting, *, adapter: bool) -> None:
        super().__init__(adapter=adapter)
        self._meeting = meeting

    def save(self, folder: Path) -> None:
        self._meeting("save")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "weights.json").write_text(str(self.weight))

    def logprobs_of(
        self, ids: Sequence[int], *, temperature: float, adapter: bool = True
    ) -> list[float]:
        self._meeting(f"logprobs, adapter {adapter}")
        return super().logprobs_of(ids, temperature=temperature, adapter=adapter)

    def tensors(self) -> Any:
        return Gathered(self)


class Gathered:
    def __init__(self, weights: ShardedWeights) -> None:
        self._weights = weights
        self.described = [Described(n, torch.float64, (1,)) for n in ("before", "weight", "after")]

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        for each in self.described:
            self._weights._meeting(each.name)
            yield each.name, torch.tensor([self._weights.weight], dtype=torch.float64)


@pytest.fixture
def servers() -> Iterator[list[FakeVllm]]:
    with fake_servers(3) as servers:
        yield servers


@pytest.fixture
def meeting() -> Meeting:
    return Meeting(3)


def together(
    work: Callable[[Any, Callable[[float], None]], None],
    servers: list[FakeVllm],
    meeting: Meeting,
    *,
    adapter: bool = False,
    owners: Sequence[int] = (0, 1, 2),
    **options: Any,
) -> None:
    """Run work(the leader's sampler, a function that sets every rank's weight)."""
    every = [ShardedWeights(meeting, adapter=adapter) for _ in range(3)]

    def set_all(value: float) -> None:
        for weights in every:
            weights.weight = value

    def make(ranks: FakeRanks) -> RankedRemoteSampler:
        lockstep = Lockstep(every[ranks.number], ranks=ranks)
        own = None
        if ranks.number in owners:
            own = sampler_of(servers[ranks.number], weights=lockstep, **options)
        return RankedRemoteSampler(own, ranks=ranks, among=len(owners), lockstep=lockstep)

    led(lambda sampler: work(sampler, set_all), count=3, make=make, collective=True)


@pytest.mark.parametrize("owners", [(0, 1, 2), (0,), (0, 2)])
@pytest.mark.parametrize("adapter", [True, False])
@pytest.mark.usefixtures("over_tcp")
def test_every_engine_gets_sharded_weights_and_its_canary(
    servers: list[FakeVllm], meeting: Meeting, adapter: bool, owners: tuple[int, ...]
) -> None:
    def work(sampler: Any, set_all: Callable[[float], None]) -> None:
        for version, weight in enumerate((0.0, 0.25, 0.5)):
            set_all(weight)
            sampler.sync(policy_version=version)
            assert sample(sampler) == expected(weight, version=version)

    together(work, servers, meeting, adapter=adapter, owners=owners)
    for number, server in enumerate(servers):
        assert bool(server.bodies) == (number in owners)
    if not adapter:
        assert meeting.read.count("weight") == 3  # at each sync for all engines at the same time


@pytest.mark.usefixtures("over_tcp")
def test_a_canary_finds_the_one_engine_without_the_weights(
    servers: list[FakeVllm], meeting: Meeting
) -> None:
    def work(sampler: Any, set_all: Callable[[float], None]) -> None:
        sampler.prepare(NOBODY)
        set_all(0.25)
        servers[2].faults.ignore_sync = True
        with pytest.raises(BackendError, match=rf"^rank 2 \({HERE}\): .*canary.* version 1"):
            sampler.sync(policy_version=1)

    together(work, servers, meeting)


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.usefixtures("over_tcp")
def test_an_engine_that_fails_in_the_middle_leaves_nobody_waiting(
    servers: list[FakeVllm], meeting: Meeting, rank: int
) -> None:
    def work(sampler: Any, set_all: Callable[[float], None]) -> None:
        sampler.prepare(NOBODY)
        set_all(0.25)
        servers[rank].faults.break_updates = 1
        with pytest.raises(BackendError, match="weights over TCP"):
            sampler.sync(policy_version=1)
        sampler.sync(policy_version=2)  # all still follow, and nothing is left over
        assert sample(sampler) == expected(0.25, version=2)

    together(work, servers, meeting)


@pytest.mark.usefixtures("over_tcp")
def test_a_stream_that_breaks_off_is_read_to_its_end_for_the_others(
    servers: list[FakeVllm], meeting: Meeting, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.samplers import fake_vllm

    whole, broken = fake_vllm.receive, []

    def short(*args: Any, **options: Any) -> Iterator[Any]:
        tensors = whole(*args, **options)
        yield next(tensors)
        if not broken:
            broken.append(True)
            tensors.close()  # type: ignore[attr-defined]
            raise ConnectionError("planted")
        yield from tensors

    def work(sampler: Any, set_all: Callable[[float], None]) -> None:
        sampler.prepare(NOBODY)
        set_all(0.25)
        monkeypatch.setattr(fake_vllm, "receive", short)
        sampler.sync(policy_version=1)  # that server gets them again
        assert sample(sampler) == expected(0.25, version=1)

    together(work, servers, meeting, wait_s=5.0)
    assert broken
    assert meeting.read.count("before") == meeting.read.count("after") == 3


@pytest.mark.usefixtures("over_tcp")
def test_an_engine_that_is_brought_back_in_a_sync_gets_the_weights_again(
    servers: list[FakeVllm], meeting: Meeting
) -> None:
    def work(sampler: Any, set_all: Callable[[float], None]) -> None:
        sampler.prepare(NOBODY)
        set_all(0.25)
        servers[1].faults.die_in_update = True
        sampler.sync(policy_version=1)
        assert sample(sampler) == expected(0.25, version=1)

    together(work, servers, meeting, wait_s=5.0)


@pytest.mark.parametrize("adapter", [True, False])
@pytest.mark.usefixtures("over_tcp")
def test_an_engine_that_lost_its_weights_between_syncs_gets_the_adapter_alone(
    servers: list[FakeVllm], meeting: Meeting, adapter: bool
) -> None:
    def work(sampler: Any, set_all: Callable[[float], None]) -> None:
        sampler.prepare(NOBODY)
        set_all(0.25)
        sampler.sync(policy_version=1)
        port = servers[1].port
        servers[1].down()
        servers[1].up()
        assert servers[1].port == port
        prompts, seeds = [[i] for i in range(30)], [[i] for i in range(30)]
        if adapter:
            sampler.sample(prompts, seeds=seeds, params=PARAMS, observer=NOBODY)
            assert sample(sampler) == expected(0.25, version=1)
        else:
            with pytest.raises(BackendError, match=r"rank 1 .*cannot be sent between two syncs"):
                sampler.sample(prompts, seeds=seeds, params=PARAMS, observer=NOBODY)

    together(work, servers, meeting, adapter=adapter, wait_s=5.0)


def test_sharded_weights_do_not_go_through_a_folder(
    servers: list[FakeVllm], meeting: Meeting
) -> None:
    def work(sampler: Any, set_all: Callable[[float], None]) -> None:
        with pytest.raises(BackendError, match=r"set rollout.backend.weight_transfer=auto"):
            sampler.prepare(NOBODY)

    together(work, servers, meeting)
