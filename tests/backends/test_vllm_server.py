"""The protocol with vLLM servers, against servers that do as they are told; no vLLM here."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dgpo_cli.backends import dispatch
from dgpo_cli.backends.base import SamplingParams
from dgpo_cli.backends.carriers import FullCarrier
from dgpo_cli.backends.settings import VllmServerBackend
from dgpo_cli.backends.vllm import Limits, VllmSampler
from dgpo_cli.backends.vllm_server import SharedServers
from dgpo_cli.backends.weight_stream import BACKEND
from dgpo_cli.errors import BackendError
from dgpo_cli.types import Completion, SilentProgress
from tests.backends.fake_vllm import (
    STOP,
    FakeVllm,
    FakeWeights,
    drawn,
    fake_sampler,
    fake_servers,
    logprob,
)

PARAMS = SamplingParams(temperature=0.5, top_p=1.0, top_k=0, max_completion_tokens=9)
PROMPTS = [[1, 2, 3], [4, 5], [6], [9, 9, 9, 9]]
SEEDS = [[10, 11, 12], [20, 21], [2**62 + 1], [40, 41, 42]]


@pytest.fixture
def server() -> Iterator[FakeVllm]:
    with fake_servers() as (server,):
        yield server


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "_LONGEST_BACKOFF_S", 0.01)


def sampler_of(
    *servers: FakeVllm,
    weights: FakeWeights,
    retries: int = 2,
    in_flight: int = 3,
    timeout_s: float = 5.0,
    wait_s: float = 0.2,
    tolerance: float = 1e-3,
    sync_dir: Path | None = None,
    keep: bool = False,
    sync_host: str | None = None,
) -> VllmSampler:
    backend = VllmServerBackend(
        urls=tuple(server.address for server in servers),
        startup_timeout_s=wait_s,
        sync_dir=None if sync_dir is None else str(sync_dir),
    )
    limits = Limits(in_flight, retries, timeout_s, tolerance, "float32")
    return fake_sampler(
        weights, fleet=SharedServers(backend), limits=limits, keep=keep, sync_host=sync_host
    )


def sample(sampler: VllmSampler, progress: Any = None) -> list[tuple[Completion, ...]]:
    return sampler.sample(
        PROMPTS, seeds=SEEDS, params=PARAMS, progress=progress or SilentProgress()
    )


def expected(weight: float, *, version: int) -> list[tuple[Completion, ...]]:
    """What must come back, from the definition of the fake."""
    found = []
    for prompt, own in zip(PROMPTS, SEEDS, strict=True):
        group = []
        for seed in own:
            ids = drawn(prompt, seed=seed, weight=weight, limit=9)
            stopped = ids[-1] == STOP
            group.append(
                Completion(
                    token_ids=tuple(ids),
                    sampling_logprobs=tuple(
                        logprob(i, weight=weight, temperature=0.5) for i in ids
                    ),
                    text=" ".join(map(str, ids[:-1] if stopped else ids)),
                    finish_reason="stop" if stopped else "length",
                    policy_version=version,
                    seed=seed,
                )
            )
        found.append(tuple(group))
    return found


adapter_or_full = pytest.mark.parametrize("adapter", ["adapter", "folder", "tcp"], indirect=True)


@pytest.fixture
def adapter(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the policy has an adapter; without one, servers get all weights in two ways."""
    monkeypatch.setattr(FakeVllm, "transfer", BACKEND if request.param == "tcp" else None)
    return bool(request.param == "adapter")


@pytest.fixture
def over_tcp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeVllm, "transfer", BACKEND)


@adapter_or_full
def test_completions_are_those_of_the_synced_weights_prompts_and_seeds(
    server: FakeVllm, adapter: bool
) -> None:
    weights = FakeWeights(adapter=adapter)
    sampler = sampler_of(server, weights=weights)
    assert sample(sampler) == expected(0.0, version=0)
    weights.weight = 0.25
    sampler.sync(policy_version=1)
    assert sample(sampler) == expected(0.25, version=1)


def test_a_server_that_others_started_reloads_in_vllms_own_way(server: FakeVllm) -> None:
    server.plain = True
    weights = FakeWeights(adapter=False)
    sampler = sampler_of(server, weights=weights)
    sample(sampler)
    weights.weight = 0.25
    sampler.sync(policy_version=1)
    assert sample(sampler) == expected(0.25, version=1)


def test_both_finish_reasons_occur_in_what_is_compared() -> None:
    found = [c for group in expected(0.0, version=0) for c in group]
    assert {c.finish_reason for c in found} == {"stop", "length"}


