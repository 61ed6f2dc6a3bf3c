"""What a sampler with weights of its own needs of the policy; policy/policy.py provides it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch


class TrainedWeights(Protocol):
    """The policy as somebody who must sample from the same weights sees it."""

    @property
    def stop_ids(self) -> frozenset[int]:
        """Token ids that end a completion."""
        ...

    @property
    def has_adapter(self) -> bool: ...

    @property
    def adapter_rank(self) -> int:
        """Largest rank of the adapter, 0 without one."""
        ...

    @property
    def untouched(self) -> bool:
        """Whether the base weights are those that `model.path` names."""
        ...

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of a completion, special tokens left out."""
        ...

    def save(self, folder: Path) -> None:
        """Write the adapter alone, or without one the whole model, into a folder."""
        ...

    def tensors(self) -> Sequence[tuple[str, torch.Tensor]]:
        """Return all weights, without an adapter, under the names that `save` gives them: the
        policy's own memory wherever a checkpoint has it in one piece."""
        ...

    def canary_ids(self) -> tuple[int, ...]:
        """Return some fixed token ids, at least two."""
        ...

    def logprobs_of(
        self, ids: Sequence[int], *, temperature: float, adapter: bool = True
    ) -> list[float]:
        """Return the log-probability in nats of every token but the first, given those before.

        adapter: False leaves the adapter off.
        """
        ...
