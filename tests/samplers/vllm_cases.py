"""What the tests of the protocol with vLLM servers share: a sampler, and what must come back."""

from __future__ import annotations

from pathlib import Path

import pytest

from dgpo_cli.core.events import NOBODY, Observer
from dgpo_cli.core.types import Completion
from dgpo_cli.samplers.base import SamplingParams, TrainedWeights
from dgpo_cli.samplers.settings import VllmServerBackend
from dgpo_cli.samplers.vllm.sampler import Limits, VllmSampler
from dgpo_cli.samplers.vllm.server import SharedServers
from tests.samplers.fake_vllm import STOP, FakeVllm, drawn, fake_sampler, logprob

PARAMS = SamplingParams(temperature=0.5, top_p=1.0, top_k=0, max_completion_tokens=9)
PROMPTS = [[1, 2, 3], [4, 5], [6], [9, 9, 9, 9]]
SEEDS = [[10, 11, 12], [20, 21], [2**62 + 1], [40, 41, 42]]


def sampler_of(
    *servers: FakeVllm,
    weights: TrainedWeights,
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


def sample(sampler: VllmSampler, observer: Observer = NOBODY) -> list[tuple[Completion, ...]]:
    return sampler.sample(PROMPTS, seeds=SEEDS, params=PARAMS, observer=observer)


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


# With the fixture `adapter`: an adapter, or all weights in two ways.
adapter_or_full = pytest.mark.parametrize("adapter", ["adapter", "folder", "tcp"], indirect=True)
