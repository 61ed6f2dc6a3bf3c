"""The protocols of samplers: token ids in, completions out, and the weights they need."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

from dgpo_cli.core.events import Observer
from dgpo_cli.core.types import Advance, Completion

if TYPE_CHECKING:
    import torch

    from dgpo_cli.samplers.settings import RolloutSettings


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """The parameters of the distribution that tokens are drawn from.

    temperature 0 is greedy; top_k 0 and top_p 1 keep every token. stop: strings that end a
    completion, whose last token is the one that completes the first of them. max_total_tokens:
    those of a prompt and its completion, which long prompts leave less room for; None: any number.
    """

    temperature: float
    top_p: float
    top_k: int
    max_completion_tokens: int
    stop: tuple[str, ...] = ()
    max_total_tokens: int | None = None

    @classmethod
    def of(cls, settings: RolloutSettings) -> SamplingParams:
        return cls(
            temperature=settings.temperature,
            top_p=settings.top_p,
            top_k=settings.top_k,
            max_completion_tokens=settings.max_completion_tokens,
            stop=settings.stop,
        )

    def room(self, prompt: Sequence[int]) -> int:
        """Return how many tokens a completion of the prompt may have; at least 1."""
        if self.max_total_tokens is None:
            return self.max_completion_tokens
        return max(1, min(self.max_completion_tokens, self.max_total_tokens - len(prompt)))


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


Row = tuple[int, int]  # prompt, completion
Named = tuple[str, "torch.Tensor"]
Weights: TypeAlias = "Sequence[Named] | GatheredWeights"


@dataclass(frozen=True, slots=True)
class Share:
    """What a rank takes of a round of sampling, which is cut into parts in the same way on all.

    take: returns 0, 1, 2, ..., each to one rank; a number beyond the last part ends the round.
    among: the number of ranks that take.
    """

    take: Callable[[], int]
    among: int

    @classmethod
    def all(cls) -> Share:
        """The share of the only rank."""
        return cls(count().__next__, 1)

    def rows(self, seeds: Sequence[Sequence[int]]) -> int:
        """Return how many rows a rank may have at a time, so that each gets some."""
        return max(1, -(-sum(map(len, seeds)) // self.among))


class SharedSampler(Sampler, Protocol):
    """A sampler that can draw a part of a round, while other ranks draw the others."""

    def draw(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        seeds: Sequence[Sequence[int]],
        params: SamplingParams,
        advance: Advance,
        share: Share,
    ) -> dict[Row, Completion]:
        """Return the completions of this rank's share, by prompt and number.

        advance: called with the number of newly drawn ones.
        """
        ...


def in_order(
    found: Mapping[Row, Completion], *, seeds: Sequence[Sequence[int]]
) -> list[tuple[Completion, ...]]:
    """Return the completions of a whole round as `Sampler.sample` does."""
    return [tuple(found[i, j] for j in range(len(own))) for i, own in enumerate(seeds)]


@runtime_checkable
class RemoteSampler(Sampler, Protocol):
    """A sampler with its own copy of the weights: the policy can train while it samples.

    One thread may be in `sample` while another trains. `sync` does not wait: the caller must make
    sure that no `sample` is running.
    """

    def prepare(self, observer: Observer) -> None:
        """Start the servers with the policy's current weights, unless they run, or wake them.

        Until the next `sync`, `sample` then reads nothing that training changes.
        """
        ...

    def rest(self) -> None:
        """Leave a device that it shares with the trainer to that, until the next `sample`,
        `prepare` or `sync`. Not while it samples."""
        ...

    def wait_no_more(self) -> None:
        """Make every wait for a start, now or later, raise CalledOff soon. Safe in a signal
        handler."""
        ...

    def cancel(self) -> None:
        """Make `sample` in another thread raise soon; the sampler is then unusable."""
        ...


class SharedRemoteSampler(SharedSampler, RemoteSampler, Protocol):
    """One with its own copy of the weights; `draw` comes after `prepare`."""

    @property
    def sleeps(self) -> bool:
        """Whether `rest` does something."""
        ...


class Described(Protocol):
    """A tensor without its values."""

    @property
    def name(self) -> str: ...

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def shape(self) -> tuple[int, ...]: ...


@runtime_checkable
class GatheredWeights(Protocol):
    """Sharded weights: each iteration gathers every tensor, one at a time, on all ranks."""

    def __iter__(self) -> Iterator[Named]: ...

    @property
    def described(self) -> Sequence[Described]:
        """What they are like, in the same order, without gathering."""
        ...


def described(weights: Weights) -> list[tuple[str, torch.dtype, tuple[int, ...]]]:
    """Return name, dtype and shape of each tensor."""
    if isinstance(weights, GatheredWeights):
        return [(each.name, each.dtype, each.shape) for each in weights.described]
    return [(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in weights]


class TrainedWeights(Protocol):
    """The policy, as a sampler with its own copy of the weights needs it."""

    @property
    def in_memory(self) -> bool:
        """Whether this process has the weights too, and so `logprobs_of`."""
        ...

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

    def spell(self, token_ids: Sequence[int]) -> str:
        """Return the text of token ids, special tokens included."""
        ...

    def save(self, folder: Path) -> None:
        """Write the adapter, or the whole model without one, into a folder."""
        ...

    def tensors(self) -> Weights:
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

    def release(self) -> None:
        """Give memory that the trainer does not use back to its device, for the engine there."""
        ...
