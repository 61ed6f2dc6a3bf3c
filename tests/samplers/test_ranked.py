"""A round of sampling on several ranks: threads here, each with a server or the policy itself."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dgpo_cli.core.errors import BackendError, CalledOff
from dgpo_cli.core.events import NOBODY, Progress
from dgpo_cli.core.types import Completion
from dgpo_cli.samplers.hf import HfSampler
from dgpo_cli.samplers.lockstep import Lockstep
from dgpo_cli.samplers.ranked import RankedRemoteSampler, RankedSampler
from tests.recorder import Recorder
from tests.samplers.fake_ranks import FakeRanks, led
from tests.samplers.fake_vllm import FakeVllm, FakeWeights, fake_servers
from tests.samplers.test_hf import PARAMS as HF_PARAMS
from tests.samplers.test_hf import assert_same, make_policy, make_prompts
from tests.samplers.vllm_cases import PARAMS, PROMPTS, SEEDS, expected, sample, sampler_of

HERE = re.escape(socket.gethostname())


@pytest.fixture
def servers() -> Iterator[list[FakeVllm]]:
    with fake_servers(3) as servers:
        yield servers


def makes(
    servers: list[FakeVllm], *, weights: FakeWeights, size: int = 1, **options: Any
) -> Callable[[FakeRanks], RankedRemoteSampler]:
    """Return what makes a rank's sampler: each `size` ranks share a server."""

    def make(ranks: FakeRanks) -> RankedRemoteSampler:
        lockstep = Lockstep(weights, ranks=ranks)
        number, rest = divmod(ranks.number, size)
        own = None if rest else sampler_of(servers[number], weights=lockstep, **options)
        return RankedRemoteSampler(own, ranks=ranks, among=ranks.count // size, lockstep=lockstep)

    return make


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("batch_size", [3, 256])
def test_completions_of_the_policy_itself_do_not_depend_on_the_ranks(
    count: int, batch_size: int
) -> None:
    policy = make_policy()
    prompts = make_prompts([5, 2, 9, 4, 9, 3])
    seeds = [[10 * i + j for j in range(1 + i)] for i in range(6)]
    drew: Counter[int] = Counter()

    def make(ranks: FakeRanks) -> RankedSampler:
        own = HfSampler(policy, batch_size=batch_size)
        draw = own.draw

        def counting(*args: Any, **options: Any) -> Any:
            found = draw(*args, **options)
            drew[ranks.number] += len(found)
            return found

        own.draw = counting  # type: ignore[method-assign]
        return RankedSampler(own, ranks=ranks, among=ranks.count)

    def work(sampler: Any) -> list[tuple[Completion, ...]]:
        sampler.sync(policy_version=4)
        return sampler.sample(prompts, seeds=seeds, params=HF_PARAMS, observer=NOBODY)

    alone = HfSampler(policy, batch_size=batch_size)
    alone.sync(policy_version=4)
    theirs = alone.sample(prompts, seeds=seeds, params=HF_PARAMS, observer=NOBODY)
    mine = led(work, count=count, make=make)
    if batch_size == 3:  # the batches are the same
        assert mine == theirs
    assert_same(mine, theirs)
    assert sum(drew.values()) == 21
    assert {c.policy_version for own in mine for c in own} == {4}


@pytest.mark.parametrize("adapter", [True, False])
def test_completions_of_engines_do_not_depend_on_the_ranks(
    servers: list[FakeVllm], adapter: bool
) -> None:
    weights = FakeWeights(adapter=adapter)

    def work(sampler: Any) -> None:
        assert sample(sampler) == expected(0.0, version=0)
        weights.weight = 0.25
        sampler.sync(policy_version=7)
        assert sample(sampler) == expected(0.25, version=7)

    led(work, count=3, make=makes(servers, weights=weights))
    drawn = [[b for b in server.bodies if b["max_tokens"] > 4] for server in servers]
    assert all(drawn) and sum(map(len, drawn)) == 2 * sum(map(len, SEEDS))


def test_ranks_that_share_an_engine_only_follow(servers: list[FakeVllm]) -> None:
    weights = FakeWeights(adapter=True, weight=0.5)
    make = makes(servers, weights=weights, size=2)
    assert led(sample, count=4, make=make) == expected(0.5, version=0)
    assert servers[0].bodies and servers[1].bodies and not servers[2].calls


def test_a_slow_rank_holds_up_nobody(servers: list[FakeVllm]) -> None:
    servers[0].faults.hang_s = servers[1].faults.hang_s = 1.0
    prompts, seeds = [[i] for i in range(40)], [[i] for i in range(40)]

    def work(sampler: Any) -> Any:
        return sampler.sample(prompts, seeds=seeds, params=PARAMS, observer=NOBODY)

    led(work, count=3, make=makes(servers, weights=FakeWeights(adapter=True), in_flight=2))
    slow, slower, fast = (sum(b["max_tokens"] > 4 for b in s.bodies) for s in servers)
    assert fast > slow + slower


def test_prompts_whose_completions_were_long_start_first(servers: list[FakeVllm]) -> None:
    prompts = [[i] for i in range(8)]
    seeds = [[i] for i in range(8)]

    def work(sampler: Any) -> list[tuple[Completion, ...]]:
        first = sampler.sample(prompts, seeds=seeds, params=PARAMS, observer=NOBODY)
        servers[0].bodies.clear()
        again = sampler.sample(prompts, seeds=seeds, params=PARAMS, observer=NOBODY)
        assert again == first
        return first

    # One server, and one request at a time.
    make = makes(servers, weights=FakeWeights(adapter=True), size=2, in_flight=1)
    found = led(work, count=2, make=make)
    length = {(i,): len(own[0].token_ids) for i, own in enumerate(found)}
    order = [length[tuple(body["prompt"])] for body in servers[0].bodies]
    assert order == sorted(order, reverse=True) and len(set(order)) > 2


def test_progress_is_that_of_all_ranks(servers: list[FakeVllm]) -> None:
    recorder = Recorder()
    make = makes(servers, weights=FakeWeights(adapter=True))
    led(lambda sampler: sample(sampler, recorder), count=3, make=make)
    told = [e for e in recorder.of(Progress) if e.name == "sampling"]
    done = [e.done for e in told]
    total = sum(map(len, SEEDS))
    assert {e.total for e in told} == {total} and told[-1].over
    assert done == sorted(done) and done[0] == 0 and done[-1] == total


def test_an_error_while_sampling_names_its_rank_and_leaves_the_others_at_work(
    servers: list[FakeVllm],
) -> None:
    weights = FakeWeights(adapter=True)
    prompts, seeds = [[i] for i in range(60)], [[i] for i in range(60)]

    def work(sampler: Any) -> None:
        sampler.prepare(NOBODY)
        servers[1].faults.refuse = "planted"
        servers[0].faults.hang_s = servers[2].faults.hang_s = 0.1
        with pytest.raises(BackendError, match=rf"^rank 1 \({HERE}\): http.*planted"):
            sampler.sample(prompts, seeds=seeds, params=PARAMS, observer=NOBODY)
        servers[1].faults.refuse = ""
        sampler.sync(policy_version=1)  # all still follow
        assert sample(sampler) == expected(0.0, version=1)

    led(work, count=3, make=makes(servers, weights=weights, in_flight=2))
    drawn = sum(b["max_tokens"] > 4 for server in servers for b in server.bodies)
    assert drawn < 60  # nobody took the rest


def test_the_leaders_own_error_is_raised_as_it_is(servers: list[FakeVllm]) -> None:
    def work(sampler: Any) -> None:
        sampler.prepare(NOBODY)
        servers[0].faults.refuse = "planted"
        servers[1].faults.hang_s = 0.5
        with pytest.raises(BackendError, match=r"^http.*planted"):
            sample(sampler)

    led(work, count=2, make=makes(servers, weights=FakeWeights(adapter=True)))


def test_an_unexpected_error_of_a_rank_is_one_line(servers: list[FakeVllm]) -> None:
    make = makes(servers, weights=FakeWeights(adapter=True))

    def broken(ranks: FakeRanks) -> RankedRemoteSampler:
        sampler = make(ranks)
        if ranks.number == 1:
            assert sampler._own is not None

            def draw(*_: Any, **__: Any) -> Any:
                raise MemoryError("out of\nmemory")

            sampler._own.draw = draw  # type: ignore[method-assign]
        return sampler

    with pytest.raises(BackendError, match=rf"^rank 1 \({HERE}\): MemoryError: out of memory$"):
        led(sample, count=2, make=broken)


def test_cancel_ends_a_round_on_all_ranks(servers: list[FakeVllm]) -> None:
    errors: list[Exception] = []
    waits: list[float] = []

    def work(sampler: Any) -> None:
        sampler.prepare(NOBODY)
        for server in servers:
            server.faults.hang_s = 20.0

        def draw() -> None:
            try:
                sample(sampler)
            except BackendError as error:
                errors.append(error)

        thread = threading.Thread(target=draw)
        thread.start()
        while not all(server.in_flight for server in servers):
            time.sleep(0.01)
        started = time.monotonic()
        sampler.cancel()
        thread.join(15)
        waits.append(time.monotonic() - started)

    led(work, count=3, make=makes(servers, weights=FakeWeights(adapter=True), timeout_s=60.0))
    assert [str(error) for error in errors] == ["sampling was cancelled"] and waits[0] < 10


def test_no_rank_waits_for_an_engine_after_wait_no_more(servers: list[FakeVllm]) -> None:
    servers[1].down()

    def work(sampler: Any) -> None:
        threading.Timer(0.5, sampler.wait_no_more).start()
        started = time.monotonic()
        with pytest.raises(CalledOff, match="rank 1"):
            sampler.prepare(NOBODY)
        assert time.monotonic() - started < 15

    led(work, count=2, make=makes(servers, weights=FakeWeights(adapter=True), wait_s=60.0))


def test_a_round_is_drawn_while_the_ranks_do_something_else(servers: list[FakeVllm]) -> None:
    """As with rollout.overlap: nothing but the channel is used after `prepare`."""
    found: list[Any] = []

    def work(sampler: Any) -> None:
        sampler.prepare(NOBODY)
        call = sampler._ranks.call
        sampler._ranks.call = None
        thread = threading.Thread(target=lambda: found.append(sample(sampler)))
        thread.start()
        thread.join(20)
        sampler._ranks.call = call

    led(work, count=3, make=makes(servers, weights=FakeWeights(adapter=True)))
    assert found == [expected(0.0, version=0)]
    assert len(PROMPTS) == len(found[0])
