"""Policies and optimisers with a history, to save and to load."""

from __future__ import annotations

from pathlib import Path

import torch

from dgpo_cli.core.formats import TrainerState
from dgpo_cli.engine.checkpoint import save_checkpoint
from dgpo_cli.engine.optimizers import build_adamw
from dgpo_cli.policy.load_policy import load_policy
from dgpo_cli.policy.policy import Policy
from dgpo_cli.policy.settings import LoraAdapter, ModelSettings, NoAdapter
from tests.engine import updates

STATE = TrainerState(
    step=7, policy_version=5, bad_streak=2, draws=9, prompts=36, data="0a", noise_floor=3e-13
)
ADAPTERS = {"full": NoAdapter(), "lora": LoraAdapter(rank=3, alpha=6.0)}


def load(folder: Path, kind: str, *, checkpoint: Path | None = None) -> Policy:
    return load_policy(
        ModelSettings(path=str(folder), device="cpu"),
        adapter=ADAPTERS[kind],
        seed=1,
        with_reference=True,
        checkpoint=checkpoint,
    )


def adamw_of(policy: Policy) -> torch.optim.AdamW:
    return build_adamw(policy, lr=1e-2, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)


def trained(folder: Path, kind: str) -> tuple[Policy, torch.optim.AdamW]:
    """A policy after two updates."""
    policy = load(folder, kind)
    optimizer = adamw_of(policy)
    for _ in range(2):
        assert updates.run_update(policy, optimizer, updates.make_batch(policy)).applied
    return policy, optimizer


def save(folder: Path, policy: Policy, optimizer: torch.optim.Optimizer) -> None:
    save_checkpoint(folder, policy=policy, optimizer=optimizer, state=STATE)
