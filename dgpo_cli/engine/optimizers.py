"""The optimisers of `optim.kind`, their state as plain tensors, and a copy of what they move."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dgpo_cli.core.errors import ConfigError
from dgpo_cli.policy.quantization import require_bitsandbytes
from dgpo_cli.policy.settings import OptimizerKind

if TYPE_CHECKING:
    import torch

    from dgpo_cli.policy.policy import Policy


def build_optimizer(
    policy: Policy,
    *,
    kind: OptimizerKind,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
) -> torch.optim.Optimizer:
    """Return the optimiser over the trainable parameters; matrices decay, vectors do not.

    The 8-bit ones keep both moments in blocks of 256 with a scale each (tensors of fewer than 4096
    numbers stay in float32). Source: Dettmers et al., 8-bit Optimizers, arXiv 2110.02861.

    Raises:
        ModelError: bitsandbytes is missing.
        ConfigError: the kind does not run on the policy's device.
    """
    if kind == "adamw":
        return build_adamw(policy, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
    device = policy.device.type
    if kind == "paged-adamw8bit" and device != "cuda":
        raise ConfigError(
            f"optim.kind={kind}: pages between a GPU and the host, and the policy is on {device}; "
            f"set optim.kind={'adamw8bit' if device == 'cpu' else 'adamw'}"
        )
    if device not in ("cpu", "cuda"):
        raise ConfigError(f"optim.kind={kind}: does not run on {device}; set optim.kind=adamw")
    require_bitsandbytes(f"optim.kind={kind}")
    import bitsandbytes as bnb

    build = bnb.optim.PagedAdamW8bit if kind == "paged-adamw8bit" else bnb.optim.AdamW8bit
    groups = decay_groups(policy, weight_decay=weight_decay)
    optimizer: torch.optim.Optimizer = build(groups, lr=lr, betas=betas, eps=eps)
    return optimizer


def build_adamw(
    policy: Policy, *, lr: float, betas: tuple[float, float], eps: float, weight_decay: float
) -> torch.optim.AdamW:
    """Return AdamW over the trainable parameters; matrices decay, vectors do not."""
    import torch

    groups = decay_groups(policy, weight_decay=weight_decay)
    fused = policy.device.type in ("cpu", "cuda")
    return torch.optim.AdamW(groups, lr=lr, betas=betas, eps=eps, fused=fused)


def decay_groups(policy: Policy, *, weight_decay: float) -> list[dict[str, Any]]:
    """Return the groups of an optimiser: matrices decay, norms, biases and magnitudes do not."""
    named = policy.trainable()
    matrices = [p for _, p in named if p.ndim >= 2]
    vectors = [p for _, p in named if p.ndim < 2]
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def saved_state(optimizer: torch.optim.Optimizer, *, moments: bool = True) -> dict[str, Any]:
    """Return the state as plain tensors. Collective if it is sharded and has the moments.

    A paged tensor carries a mark, which a loaded copy in ordinary memory must not have.

    moments: False leaves out the tensors that are as large as their parameters.
    """
    state = optimizer.state_dict()
    if _is_paged(optimizer):
        state["state"] = {key: _unpaged(value) for key, value in state["state"].items()}
    state["state"] = {
        index: {
            key: _whole(value) if _is_sharded(value) else value
            for key, value in own.items()
            if moments or not _is_sharded(value)
        }
        for index, own in state["state"].items()
    }
    return state


def _whole(value: torch.Tensor) -> torch.Tensor:
    from dgpo_cli.parallel.gathered import whole_of

    return whole_of(value).cpu()


def _is_sharded(value: Any) -> bool:
    return hasattr(value, "full_tensor")


def moments_of(
    optimizer: torch.optim.Optimizer, *, names: Mapping[int, str]
) -> dict[str, torch.Tensor]:
    """Return the sharded tensors of the state, as PARAMETER/MOMENT.

    names: by the id of each parameter.
    """
    return {
        f"{names[id(parameter)]}/{key}": value
        for parameter, own in optimizer.state.items()
        for key, value in own.items()
        if _is_sharded(value)
    }


def restore_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Restore the moments that `saved_state` returned.

    Rates and decays stay those of the optimiser: they are settings.

    Raises:
        ValueError: the state belongs to another optimiser or to other parameters.
    """
    built = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, settings in zip(optimizer.param_groups, built, strict=True):
        group.update(settings)
    moment = "state1" if hasattr(optimizer, "get_state_buffer") else "exp_avg"
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            own = optimizer.state.get(parameter)
            if not own:  # it never had a gradient
                continue
            if moment not in own:
                raise ValueError("it belongs to another kind of optimiser; see optim.kind")
            if own[moment].shape != parameter.shape:
                raise ValueError("it belongs to other parameters")
            if _is_paged(optimizer):
                _page(optimizer, parameter, own)


def _is_paged(optimizer: Any) -> bool:
    return bool(getattr(optimizer, "is_paged", False))


def _unpaged(value: Any) -> Any:
    import torch

    if isinstance(value, dict):
        return {key: _unpaged(inner) for key, inner in value.items()}
    if not isinstance(value, torch.Tensor):
        return value
    if torch.cuda.is_available():  # the host may read managed memory once the kernels are done
        torch.cuda.synchronize()
    return value.detach().clone()


def _page(optimizer: Any, parameter: torch.Tensor, own: dict[str, Any]) -> None:
    """Move loaded moments back into paged memory."""
    for name in ("state1", "state2"):
        buffer = optimizer.get_state_buffer(parameter, dtype=own[name].dtype)
        buffer.copy_(own[name])
        own[name] = buffer


class Snapshot:
    """A copy of what the optimiser moves, in the host's memory: megabytes for an adapter."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._kept: list[torch.Tensor] = []

    def take(self) -> None:
        """Keep the weights as they are, in place of those kept before."""
        weights = self._weights()
        if not self._kept:
            self._kept = [_host_copy(weight) for weight in weights]
            return
        for kept, weight in zip(self._kept, weights, strict=True):
            kept.copy_(weight)

    def exchange(self) -> None:
        """Give the policy the kept weights and keep its own, to the bit."""
        for kept, weight in zip(self._kept, self._weights(), strict=True):
            present = _host_copy(weight)
            weight.copy_(kept)
            kept.copy_(present)

    def _weights(self) -> list[torch.Tensor]:
        """Return what this rank has of the trained weights, without gradient."""
        from dgpo_cli.parallel.sharding import local_of

        return [local_of(weight.detach()) for _, weight in self._policy.trainable()]


def _host_copy(weight: torch.Tensor) -> torch.Tensor:
    copy = weight.to("cpu", copy=True)
    # Copies between pinned memory and a GPU are several times as fast.
    return copy.pin_memory() if weight.is_cuda else copy
