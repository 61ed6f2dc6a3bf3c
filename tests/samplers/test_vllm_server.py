"""The protocol with vLLM servers, against servers that do as they are told; no vLLM here."""

from __future__ import annotations

import dataclasses
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from dgpo_cli.core.errors import BackendError
from dgpo_cli.core.events import NOBODY
from dgpo_cli.samplers.base import SamplingParams
from dgpo_cli.samplers.settings import VllmServerBackend
from dgpo_cli.samplers.vllm.gate import GateRules
from dgpo_cli.samplers.vllm.sampler import Limits
from dgpo_cli.samplers.vllm.server import SharedServers
from tests.recorder import Recorder
from tests.samplers.fake_vllm import (
    STOP,
    FakeVllm,
    FakeWeights,
    fake_sampler,
    fake_servers,
)
from tests.samplers.vllm_cases import (
    PARAMS,
    PROMPTS,
    SEEDS,
    adapter_or_full,
    expected,
    sample,
    sampler_of,
)

pytestmark = pytest.mark.usefixtures("short_waits")


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
    server.plain, server.rules = True, None
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


def test_a_long_prompt_leaves_room_for_as_much_as_a_server_takes(server: FakeVllm) -> None:
    """The server takes 64 tokens: prompts of 1 to 60, and as much as is left after each."""
    prompts = [[7] * length for length in (1, 40, 60)]
    sampler = sampler_of(server, weights=FakeWeights(adapter=True))
    total = dataclasses.replace(PARAMS, max_completion_tokens=50, max_total_tokens=64)
    sampler.sample(prompts, seeds=[[1], [2], [3]], params=total, observer=NOBODY)
    asked = {len(body["prompt"]): body["max_tokens"] for body in server.bodies}
    assert (asked[1], asked[40], asked[60]) == (50, 24, 4)
    beyond = dataclasses.replace(total, max_total_tokens=65)
    with pytest.raises(BackendError, match="takes 64 tokens"):
        sampler.sample(prompts, seeds=[[1], [2], [3]], params=beyond, observer=NOBODY)


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
    with pytest.raises(BackendError, match=r"weights of the base model; check its model"):
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
    with pytest.raises(BackendError, match=r"cannot load new weights .* dgpo serve"):
        sampler.sync(policy_version=1)
    with pytest.raises(BackendError, match=r"cannot load the adapter .* dgpo serve"):
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
    with pytest.raises(BackendError, match=r"failed 3 times \(last: HTTP 500: plan"):
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
    with pytest.raises(BackendError, match=r"failed 2 times .* no answer within 0\.1 s"):
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
    with pytest.raises(BackendError, match="lacks token ids or log-probabilities"):
        sample(sampler_of(server, weights=FakeWeights(adapter=True)))


def test_a_sequence_that_the_server_would_refuse_is_named_before(server: FakeVllm) -> None:
    sampler = sampler_of(server, weights=FakeWeights(adapter=True))
    long = SamplingParams(temperature=1.0, top_p=1.0, top_k=0, max_completion_tokens=61)
    with pytest.raises(BackendError, match="takes 64 tokens, prompt and completion need 65"):
        sampler.sample(PROMPTS, seeds=SEEDS, params=long, observer=NOBODY)


def test_the_key_goes_to_the_server_and_into_no_error(
    server: FakeVllm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DGPO_VLLM_API_KEY", "s3cret")
    server.rules = GateRules("s3cret", folder=tempfile.gettempdir())
    sampler = sampler_of(server, weights=FakeWeights(adapter=True))
    sample(sampler)
    assert server.keys == {"Bearer s3cret"}
    server.down()
    with pytest.raises(BackendError) as caught:
        sample(sampler)
    assert "s3cret" not in str(caught.value)


def test_progress_counts_every_completion_once(server: FakeVllm) -> None:
    recorder = Recorder()
    server.faults.status = [200, 500, 200, 500]
    sample(sampler_of(server, weights=FakeWeights(adapter=True)), observer=recorder)
    assert [(name, total, done) for name, total, _, done in recorder.phases] == [
        ("waiting", 1, 1),
        ("syncing", 1, 1),
        ("sampling", 9, 9),
    ]
