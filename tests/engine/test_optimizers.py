"""The optimisers by name: 8-bit AdamW is AdamW with a coarser memory, and is kept exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dgpo_cli.core.errors import CheckpointError, ConfigError
from dgpo_cli.engine.checkpoint import load_trainer
from dgpo_cli.engine.optimizers import build_optimizer, restore_state, saved_state
from dgpo_cli.policy.policy import Policy
from tests.engine import checkpoints, updates
from tests.policy import adapters


def build(policy: Policy, kind: Any = "adamw8bit", *, lr: float = 1e-2) -> torch.optim.Optimizer:
    return build_optimizer(policy, kind=kind, lr=lr, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)


def wide_policy(folder: Path) -> Policy:
    """All weights train, matrices of 4096 numbers and more among them."""
    return checkpoints.load(folder, "full")


def moments(optimizer: Any) -> dict[str, torch.Tensor]:
    """Every tensor of a state, whatever it is wrapped in."""
    found: dict[str, torch.Tensor] = {}

    def take(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                take(f"{prefix} {key}", inner)
        else:
            found[prefix] = torch.as_tensor(value).clone()

    take("", optimizer.state_dict()["state"])
    return found


def test_adamw_is_torchs(wide_folder: Path) -> None:
    assert type(build(wide_policy(wide_folder), "adamw")) is torch.optim.AdamW


def test_large_matrices_are_kept_in_8_bits_and_small_tensors_in_float32(wide_folder: Path) -> None:
    policy = wide_policy(wide_folder)
    optimizer = build(policy)
    updates.run_update(policy, optimizer, updates.make_batch(policy))
    kinds = {
        parameter.numel() >= 4096: {state["state1"].dtype, state["state2"].dtype}
        for parameter, state in optimizer.state.items()
    }
    assert kinds == {True: {torch.uint8}, False: {torch.float32}}
    decays = {p.ndim: g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert decays == {2: 0.1, 1: 0.0}


def test_the_first_step_is_adamws_and_later_ones_are_near_it(wide_folder: Path) -> None:
    """A step uses the moments before they are rounded, so the first one loses nothing."""
    policies = [wide_policy(wide_folder) for _ in range(2)]
    pairs = [(p, build(p, k)) for p, k in zip(policies, ("adamw", "adamw8bit"), strict=True)]
    start = torch.cat([p.detach().flatten() for _, p in policies[0].trainable()])
    generator = torch.Generator().manual_seed(0)
    for step in range(6):
        gradients = [torch.randn(p.shape, generator=generator) for _, p in policies[0].trainable()]
        for policy, optimizer in pairs:
            for (_, parameter), gradient in zip(policy.trainable(), gradients, strict=True):
                parameter.grad = gradient.clone()
            optimizer.step()
        exact, coarse = (
            torch.cat([p.detach().flatten() for _, p in policy.trainable()]) - start
            for policy in policies
        )
        error = float((coarse - exact).norm() / exact.norm())
        assert error < (1e-4 if step == 0 else 0.1), step


def test_the_learning_rate_of_a_step_is_used(wide_folder: Path) -> None:
    policy = wide_policy(wide_folder)
    optimizer = build(policy)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    before = [p.detach().clone() for _, p in policy.trainable()]
    updates.run_update(policy, optimizer, updates.make_batch(policy))
    after = [p for _, p in policy.trainable()]
    assert all(torch.equal(p, q) for p, q in zip(before, after, strict=True))


@pytest.mark.parametrize("quantization", adapters.QUANTIZATIONS)
def test_the_state_is_restored_exactly(
    wide_folder: Path, tmp_path: Path, quantization: str
) -> None:
    """And the next update is the same to the bit."""
    policy = adapters.make(wide_folder, "dora", quantization=quantization)
    optimizer = build(policy)
    for _ in range(2):
        updates.run_update(policy, optimizer, updates.make_batch(policy))
    checkpoints.save(tmp_path / "c", policy, optimizer)
    again = adapters.make(wide_folder, "dora", quantization=quantization, checkpoint=tmp_path / "c")
    restored = build(again)
    load_trainer(tmp_path / "c", optimizer=restored)
    one, two = moments(optimizer), moments(restored)
    assert one.keys() == two.keys() and len(one) > 20
    assert all(torch.equal(one[name], two[name]) for name in one)
    for mine, own in ((policy, optimizer), (again, restored)):
        assert updates.run_update(mine, own, updates.make_batch(mine)).applied
    for (name, p), (_, q) in zip(policy.trainable(), again.trainable(), strict=True):
        assert torch.equal(p, q), name


@pytest.mark.parametrize(("saved", "wanted"), [("adamw", "adamw8bit"), ("adamw8bit", "adamw")])
def test_the_state_of_another_optimiser_is_refused(
    wide_folder: Path, tmp_path: Path, saved: str, wanted: str
) -> None:
    policy = adapters.make(wide_folder)
    optimizer = build(policy, saved)
    updates.run_update(policy, optimizer, updates.make_batch(policy))
    checkpoints.save(tmp_path / "c", policy, optimizer)
    with pytest.raises(CheckpointError, match=r"another kind of optimiser; see optim\.kind"):
        load_trainer(tmp_path / "c", optimizer=build(adapters.make(wide_folder), wanted))


def test_the_state_of_other_parameters_is_refused(wide_folder: Path) -> None:
    """bitsandbytes itself would read beyond the end of it."""
    policy = adapters.make(wide_folder)
    optimizer = build(policy)
    updates.run_update(policy, optimizer, updates.make_batch(policy))
    state = saved_state(optimizer)
    first = state["state"][0]["__bnb_optimizer_quant_state__"]
    first["state1"] = first["state1"][:1]
    with pytest.raises(ValueError, match="other parameters"):
        restore_state(build(policy), state)


def test_pages_need_a_gpu(wide_folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"the policy is on cpu; set optim\.kind=adamw8bit"):
        build(wide_policy(wide_folder), "paged-adamw8bit")


def test_paged_moments_are_saved_as_plain_ones_and_paged_again(wide_folder: Path) -> None:
    """On a CPU bitsandbytes gives plain memory for pages; the marks are those of a GPU."""
    import bitsandbytes as bnb

    policy = wide_policy(wide_folder)
    groups = [p for _, p in policy.trainable()]
    with pytest.warns(UserWarning, match="not supported on CPU"):
        optimizer = bnb.optim.PagedAdamW8bit(groups, lr=1e-2)
        updates.run_update(policy, optimizer, updates.make_batch(policy))
    for state in optimizer.state.values():
        for name in ("state1", "state2"):
            state[name].is_paged, state[name].page_deviceid = True, 0
    kept = moments(optimizer)
    saved = saved_state(optimizer)
    for state in saved["state"].values():
        for tensor in state["__bnb_optimizer_quant_state__"].values():
            assert not hasattr(tensor, "is_paged")
    assert all(hasattr(s["state1"], "is_paged") for s in optimizer.state.values())
    buffers: list[tuple[torch.Tensor, torch.dtype]] = []

    class Watched(bnb.optim.PagedAdamW8bit):  # type: ignore[misc]
        def get_state_buffer(self, p: torch.Tensor, dtype: torch.dtype = torch.float32) -> Any:
            buffers.append((p, dtype))
            return torch.zeros_like(p, dtype=dtype)

    fresh = Watched(groups, lr=1e-2)
    restore_state(fresh, saved)
    assert len(buffers) == 2 * len(groups)
    again = moments(fresh)
    assert kept.keys() == again.keys()
    assert all(torch.equal(kept[name], again[name]) for name in kept)
