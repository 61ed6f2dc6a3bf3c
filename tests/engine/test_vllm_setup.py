"""Settings become flags of an engine and tolerances of the canary."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dgpo_cli.config.load import resolve
from dgpo_cli.core.errors import ConfigError
from dgpo_cli.engine.setup import make_sampler
from dgpo_cli.engine.vllm_setup import visible_device
from dgpo_cli.policy.policy import Policy
from dgpo_cli.samplers.canary import TOLERANCES
from dgpo_cli.samplers.vllm.engine import OwnEngine
from dgpo_cli.samplers.vllm.sampler import VllmSampler
from dgpo_cli.samplers.vllm.server import SharedServers
from tests.samplers.fake_ranks import FakeRanks, Hub

OWN = ("rollout.backend.kind=vllm", "model.path=org/m", "model.revision=abc")


def sampler_of(policy: Policy, *overrides: str) -> VllmSampler:
    sampler = make_sampler(resolve(overrides=list(overrides)).settings, policy=policy)
    assert isinstance(sampler, VllmSampler)
    return sampler


def flags_of(policy: Policy, *overrides: str) -> Any:
    sampler = sampler_of(policy, *OWN, *overrides)
    fleet = sampler._fleet
    assert isinstance(fleet, OwnEngine)
    sampler.close()
    return fleet._flags


def test_the_engine_serves_the_base_with_room_for_the_adapter(lora_policy: Policy) -> None:
    flags = flags_of(
        lora_policy, "prompts.max_prompt_tokens=100", "rollout.max_completion_tokens=28"
    )
    assert (flags.model, flags.revision, flags.dtype) == ("org/m", "abc", "float32")
    assert (flags.lora_rank, flags.max_model_len) == (3, 128)
    assert flags.sleep is False and flags.cache_gib == 2.0  # on a CPU


def test_settings_of_the_backend_win(policy: Policy) -> None:
    flags = flags_of(
        policy,
        *("rollout.backend.dtype=bfloat16", "rollout.backend.max_model_len=77"),
        *("rollout.backend.cache_gib=0.5", "rollout.backend.max_num_seqs=9"),
        *("rollout.backend.quantization=bitsandbytes", "rollout.backend.sleep=on"),
    )
    assert (flags.dtype, flags.max_model_len, flags.cache_gib) == ("bfloat16", 77, 0.5)
    assert (flags.max_num_seqs, flags.quantization, flags.sleep) == (9, "bitsandbytes", True)
    assert flags.lora_rank == 0


@pytest.mark.parametrize(
    ("overrides", "roughest"),
    [
        ((), "float32"),
        (("rollout.backend.dtype=bfloat16",), "bfloat16"),
        (("model.dtype=bfloat16", "rollout.backend.dtype=float32"), "bfloat16"),
        (("model.quantization=nf4",), "nf4"),
    ],
)
def test_the_canary_allows_the_rounding_of_the_rougher_side(
    policy: Policy, overrides: tuple[str, ...], roughest: str
) -> None:
    limits = sampler_of(policy, *OWN, *overrides)._limits
    assert (limits.dtype, limits.tolerance) == (roughest, TOLERANCES[roughest])
    own = sampler_of(policy, *OWN, *overrides, "rollout.backend.canary_tolerance=0.5")._limits
    assert own.tolerance == 0.5


def test_servers_are_those_of_the_settings(policy: Policy) -> None:
    urls = '["http://a:1", "http://b:2"]'
    sampler = sampler_of(policy, "rollout.backend.kind=vllm-server", f"rollout.backend.urls={urls}")
    assert isinstance(sampler._fleet, SharedServers)
    assert [str(client) for client in sampler._fleet.clients] == ["http://a:1", "http://b:2"]


def test_a_policy_shows_its_sampler_its_rank_and_its_logprobs(
    policy: Policy, lora_policy: Policy
) -> None:
    assert (policy.adapter_rank, lora_policy.adapter_rank) == (0, 3)
    ids = lora_policy.canary_ids()
    assert len(ids) > 40
    on, off = (lora_policy.logprobs_of(ids, temperature=1.0, adapter=a) for a in (True, False))
    assert len(on) == len(off) == len(ids) - 1
    assert max(abs(a - b) for a, b in zip(on, off, strict=True)) > 1e-3
    import torch

    with torch.no_grad():
        logits = lora_policy.model(torch.tensor([ids])).logits[0, :-1] / 0.5
    twin = logits.log_softmax(-1).gather(-1, torch.tensor(ids)[1:, None])[:, 0].tolist()
    assert lora_policy.logprobs_of(ids, temperature=0.5) == pytest.approx(twin, abs=1e-4)


@pytest.mark.parametrize(
    ("listed", "index", "name"),
    [
        (None, 2, "2"),
        ("", 1, "1"),
        ("4,5,6,7", 1, "5"),
        (" GPU-a , GPU-b", 1, "GPU-b"),
        ("3", 0, "3"),
    ],
)
def test_an_engine_sees_the_device_that_its_rank_uses(
    listed: str | None, index: int, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if listed is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", listed)
    assert visible_device(index) == name


@pytest.mark.parametrize(
    ("device", "size", "devices"),
    [
        *(("cuda:0", 1, None), ("cuda:0", 4, None), ("cuda:1", 1, "GPU-b"), ("cuda:3", 1, "7")),
        ("cuda:2", 2, "MIG-c/1,7"),
    ],
)
def test_an_engine_has_the_device_of_its_run_and_those_that_follow(
    policy: Policy, device: str, size: int, devices: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b,MIG-c/1,7")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    policy.__dict__["device"] = torch.device(device)
    flags = flags_of(policy, f"rollout.backend.tensor_parallel_size={size}")
    assert flags.environment().get("CUDA_VISIBLE_DEVICES") == devices
    assert flags.sleep


@pytest.mark.parametrize(
    ("device", "size", "error"),
    [
        ("cuda:0", 3, "=3: torch sees 2 of them; set 2 or less"),
        (
            *("cuda:1", 2),
            "=2: torch sees 1 of them from model.device=cuda:1 on; set 1 or less, or "
            "model.device=auto",
        ),
    ],
)
def test_an_engine_on_more_devices_than_there_are_is_refused_with_its_fix(
    policy: Policy, device: str, size: int, error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    policy.__dict__["device"] = torch.device(device)
    with pytest.raises(ConfigError) as raised:
        flags_of(policy, f"rollout.backend.tensor_parallel_size={size}")
    assert str(raised.value) == f"rollout.backend.tensor_parallel_size{error}"


class OnGpus(FakeRanks):
    """Two ranks on each machine; what the others gather is made up."""

    def __init__(self, number: int, *, hosts: str) -> None:
        super().__init__(Hub(), number=number, count=4, collective=False)
        self._hosts = hosts

    def gather(self, value: Any) -> list[Any]:
        found = [(host, str(4 + i)) for i, host in enumerate(self._hosts)]
        assert value[1] == found[self.number][1]
        return found


def test_ranks_that_share_an_engine_give_it_their_devices(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    settings = resolve(overrides=[*OWN, "rollout.backend.tensor_parallel_size=2"]).settings

    class Place:
        type = "cuda"

    def sampler(number: int, hosts: str) -> Any:
        place = Place()
        place.index = number  # type: ignore[attr-defined]
        monkeypatch.setattr(Policy, "device", place)
        ranks = OnGpus(number, hosts=hosts)
        return make_sampler(settings, policy=policy, ranks=ranks)._remote  # type: ignore[attr-defined]

    for number, devices in ((0, "4,5"), (2, "6,7")):
        own = sampler(number, "aabb")
        assert own._fleet._flags.environment()["CUDA_VISIBLE_DEVICES"] == devices
        own.close()
    assert sampler(1, "aabb") is None and sampler(3, "aabb") is None
    with pytest.raises(ConfigError, match=r"=2: ranks 2 to 3 are on different machines"):
        sampler(3, "aaab")
