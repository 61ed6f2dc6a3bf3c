"""The protocols of samplers: token ids in, completions out, and what they need of the policy."""

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
    """What moves the distribution that tokens are drawn from.

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
            seeds: a seed for every completion wanted of each prompt. A completion depends on
                the weights, the prompt, the parameters and its own seed, not on its neighbours
                (up to the rounding of the model's own arithmetic).
        """
        ...

    def sync(self, *, policy_version: int) -> None:
        """Sample from the policy's present weights from now on, and call them that version."""
        ...


@runtime_checkable
class RemoteSampler(Sampler, Protocol):
    """A sampler with weights of its own: the policy may be trained while it samples.

    One thread may be in `sample` while another trains; `sync` waits for nobody, so that whoever
    calls it has to see that no `sample` is under way.
    """

    def prepare(self, observer: Observer) -> None:
        """Start what samples, with the policy's present weights, unless that is done.

        Until the next `sync`, `sample` then reads nothing of the policy that training moves.
        """
        ...

    def wait_no_more(self) -> None:
        """Make every wait for the sampler to start, now or later, raise CalledOff soon. A signal
        handler may call it."""
        ...

    def cancel(self) -> None:
        """Have a `sample` in another thread raise soon; nothing can be sampled any more."""
        ...


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
