"""Trainer and engine take turns on one device: who has its memory when. No vLLM here."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from dgpo_cli.core.errors import BackendError
from dgpo_cli.core.events import NOBODY, Observer
from dgpo_cli.samplers.lockstep import Lockstep
from dgpo_cli.samplers.ranked import RankedRemoteSampler
from dgpo_cli.samplers.settings import VllmServerBackend
from dgpo_cli.samplers.vllm.client import VllmClient
from dgpo_cli.samplers.vllm.sampler import Limits, VllmSampler
from dgpo_cli.samplers.vllm.server import SharedServers
from tests.samplers.fake_ranks import FakeRanks, led
from tests.samplers.fake_vllm import FakeVllm, FakeWeights, fake_sampler, fake_servers
from tests.samplers.vllm_cases import adapter_or_full, expected, sample

pytestmark = pytest.mark.usefixtures("short_waits")

TAKES = ("/v1/load_lora_adapter", "/collective_rpc", "/update_weights")  # weights
PHASES = ("release", "start", "/sleep", "/wake_up", "/v1/completions", *TAKES)


class OwnServer(SharedServers):
    """A server that is there already, as an engine on the trainer's device that may sleep."""

    sleeps = True
    shared = False

    def __init__(self, server: FakeVllm, *, sleeps: bool = True) -> None:
        super().__init__(VllmServerBackend(urls=(server.address,), startup_timeout_s=5.0))
        server.rules = None  # an engine of our own has a socket that is ours
        self.server = server
        self.sleeps = sleeps

    def start(self, observer: Observer) -> None:
        self.server.calls.append("start")
        super().start(observer)

    def bring_back(self, client: VllmClient, error: Exception) -> None:
        if self.server._http is None:
            self.server.calls.append("start")
            self.server.up()
            self.server.rules = None
        super().bring_back(client, error)


def sampler_of(server: FakeVllm, *, weights: Any, sleeps: bool = True) -> VllmSampler:
    limits = Limits(3, 2, 5.0, 1e-3, "float32")
    return fake_sampler(weights, fleet=OwnServer(server, sleeps=sleeps), limits=limits)


@pytest.fixture
def server() -> Iterator[FakeVllm]:
    with fake_servers() as (server,):
        yield server
        assert server.wrong == []


def phases(server: FakeVllm) -> list[str]:
    """Return what has happened since the last time; several completions are one."""
    found: list[str] = []
    for call in server.calls:
        known = call if call.startswith(PHASES) else ""
        if known and not (found and found[-1] == known == "/v1/completions"):
            found.append("weights" if known in TAKES else known)
    server.calls.clear()
    return found


@adapter_or_full
def test_an_engine_sleeps_once_a_step_and_takes_weights_before_it_takes_its_cache(
    server: FakeVllm, adapter: bool
) -> None:
    weights = FakeWeights(adapter=adapter)
    weights.log = server.calls
    sampler = sampler_of(server, weights=weights)
    sample(sampler)
    first = ["/v1/completions", "weights", "/v1/completions"] if adapter else ["/v1/completions"]
    assert phases(server) == ["release", "start", *first]
    for version in (1, 2):
        sampler.rest()
        sampler.rest()  # every pass of the trainer says so
        assert phases(server) == ["/sleep"] and server.asleep
        weights.weight = version / 8
        sampler.sync(policy_version=version)
        woken = ["release", "/wake_up weights", "weights", "release", "/wake_up kv_cache"]
        assert phases(server) == [*woken, "/v1/completions"] and not server.asleep
        for _ in range(2):  # an evaluation, and the next batch
            assert sample(sampler) == expected(version / 8, version=version)
        assert phases(server) == ["/v1/completions"]


@adapter_or_full
def test_an_engine_wakes_as_it_fell_asleep_when_nothing_was_trained(
    server: FakeVllm, adapter: bool
) -> None:
    weights = FakeWeights(adapter=adapter, weight=0.25, untouched=False)
    weights.log = server.calls
    sampler = sampler_of(server, weights=weights)
    sample(sampler)
    sampler.rest()
    phases(server)
    assert sample(sampler) == expected(0.25, version=0)
    assert phases(server) == ["release", "/wake_up", "/v1/completions"]


@adapter_or_full
@pytest.mark.parametrize("trained", [True, False])
def test_an_engine_that_died_in_its_sleep_starts_with_the_present_weights(
    server: FakeVllm, adapter: bool, trained: bool
) -> None:
    weights = FakeWeights(adapter=adapter, weight=0.25, untouched=False)
    weights.log = server.calls
    sampler = sampler_of(server, weights=weights)
    sample(sampler)
    sampler.rest()
    server.down()
    phases(server)
    if trained:
        weights.weight = 0.5
        sampler.sync(policy_version=1)
    assert sample(sampler) == expected(weights.weight, version=int(trained))
    found = phases(server)
    assert found[found.index("start") - 1] == "release"
    assert found[-1] == "/v1/completions" and "weights" in found


def test_an_engine_that_is_dead_when_it_is_to_sleep_is_left_alone_until_it_is_needed(
    server: FakeVllm,
) -> None:
    sampler = sampler_of(server, weights=FakeWeights(adapter=True))
    sample(sampler)
    server.down()
    phases(server)
    sampler.rest()
    assert phases(server) == []
    assert sample(sampler) == expected(0.0, version=0)


