"""The protocols of samplers: token ids in, completions out, and the weights they need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from dgpo_cli.core.events import Observer
from dgpo_cli.core.types import Completion

if TYPE_CHECKING:
    import torch

    from dgpo_cli.samplers.settings import RolloutSettings


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """The parameters of the distribution that tokens are drawn from.

    temperature 0 is greedy; top_k 0 and top_p 1 keep every token.
    """

    temperature: float
    top_p: float
    top_k: int
    max_completion_tokens: int

    @classmethod
    def of(cls, settings: RolloutSettings) -> SamplingParams:
        return cls(
            temperature=settings.temperature,
            top_p=settings.top_p,
            top_k=settings.top_k,
            max_completion_tokens=settings.max_completion_tokens,
        )


class Sampler(Protocol):
    """Draws completions of prompts from the current policy."""

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        seeds: Sequence[Sequence[int]],
        params: SamplingParams,
        observer: Observer,
    ) -> list[tuple[Completion, ...]]:
        """Return len(seeds[i]) completions of prompt i, one for each of its seeds.

        Args:
            prompts: token ids of P prompts.
            seeds: one per completion of each prompt. A completion depends on weights, prompt,
                parameters and its own seed, not on its neighbours (up to rounding).
        """
        ...

    def sync(self, *, policy_version: int) -> None:
        """Sample from the policy's current weights from now on, as that version."""
        ...


@runtime_checkable
class RemoteSampler(Sampler, Protocol):
    """A sampler with its own copy of the weights: the policy can train while it samples.

    One thread may be in `sample` while another trains. `sync` does not wait: the caller must make
    sure that no `sample` is running.
    """

    def prepare(self, observer: Observer) -> None:
        """Start the servers with the policy's current weights, unless they run.

        Until the next `sync`, `sample` then reads nothing that training changes.
        """
        ...

    def wait_no_more(self) -> None:
        """Make every wait for a start, now or later, raise CalledOff soon. Safe in a signal
        handler."""
        ...

    def cancel(self) -> None:
        """Make `sample` in another thread raise soon; the sampler is then unusable."""
        ...


class TrainedWeights(Protocol):
    """The policy, as a sampler with its own copy of the weights needs it."""

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
        """Return the text of a completion without special tokens."""
        ...

    def save(self, folder: Path) -> None:
        """Write the adapter, or the whole model without one, into a folder."""
        ...

    def tensors(self) -> Sequence[tuple[str, torch.Tensor]]:
        """Return all weights of a policy without adapter, under their names in a checkpoint; not
        copied where the checkpoint has the same tensor."""
        ...

    def canary_ids(self) -> tuple[int, ...]:
        """Return some fixed token ids, at least two."""
        ...

    def logprobs_of(
        self, ids: Sequence[int], *, temperature: float, adapter: bool = True
    ) -> list[float]:
        """Return the log-probability in nats of every token after the first.

        adapter: False disables the adapter.
        """
        ...
