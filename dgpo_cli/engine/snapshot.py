"""A copy of the trained weights that can be swapped back in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from dgpo_cli.parallel.sharding import local_of

if TYPE_CHECKING:
    from torch import Tensor

    from dgpo_cli.policy.policy import Policy


class Snapshot:
    """A copy of what the optimiser moves, in the host's memory: megabytes for an adapter."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._kept: list[Tensor] = []

    @torch.no_grad()
    def take(self) -> None:
        """Keep the weights as they are, in place of those kept before."""
        weights = self._weights()
        if not self._kept:
            self._kept = [_host_copy(weight) for weight in weights]
            return
        for kept, weight in zip(self._kept, weights, strict=True):
            kept.copy_(weight)

    @torch.no_grad()
    def exchange(self) -> None:
        """Give the policy the kept weights and keep its own, to the bit."""
        for kept, weight in zip(self._kept, self._weights(), strict=True):
            present = _host_copy(weight)
            weight.copy_(kept)
            kept.copy_(present)

    def _weights(self) -> list[Tensor]:
        """Return what this rank has of the trained weights."""
        return [local_of(weight.detach()) for _, weight in self._policy.trainable()]


def _host_copy(weight: Tensor) -> Tensor:
    copy = weight.to("cpu", copy=True)
    # Copies between pinned memory and a GPU are several times as fast.
    return copy.pin_memory() if weight.is_cuda else copy