@pytest.mark.parametrize("trained", [True, False])
def test_an_engine_that_cannot_wake_names_the_setting_and_gets_no_request(
    server: FakeVllm, trained: bool
) -> None:
    sampler = sampler_of(server, weights=FakeWeights(adapter=True))
    sample(sampler)
    sampler.rest()
    server.faults.refuse_wake = "CUDA Error: out of memory"
    with pytest.raises(BackendError) as error:
        sampler.sync(policy_version=1) if trained else sample(sampler)
    assert str(error.value) == (
        f"{server.address}: cannot take back its memory of the device for "
        f"{'weights' if trained else 'sampling'}: HTTP 500: CUDA Error: out of memory; end other "
        "processes there, or lower rollout.backend.gpu_memory_utilization"
    )
    server.faults.refuse_wake = ""  # the other process has ended
    sampler.sync(policy_version=2)
    assert sample(sampler) == expected(0.0, version=2)


def test_an_engine_that_cannot_sleep_is_an_error_with_its_fix(server: FakeVllm) -> None:
    sampler = sampler_of(server, weights=FakeWeights(adapter=True))
    sample(sampler)
    server.faults.refuse_sleep = "Memory usage increased after sleeping."
    with pytest.raises(BackendError, match=r"HTTP 500: Memory usage .*rollout\.backend\.sleep=off"):
        sampler.rest()


def test_a_transfer_that_breaks_off_while_the_cache_sleeps_leaves_no_request_waiting(
    server: FakeVllm, over_tcp: None
) -> None:
    weights = FakeWeights(adapter=False)
    sampler = sampler_of(server, weights=weights)
    sample(sampler)
    sampler.rest()
    weights.weight = 0.25
    server.faults.die_in_update = True
    sampler.sync(policy_version=1)
    assert sample(sampler) == expected(0.25, version=1)


def test_an_engine_without_sleep_only_finds_the_memory_free_when_it_starts(
    server: FakeVllm,
) -> None:
    weights = FakeWeights(adapter=True)
    weights.log = server.calls
    sampler = sampler_of(server, weights=weights, sleeps=False)
    for version in (1, 2):
        sample(sampler)
        sampler.rest()
        sampler.sync(policy_version=version)
    found = phases(server)
    assert found[:2] == ["release", "start"]
    assert not {"/sleep", "/wake_up", "release"} & set(found[2:])


def test_servers_elsewhere_do_not_need_the_trainers_memory(server: FakeVllm) -> None:
    from tests.samplers import vllm_cases

    weights = FakeWeights(adapter=True)
    sampler = vllm_cases.sampler_of(server, weights=weights)
    sample(sampler)
    sampler.rest()
    sampler.sync(policy_version=1)
    sample(sampler)
    assert weights.log == [] and "/sleep" not in server.calls


class SlowWeights(FakeWeights):
    """Whose rank takes its time to free memory."""

    def __init__(self, number: int, events: list[str]) -> None:
        super().__init__(adapter=True)
        self._number, self._events = number, events

    def release(self) -> None:
        time.sleep(0.1 * (self._number % 2))
        self._events.append(f"rank {self._number}")


def test_an_engine_starts_and_wakes_when_all_ranks_on_its_devices_have_freed_memory() -> None:
    """Ranks 0 and 1 share an engine, and 2 and 3; all go on when both engines sleep."""
    events: list[str] = []

    def make(ranks: FakeRanks) -> RankedRemoteSampler:
        lockstep = Lockstep(SlowWeights(ranks.number, events), ranks=ranks)
        number, rest = divmod(ranks.number, 2)
        own = None if rest else sampler_of(servers[number], weights=lockstep)
        return RankedRemoteSampler(own, ranks=ranks, among=2, lockstep=lockstep)

    def work(sampler: Any) -> None:
        for version in (1, 2):
            assert sample(sampler) == expected(0.0, version=version - 1)
            sampler.rest()
            assert all(server.asleep for server in servers)
            sampler.rest()
            if version == 1:
                assert sample(sampler) == expected(0.0, version=0)
                sampler.rest()
            sampler.sync(policy_version=version)

    with fake_servers(2) as servers:
        for server in servers:
            server.calls = events  # type: ignore[assignment]
        led(work, count=4, make=make)
        assert not any(server.wrong for server in servers)
    told = [e for e in events if e.startswith(("rank", "start", "/sleep", "/wake_up"))]
    assert told.count("/sleep") == 2 * 3  # engines, and how often the trainer worked
    free: set[str] = set()
    for event in told:
        if event == "/sleep":
            free.clear()
        elif event.startswith("rank"):
            free.add(event)
        else:
            assert len(free) == 4, told


def test_a_round_beside_the_trainer_needs_no_call_of_the_ranks() -> None:
    """With rollout.overlap nothing sleeps: the thread that draws and the loop do not meet."""

    def make(ranks: FakeRanks) -> RankedRemoteSampler:
        lockstep = Lockstep(FakeWeights(adapter=True), ranks=ranks)
        own = sampler_of(servers[ranks.number], weights=lockstep, sleeps=False)
        return RankedRemoteSampler(own, ranks=ranks, among=2, lockstep=lockstep)

    def work(sampler: Any) -> None:
        sampler.prepare(NOBODY)
        call, sampler._ranks.call = sampler._ranks.call, None
        thread = threading.Thread(target=lambda: found.append(sample(sampler)))
        thread.start()
        while thread.is_alive():
            sampler.rest()
            time.sleep(0.01)
        sampler._ranks.call = call

    found: list[Any] = []
    with fake_servers(2) as servers:
        led(work, count=2, make=make)
    assert found == [expected(0.0, version=0)]