def test_what_is_sent_is_ids_seeds_and_the_policys_own_stops(server: FakeVllm) -> None:
    sample(sampler_of(server, weights=FakeWeights(adapter=True)))
    asked = [body for body in server.bodies if body["max_tokens"] == 9]
    pairs = [(p, s) for p, own in zip(PROMPTS, SEEDS, strict=True) for s in own]
    assert sorted((body["prompt"], body["seed"]) for body in asked) == sorted(pairs)
    for body in asked:
        assert body["stop_token_ids"] == [STOP] and body["ignore_eos"] is True
        assert (body["temperature"], body["top_p"], body["top_k"], body["n"]) == (0.5, 1.0, 0, 1)
        assert body["model"].startswith("dgpo-")


def test_no_more_requests_are_in_flight_than_allowed(server: FakeVllm) -> None:
    sample(sampler_of(server, weights=FakeWeights(adapter=True), in_flight=2))
    assert server.most_in_flight == 2


@adapter_or_full
def test_several_servers_give_what_one_gives_and_all_of_them_work(
    adapter: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each server keeps its first completion back until all of them have one to work on."""
    at_work: set[FakeVllm] = set()
    all_at_work = threading.Event()
    answer = FakeVllm._completion

    def kept_back(self: FakeVllm, body: dict[str, Any]) -> tuple[int, Any]:
        if body["max_tokens"] == 9:  # no canary and no check of the mode
            at_work.add(self)
            if len(at_work) == 3:
                all_at_work.set()
            assert all_at_work.wait(timeout=30)
        return answer(self, body)

    monkeypatch.setattr(FakeVllm, "_completion", kept_back)
    with fake_servers(3) as servers:
        weights = FakeWeights(adapter=adapter, weight=0.1, untouched=False)
        sampler = sampler_of(*servers, weights=weights, in_flight=1, timeout_s=60.0)
        found = sample(sampler)
        assert found == expected(0.1, version=0)
        drawn = [sum(body["max_tokens"] == 9 for body in server.bodies) for server in servers]
        assert min(drawn) >= 1 and sum(drawn) == sum(map(len, SEEDS))


def test_the_prefix_cache_of_older_weights_cannot_be_met(server: FakeVllm) -> None:
    weights = FakeWeights(adapter=False)
    sampler = sampler_of(server, weights=weights)
    sample(sampler)
    first = {body["cache_salt"] for body in server.bodies}
    server.bodies.clear()
    weights.weight = 0.5
    sampler.sync(policy_version=1)
    sample(sampler)
    second = {body["cache_salt"] for body in server.bodies}
    assert len(first) == len(second) == 1 and first != second
    assert "/reset_prefix_cache" in server.calls


def test_only_the_newest_adapter_stays_on_the_server_and_the_disk(
    server: FakeVllm, tmp_path: Path
) -> None:
    weights = FakeWeights(adapter=True)
    sampler = sampler_of(server, weights=weights, sync_dir=tmp_path)
    sample(sampler)
    for version in (1, 2, 3):
        weights.weight = version / 10
        sampler.sync(policy_version=version)
        assert list(server.adapters.values()) == [version / 10]
        assert [folder.exists() for folder in weights.saved[-2:]] == [False, True]
    assert server.base == 0.0
    sampler.close()
    assert list(tmp_path.iterdir()) == []


def test_memory_is_given_back_between_phases_and_taken_before_each(
    server: FakeVllm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SharedServers, "sleeps", True)
    sampler = sampler_of(server, weights=FakeWeights(adapter=True))
    for version in (1, 2):
        sample(sampler)
        sampler.sync(policy_version=version)
    switched = [call for call in server.calls if call in ("/sleep", "/wake_up")]
    assert switched == ["/sleep", "/wake_up"] * 3 + ["/sleep"]
    asleep = False
    for call in server.calls:
        asleep = call == "/sleep" or (asleep and call != "/wake_up")
        assert not (asleep and call in ("/v1/completions", "/v1/load_lora_adapter"))


# Faults of a sync.


@adapter_or_full
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("fault", ["ignore_sync", "zero_sync", "behind"])
@pytest.mark.parametrize("move", [0.1, 1e-4], ids=["large", "small"])
def test_a_skipped_zeroed_or_stale_sync_is_found(
    server: FakeVllm, adapter: bool, fault: str, version: int, move: float
) -> None:
    """Also where the weights moved by less than the tolerance of 1e-3."""
    weights = FakeWeights(adapter=adapter)
    sampler = sampler_of(server, weights=weights)
    sample(sampler)
    for done in range(1, version):
        weights.weight = done * move
        sampler.sync(policy_version=done)
    weights.weight = version * move
    setattr(server.faults, fault, True)
    with pytest.raises(BackendError, match=f"policy version {version}"):
        sampler.sync(policy_version=version)


def test_an_update_that_moved_nothing_passes_the_canary(server: FakeVllm) -> None:
    weights = FakeWeights(adapter=True, weight=0.3)
    sampler = sampler_of(server, weights=weights)
    sample(sampler)
    sampler.sync(policy_version=1)
    assert sample(sampler) == expected(0.3, version=1)


def test_another_base_model_is_found_before_anything_is_sampled(server: FakeVllm) -> None:
    server.base = 0.5
    sampler = sampler_of(server, weights=FakeWeights(adapter=True))
    with pytest.raises(BackendError, match=r"weights of the base model; is it the same model"):
        sample(sampler)


def test_logprobs_without_the_temperature_are_found(server: FakeVllm) -> None:
    server.faults.raw_logprobs = True
    sampler = sampler_of(server, weights=FakeWeights(adapter=True))
    with pytest.raises(BackendError, match="--logprobs-mode processed_logprobs"):
        sample(sampler)


def test_a_server_that_takes_no_weights_says_how_to_start_one_that_does(
    server: FakeVllm,
) -> None:
    server.faults.no_updates = True
    full = FakeWeights(adapter=False)
    sampler = sampler_of(server, weights=full)
    assert sample(sampler) == expected(0.0, version=0)  # its own weights are the right ones
    with pytest.raises(BackendError, match=r"does not take new weights .* dgpo serve"):
        sampler.sync(policy_version=1)
    with pytest.raises(BackendError, match=r"does not load the adapter .* dgpo serve"):
        sample(sampler_of(server, weights=FakeWeights(adapter=True)))


def test_weights_that_another_run_has_left_are_replaced(server: FakeVllm) -> None:
    server.base = 5e-4  # within the tolerance: only a sync can tell
    assert sample(sampler_of(server, weights=FakeWeights(adapter=False))) == expected(
        0.0, version=0
    )


def test_a_cache_that_is_not_reset_is_an_error(server: FakeVllm) -> None:
    sampler = sampler_of(server, weights=FakeWeights(adapter=False, weight=0.1, untouched=False))
    server.faults.cache_busy = True
    with pytest.raises(BackendError, match="prefix cache was not reset"):
        sample(sampler)


# All weights over TCP.


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


# Faults of requests.


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_request_that_fails_is_sent_again(server: FakeVllm, status: int) -> None:
    sampler = sampler_of(server, weights=FakeWeights(adapter=True))
    sample(sampler)
    server.faults.status = [status, status]
    assert sample(sampler) == expected(0.0, version=0)


def test_a_request_is_not_sent_for_ever(server: FakeVllm) -> None:
    sampler = sampler_of(server, weights=FakeWeights(adapter=True), retries=2, in_flight=1)
    sample(sampler)
    server.bodies.clear()
    server.faults.status = [500] * 1000
    with pytest.raises(BackendError, match=r"failed 3 times, the last time with: HTTP 500: plan"):
        sample(sampler)
    assert len(server.bodies) <= 3 * 9


def test_a_request_that_is_refused_is_not_repeated(server: FakeVllm) -> None:
    sampler = sampler_of(server, weights=FakeWeights(adapter=True), in_flight=1)
    sample(sampler)
    server.bodies.clear()
    server.faults.refuse = "no such\nparameter"
    with pytest.raises(BackendError, match=r"HTTP 400: no such parameter$"):
        sample(sampler)
    assert len(server.bodies) == 1


def test_a_server_that_hangs_is_not_waited_for_longer_than_allowed(server: FakeVllm) -> None:
    sampler = sampler_of(server, weights=FakeWeights(adapter=True), timeout_s=0.1, retries=1)
    sample(sampler)
    server.faults.hang_s = 20.0
    started = time.monotonic()
    with pytest.raises(BackendError, match=r"failed 2 times, .* no answer within 0\.1 s"):
        sample(sampler)
    assert time.monotonic() - started < 5


def test_broken_connections_are_opened_again(server: FakeVllm) -> None:
    sampler = sampler_of(server, weights=FakeWeights(adapter=True), retries=5)
    sample(sampler)
    server.faults.drop = 3
    assert sample(sampler) == expected(0.0, version=0)
    assert server.faults.drop == 0


@adapter_or_full
def test_a_server_started_anew_between_two_rounds_gets_the_weights_again(
    server: FakeVllm, adapter: bool
) -> None:
    weights = FakeWeights(adapter=adapter)
    sampler = sampler_of(server, weights=weights)
    sample(sampler)
    weights.weight = 0.25
    sampler.sync(policy_version=1)
    server.down()
    server.up()  # with the base's weights, as vLLM starts
    assert sample(sampler) == expected(0.25, version=1)


@adapter_or_full
def test_a_server_that_dies_within_a_round_is_waited_for_and_synced(adapter: bool) -> None:
    with fake_servers(2) as servers:
        weights = FakeWeights(adapter=adapter, weight=0.25, untouched=False)
        sampler = sampler_of(*servers, weights=weights, wait_s=10.0, retries=5, in_flight=1)
        sample(sampler)
        servers[0].faults.drop = 1
        down = threading.Event()

        def die_and_return() -> None:
            while servers[0].faults.drop:
                time.sleep(0.001)
            servers[0].down()
            down.set()
            time.sleep(0.2)
            servers[0].up()

        thread = threading.Thread(target=die_and_return)
        thread.start()
        assert sample(sampler) == expected(0.25, version=0)
        thread.join()
        assert down.is_set()


def test_adapters_that_are_lost_within_a_round_are_loaded_again(server: FakeVllm) -> None:
    weights = FakeWeights(adapter=True, weight=0.25)
    sampler = sampler_of(server, weights=weights, in_flight=1)
    sample(sampler)
    server.bodies.clear()
    server.faults.forget_after = 3
    assert sample(sampler) == expected(0.25, version=0)
    assert server.faults.forget_after is None


def test_a_server_that_stays_away_is_named_with_the_fix(server: FakeVllm) -> None:
    sampler = sampler_of(server, weights=FakeWeights(adapter=True))
    sample(sampler)
    address = server.address
    server.down()
    with pytest.raises(BackendError, match=f"{address}: no vLLM server is ready .* dgpo serve"):
        sample(sampler)


def test_an_address_where_nobody_listens_is_named_with_the_fix() -> None:
    with fake_servers() as (server,):
        address = server.address
    backend = VllmServerBackend(urls=(address,), startup_timeout_s=0.05)
    limits = Limits(1, 1, 1.0, 1e-3, "float32")
    sampler = fake_sampler(FakeWeights(adapter=True), fleet=SharedServers(backend), limits=limits)
    with pytest.raises(BackendError, match=r"after 0\.05 s .* set rollout\.backend\.urls"):
        sample(sampler)


def test_an_answer_without_ids_is_not_tokenised_again(server: FakeVllm) -> None:
    server.faults.no_ids = True
    with pytest.raises(BackendError, match="no token ids or log-probabilities"):
        sample(sampler_of(server, weights=FakeWeights(adapter=True)))


def test_a_sequence_that_the_server_would_refuse_is_named_before(server: FakeVllm) -> None:
    sampler = sampler_of(server, weights=FakeWeights(adapter=True))
    long = SamplingParams(temperature=1.0, top_p=1.0, top_k=0, max_completion_tokens=61)
    with pytest.raises(BackendError, match="takes 64 tokens, prompt and completion need 65"):
        sampler.sample(PROMPTS, seeds=SEEDS, params=long, progress=SilentProgress())


def test_the_key_goes_to_the_server_and_into_no_error(
    server: FakeVllm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DGPO_VLLM_API_KEY", "s3cret")
    sampler = sampler_of(server, weights=FakeWeights(adapter=True))
    sample(sampler)
    assert server.keys == {"Bearer s3cret"}
    server.down()
    with pytest.raises(BackendError) as caught:
        sample(sampler)
    assert "s3cret" not in str(caught.value)


def test_progress_counts_every_completion_once(server: FakeVllm) -> None:
    told: list[tuple[str, int, int]] = []

    class Listener:
        @contextmanager
        def phase(self, name: str, *, total: int, unit: str) -> Iterator[Any]:
            done: list[int] = []
            yield done.append
            told.append((name, total, sum(done)))

    server.faults.status = [200, 500, 200, 500]
    sample(sampler_of(server, weights=FakeWeights(adapter=True)), progress=Listener())
    assert told == [("waiting", 1, 1), ("syncing", 1, 1), ("sampling", 9, 9)]


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
    sampler.prepare(SilentProgress())
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
        sampler.prepare(SilentProgress())
    assert len(weights.saved) == 1
    weights.weight = 0.9
    assert sample(sampler) == expected(0.5, version=0)
    assert len(weights.saved) == 1


@pytest.mark.parametrize("when", ["under way", "before"])
def test_a_sample_that_is_called_off_raises_and_leaves_no_thread(
    server: FakeVllm, when: str
) -> None:
    sampler = sampler_of(server, weights=FakeWeights(adapter=True), wait_s=30.0, timeout_s=60.0)
    sampler.prepare(SilentProgress())
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
    assert "called off" in str(beside.error)
    deadline = time.monotonic() + 60
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= before
    with pytest.raises(BackendError, match="called off"):
        sample(sampler)
