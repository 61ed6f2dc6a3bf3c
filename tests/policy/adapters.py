"""Policies with every kind of adapter, on plain and on packed bases, and plain twins of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from dgpo_cli.policy.load import add_adapter, load_model
from dgpo_cli.policy.load_policy import load_policy
from dgpo_cli.policy.policy import Policy
from dgpo_cli.policy.settings import LoraAdapter, ModelSettings
from tests.policy import tiny

VARIANTS: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora": {"rslora": True},
    "dora": {"dora": True},
    "dropout": {"dropout": 0.3},
    "dora-dropout": {"dora": True, "dropout": 0.3},
}
QUANTIZATIONS = ("none", "nf4")


def settings_of(folder: Path, **changes: Any) -> ModelSettings:
    return ModelSettings(path=str(folder), device="cpu", **changes)


def make(
    folder: Path,
    variant: str = "lora",
    *,
    apart: float = 0.0,
    checkpoint: Path | None = None,
    **model: Any,
) -> Policy:
    """A policy with an adapter that is `apart` away from its base."""
    policy = load_policy(
        settings_of(folder, **model),
        adapter=LoraAdapter(rank=3, alpha=6.0, **VARIANTS[variant]),
        seed=1,
        with_reference=True,
        checkpoint=checkpoint,
    )
    if apart:
        tiny.nudge((p for _, p in policy.trainable()), scale=apart)
    return policy


def plain_twin(policy: Policy, folder: Path, variant: str = "lora") -> Any:
    """A float64 model with the same adapter on plain linear layers, whose weights are what the
    packed ones stand for."""
    import bitsandbytes as bnb

    base = load_model(settings_of(folder)).requires_grad_(False)
    packed = dict(policy.model.get_base_model().named_modules())
    for name, module in base.named_modules():
        if type(module) is torch.nn.Linear and name != "lm_head":
            own = packed[name].base_layer.weight
            module.weight.data = bnb.functional.dequantize_4bit(own.data, own.quant_state)
    adapter = LoraAdapter(rank=3, alpha=6.0, **VARIANTS[variant])
    twin = add_adapter(base, adapter=adapter, seed=9)
    own = dict(policy.trainable())
    with torch.no_grad():
        for name, parameter in twin.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(own[name])
    return twin.double().eval()


def packed_bytes(policy: Policy) -> dict[str, torch.Tensor]:
    """Everything that does not train: packed weights, their scales, and the plain rest."""
    trained = {name for name, _ in policy.trainable()}
    found = {n: p.detach().clone() for n, p in policy.model.named_parameters() if n not in trained}
    for name, parameter in policy.model.named_parameters():
        state = getattr(parameter, "quant_state", None)
        if state is not None:
            found[f"{name}.absmax"] = state.absmax.clone()
            found[f"{name}.scales of scales"] = state.state2.absmax.clone()
    return found
