"""A sampler on vLLM servers that works beside a trainer, and is called off; no vLLM here."""

from __future__ import annotations

import threading
import time

import pytest

from dgpo_cli.core.errors import BackendError
from dgpo_cli.core.events import NOBODY
from dgpo_cli.core.types import Completion
from dgpo_cli.samplers.vllm.sampler import VllmSampler
from tests.samplers.fake_vllm import (
    FakeVllm,
    FakeWeights,
)
from tests.samplers.vllm_cases import (
    adapter_or_full,
    expected,
    sample,
    sampler_of,
)

pytestmark = pytest.mark.usefixtures("short_waits")


class Beside:
    """A sample in another thread."""

    def __init__(self, sampler: VllmSampler) -> None:
        self.found: list[tuple[Completion, ...]] = []
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, args=(sampler,), daemon=True)
        self.thread.start()

    def _run(self, sampler: VllmSampler) -> None:
        try:
            self.found = sample(sampler)
        except BaseException as error:
            self.error = error


@adapter_or_full
@pytest.mark.parametrize("fault", ["weights are gone", "connections are cut", "refused"])
def test_a_server_lost_while_the_policy_is_trained_gets_the_weights_of_its_own_version(
    server: FakeVllm, fault: str, adapter: bool
) -> None:
    weights = FakeWeights(adapter=adapter)
    sampler = sampler_of(server, weights=weights, in_flight=1, keep=True)
    sampler.prepare(NOBODY)
    weights.weight = 0.25
    sampler.sync(policy_version=1)
    server.bodies.clear()
    if fault == "weights are gone":
        if not adapter:
            server.base = 0.0  # started anew, and found so before the first completion
        server.faults.forget_after = 2
    elif fault == "connections are cut":
        server.faults.drop = 1
    else:
        server.faults.status = [503]
    weights.weight = 0.75  # the update
    assert sample(sampler) == expected(0.25, version=1)
    sampler.sync(policy_version=2)
    assert sample(sampler) == expected(0.75, version=2)


def test_prepare_starts_once_and_a_sample_then_reads_nothing_that_training_moves(
    server: FakeVllm,
) -> None:
    weights = FakeWeights(adapter=True, weight=0.5)
    sampler = sampler_of(server, weights=weights)
    for _ in range(2):
        sampler.prepare(NOBODY)
    assert len(weights.saved) == 1
    weights.weight = 0.9
    assert sample(sampler) == expected(0.5, version=0)
    assert len(weights.saved) == 1


@pytest.mark.parametrize("when", ["under way", "before"])
def test_a_sample_that_is_called_off_raises_and_leaves_no_thread(
    server: FakeVllm, when: str
) -> None:
    sampler = sampler_of(server, weights=FakeWeights(adapter=True), wait_s=30.0, timeout_s=60.0)
    sampler.prepare(NOBODY)
    before = threading.active_count()
    server.bodies.clear()
    server.faults.hang_s = 3.0
    if when == "before":
        sampler.cancel()
    beside = Beside(sampler)
    if when != "before":
        deadline = time.monotonic() + 60
        while not server.bodies and time.monotonic() < deadline:
            time.sleep(0.005)
        sampler.cancel()
    beside.thread.join(60)
    assert not beside.thread.is_alive()
    assert isinstance(beside.error, BackendError)
    assert "cancelled" in str(beside.error)
    deadline = time.monotonic() + 60
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= before
    with pytest.raises(BackendError, match="cancelled"):
        sample(sampler)
