"""What a plan needs to know of a run: shape, lengths, how weights are held. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dgpo_cli.models.activations import Training
from dgpo_cli.models.shape import ModelShape

SamplerKind = Literal["hf", "vllm", "vllm-server"]
StateKind = Literal["adamw", "adamw8bit", "paged-adamw8bit"]


@dataclass(frozen=True, slots=True)
class Sampling:
    """Who samples. rows: of the hf sampler, side by side. share: of the device, for vllm."""

    kind: SamplerKind
    rows: int
    share: float


@dataclass(frozen=True, slots=True)
class Job:
    """A run as a plan sees it.

    adapter: weights of the LoRA adapter; 0 trains the model itself.
    distance: whether the reference runs at all.
    prompt, completion: the longest that the settings allow, in tokens.
    typical_prompt, typical_completion: what time is reckoned with, in tokens.
    shards: devices over which weights, gradients and optimiser are spread.
    overlap: whether the next batch is sampled while the present one trains.
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

    @property
    def full(self) -> bool:
        return self.adapter == 0

    @property
    def trained(self) -> int:
        """Weights that the optimiser moves."""
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
        return Training(self.element, self.rank, self.checkpointing)

    @property
    def micro_batch(self) -> tuple[int, int]:
        """Most tokens of a micro-batch, and most of them that are predicted.

        Rows of many lengths can fill the limit of tokens where equal ones would not.
        """
        rows = min(self.micro_rows, self.rows)
        tokens = min(rows * self.row_tokens, max(self.micro_tokens, self.row_tokens))
        return tokens, min(tokens, rows * self.completion)
