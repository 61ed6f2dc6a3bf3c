"""Servers of a policy that is not in memory: what still keeps out other weights."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from dgpo_cli.core.errors import BackendError
from dgpo_cli.core.events import NOBODY
from dgpo_cli.samplers.vllm import dispatch
from tests.samplers.fake_vllm import BASE, FakeVllm, FakeWeights, fake_servers
from tests.samplers.vllm_cases import adapter_or_full, expected, sample, sampler_of

pytestmark = pytest.mark.usefixtures("short_waits")


class OnDisk(FakeWeights):
    """Weights that this process only hands on."""

    in_memory = False

    def logprobs_of(
        self, ids: Sequence[int], *, temperature: float, adapter: bool = True
    ) -> list[float]:
        raise AssertionError("nothing computes here")


@adapter_or_full
def test_completions_are_those_of_the_weights_on_the_disk(server: FakeVllm, adapter: bool) -> None:
    sampler = sampler_of(server, weights=OnDisk(adapter=adapter, weight=0.25))
    assert sample(sampler) == expected(0.25, version=0)
    assert sample(sampler) == expected(0.25, version=0)


def test_all_servers_must_have_what_the_first_has() -> None:
    """Each takes an adapter, but their bases differ."""
    with fake_servers(2) as (one, two):
        sampler = sampler_of(one, two, weights=OnDisk(adapter=True, weight=0.25))
        two.base = 0.01
        with pytest.raises(BackendError) as caught:
            sample(sampler)
        assert str(caught.value).startswith(f"{two.address}: after the sync its canary")
        assert f"from those that {one.address} gave first, more than" in str(caught.value)


def test_a_server_that_changes_gets_the_weights_again(server: FakeVllm) -> None:
    sampler = sampler_of(server, weights=OnDisk(adapter=False, weight=0.25))
    sample(sampler)
    server.base = 0.7  # another run's
    assert sample(sampler) == expected(0.25, version=0)


def test_a_server_that_changes_and_takes_no_weights_ends_the_sampling(server: FakeVllm) -> None:
    server.faults.no_updates = True
    sampler = sampler_of(server, weights=OnDisk(adapter=False))
    sample(sampler)
    server.base = 0.7
    with pytest.raises(BackendError, match=rf"those that {server.address} gave first"):
        sample(sampler)


@adapter_or_full
def test_log_probabilities_without_the_temperature_are_refused(
    server: FakeVllm, adapter: bool
) -> None:
    server.faults.raw_logprobs = True
    sampler = sampler_of(server, weights=OnDisk(adapter=adapter, weight=0.25))
    with pytest.raises(BackendError, match=r"those of temperature 1; start .* dgpo serve, or with"):
        sample(sampler)


def test_an_engine_that_comes_back_must_be_the_one_that_died(
    server: FakeVllm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "_BACKOFF_S", 0.01)
    sampler = sampler_of(server, weights=OnDisk(adapter=True, weight=0.25))
    sample(sampler)
    server.faults.forget_after = len(server.bodies) + 2
    assert sample(sampler) == expected(0.25, version=0)


@pytest.mark.parametrize(
    ("adapter", "no_updates", "known"),
    [(False, False, True), (False, True, False), (True, False, False)],
)
def test_weights_are_known_if_the_server_gets_them(
    server: FakeVllm, adapter: bool, no_updates: bool, known: bool
) -> None:
    server.faults.no_updates = no_updates
    sampler = sampler_of(server, weights=OnDisk(adapter=adapter))
    assert sampler.meet(NOBODY) == (None if known else BASE)
    assert sampler_of(server, weights=FakeWeights(adapter=adapter)).meet(NOBODY) is None
    assert "/v1/load_lora_adapter" not in server.calls
