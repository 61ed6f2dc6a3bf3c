"""Builds the parts of an engine from settings."""

from __future__ import annotations

from dgpo_cli.config.settings import Settings
from dgpo_cli.core.seeds import derive_seed
from dgpo_cli.policy.policy import Policy
from dgpo_cli.samplers.base import Sampler
from dgpo_cli.samplers.settings import HfBackend


def make_sampler(settings: Settings, *, policy: Policy) -> Sampler:
    """Return the sampler that `rollout.backend` names. An engine starts when it is first used."""
    backend = settings.rollout.backend
    if isinstance(backend, HfBackend):
        from dgpo_cli.samplers.hf import HfSampler

        return HfSampler(policy, batch_size=backend.batch_size)
    from dgpo_cli.engine.vllm_setup import make_vllm_sampler

    return make_vllm_sampler(settings, backend=backend, policy=policy)


def completion_seeds(seed: int, *, scope: str, ids: list[str], count: int) -> list[list[int]]:
    """Return `count` seeds for each prompt id; no two scopes, prompts or samples share one."""
    return [[derive_seed(seed, scope, name, j) for j in range(count)] for name in ids]


def set_threads(count: int) -> None:
    """Set torch's CPU threads; 0 leaves them as they are."""
    import torch

    if count:
        torch.set_num_threads(count)


def seed_everything(seed: int) -> None:
    """Seed the global generators, for what has no generator of its own (dropout)."""
    import random

    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
