"""All weights to vLLM servers through their weight transfer; no vLLM here."""

from __future__ import annotations

import pytest

from dgpo_cli.core.errors import BackendError
from dgpo_cli.samplers.settings import VllmServerBackend
from dgpo_cli.samplers.vllm.carriers import FullCarrier
from dgpo_cli.samplers.vllm.sampler import Limits, VllmSampler
from dgpo_cli.samplers.vllm.server import SharedServers
from tests.samplers.fake_vllm import (
    FakeVllm,
    FakeWeights,
)
from tests.samplers.vllm_cases import expected, sample, sampler_of

pytestmark = pytest.mark.usefixtures("short_waits")


def test_weights_over_tcp_are_not_written_down_and_come_in_the_servers_type(
    server: FakeVllm, over_tcp: None
) -> None:
    server.dtype = "torch.bfloat16"
    weights = FakeWeights(adapter=False)
    sampler = sampler_of(server, weights=weights)
    sample(sampler)
    weights.weight = 0.25
    sampler.sync(policy_version=1)
    assert sample(sampler) == expected(0.25, version=1)
    assert weights.saved == [] and set(server.dtypes) == {"bfloat16"}


def test_a_folder_can_be_chosen_whatever_the_servers_take(server: FakeVllm, over_tcp: None) -> None:
    backend = VllmServerBackend(urls=(server.address,), startup_timeout_s=0.2)
    fleet = SharedServers(backend)
    weights = FakeWeights(adapter=False, weight=0.25, untouched=False)
    sampler = VllmSampler(
        weights,
        fleet=fleet,
        carrier=FullCarrier(weights, fleet=fleet, folder=True),
        limits=Limits(3, 2, 5.0, 1e-3, "float32"),
        run="test",
    )
    assert sample(sampler) == expected(0.25, version=0)
    assert len(weights.saved) == 1 and server.dtypes == []


def test_a_transfer_that_fails_in_a_worker_is_an_error_with_its_fix(
    server: FakeVllm, over_tcp: None
) -> None:
    weights = FakeWeights(adapter=False)
    sampler = sampler_of(server, weights=weights)
    sample(sampler)
    weights.weight = 0.25
    server.faults.break_updates = 1
    with pytest.raises(BackendError, match=r"HTTP 500: planted.*sync_host.*weight_transfer=fold"):
        sampler.sync(policy_version=1)
    sampler.sync(policy_version=2)
    assert sample(sampler) == expected(0.25, version=2)


def test_an_update_that_another_trainer_has_left_open_is_closed_first(
    server: FakeVllm, over_tcp: None
) -> None:
    server.started = {}
    sampler = sampler_of(server, weights=FakeWeights(adapter=False, weight=0.25, untouched=False))
    assert sample(sampler) == expected(0.25, version=0)


def test_a_server_that_dies_in_a_transfer_is_given_the_weights_again(
    server: FakeVllm, over_tcp: None
) -> None:
    weights = FakeWeights(adapter=False)
    sampler = sampler_of(server, weights=weights)
    sample(sampler)
    weights.weight = 0.25
    server.faults.die_in_update = True
    sampler.sync(policy_version=1)
    assert not server.faults.die_in_update
    assert sample(sampler) == expected(0.25, version=1)


def test_a_server_that_is_back_without_the_interface_gets_its_weights_from_a_folder(
    server: FakeVllm, over_tcp: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = FakeWeights(adapter=False, weight=0.25, untouched=False)
    sampler = sampler_of(server, weights=weights)
    sample(sampler)
    monkeypatch.setattr(FakeVllm, "transfer", None)
    server.down()
    server.up()
    assert sample(sampler) == expected(0.25, version=0)
    assert len(weights.saved) == 1


@pytest.mark.parametrize(("transfer", "named"), [("nccl", "NCCL"), ("ipc", "CUDA IPC")])
def test_a_transport_that_needs_a_gpu_is_named_with_the_fix(
    server: FakeVllm, transfer: str, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeVllm, "transfer", transfer)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    sampler = sampler_of(server, weights=FakeWeights(adapter=False, untouched=False))
    with pytest.raises(BackendError, match=rf"weights by {named}.* a GPU.*transfer tcp.*=folder"):
        sample(sampler)


def test_an_address_that_is_not_this_machines_is_named_with_the_fix(
    server: FakeVllm, over_tcp: None
) -> None:
    sampler = sampler_of(
        server, weights=FakeWeights(adapter=False, untouched=False), sync_host="192.0.2.1"
    )
    with pytest.raises(BackendError, match=r"cannot listen on 192\.0\.2\.1 .*sync_host"):
        sample(sampler)
