"""What a plan depends on: shape, lengths, how weights are stored. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dgpo_cli.planning.activations import Training
from dgpo_cli.policy.shape import ModelShape

SamplerKind = Literal["hf", "vllm", "vllm-server"]
StateKind = Literal["adamw", "adamw8bit", "paged-adamw8bit"]


@dataclass(frozen=True, slots=True)
class Sampling:
    """The sampler. rows: sampled at a time, for hf. share: of the device's memory, for vllm."""

    kind: SamplerKind
    rows: int
    share: float


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """The largest micro-batch: tokens computed, places in attention, tokens predicted.

    A prompt shared by several completions is computed once but has a place in each.
    """

    tokens: int
    places: int
    predicted: int


@dataclass(frozen=True, slots=True)
class Job:
    """A run to plan.

    adapter: weights of the LoRA adapter; 0 trains the model itself.
    distance: whether the reference runs.
    prompt, completion: the longest that the settings allow, in tokens.
    typical_prompt, typical_completion: lengths for the estimate of time, in tokens.
    shards: devices over which weights, gradients and optimiser are split.
    compute: bytes per number of rounded matrix products; None: as the weights.
    overlap: whether the next batch is sampled while this one trains.
    """

    shape: ModelShape
    element: int
    packed: bool
    adapter: int
    rank: int
    distance: bool
    checkpointing: bool
    state: StateKind
    prompt: int
    completion: int
    typical_prompt: int
    typical_completion: int
    prompts: int
    group_size: int
    updates: int
    micro_rows: int
    micro_tokens: int
    sampling: Sampling
    workers: int
    shards: int
    overlap: bool = False
    compute: int | None = None

    @property
    def full(self) -> bool:
        return self.adapter == 0

    @property
    def trained(self) -> int:
        """Weights that the optimiser updates."""
        return self.shape.parameters if self.full else self.adapter

    @property
    def rows(self) -> int:
        """Completions of a step."""
        return self.prompts * self.group_size

    @property
    def row_tokens(self) -> int:
        """Tokens of the longest row."""
        return self.prompt + self.completion

    @property
    def training(self) -> Training:
        return Training(self.element, self.rank, self.checkpointing, self.compute)

    @property
    def micro_batch(self) -> MicroBatch:
        """The largest micro-batch.

        Rows of mixed lengths can fill the token limit where equal ones cannot.
        """
        rows = min(self.micro_rows, self.rows)
        places = min(rows * self.row_tokens, max(self.micro_tokens, self.row_tokens))
        shared = rows * self.completion + self._prompts_of(rows) * self.prompt
        return MicroBatch(min(places, shared), places, min(places, rows * self.completion))

    @property
    def tokens_of_a_row(self) -> float:
        """Tokens computed per typical row, including its share of a shared prompt."""
        typical = self.typical_prompt + self.typical_completion
        rows = max(1, min(self.micro_rows, self.rows, self.micro_tokens // typical))
        prompts = rows if self._prompts_of(rows) == rows else -(-rows // self.group_size)
        return self.typical_completion + self.typical_prompt * prompts / rows

    def _prompts_of(self, rows: int) -> int:
        """Return the most prompts in a micro-batch of `rows` rows.

        Rows of a prompt are adjacent, unless they are so long that attention's padding costs
        more (see policy/batching.py).
        """
        if self.row_tokens >= 12 * self.shape.hidden:
            return rows
        # If neither divides the other, a group may span two micro-batches.
        cut = 1 if self.group_size % rows and rows % self.group_size else 0
        return min(rows, -(-rows // self.group_size) + cut)
