"""What a plan depends on: shape, lengths, how weights are stored. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dgpo_cli.planning.activations import Training
from dgpo_cli.policy.settings import CheckpointingKind, ParallelKind
from dgpo_cli.policy.shape import ModelShape

SamplerKind = Literal["hf", "vllm", "vllm-server"]
StateKind = Literal["adamw", "adamw8bit", "paged-adamw8bit"]

NODE = 8  # devices of a machine; assumed


@dataclass(frozen=True, slots=True)
class Sampling:
    """The sampler.

    rows: at a time, on a device (hf) or in an engine (vllm; 0: no limit).
    share: of the device's memory, for vllm. element: bytes per number in vllm; None: as the model.
    split: devices of an engine. sleeps: it leaves the device to the trainer between two phases.
    """

    kind: SamplerKind
    rows: int
    share: float
    element: int | None = None
    split: int = 1
    sleeps: bool = False


@dataclass(frozen=True, slots=True)
class Layout:
    """How a run is laid out over devices.

    gpus: in total. sequence: devices that share a micro-batch. offload: the reference is in the
    host's memory.
    """

    kind: ParallelKind = "single"
    gpus: int = 1
    sequence: int = 1
    offload: bool = False

    @property
    def shards(self) -> int:
        """Devices over which weights are split."""
        if self.kind == "hybrid":
            return self.node
        return self.gpus if self.kind == "shard" else 1

    @property
    def sharded(self) -> bool:
        return self.shards > 1

    @property
    def replicas(self) -> int:
        """Copies of all weights."""
        return self.gpus // self.shards

    @property
    def lanes(self) -> int:
        """Micro-batches that are computed at the same time."""
        return self.gpus // self.sequence

    @property
    def node(self) -> int:
        """Devices of a machine."""
        return min(self.gpus, NODE)


@dataclass(frozen=True, slots=True)
class Passes:
    """Micro-batches that each lane computes in a step, and the rows of the busiest.

    measured: forward alone. trained: forward and backward. reference: those of both that take all
    statistics, and so run the reference.
    """

    measured: int
    trained: int
    reference: int
    measured_rows: int
    trained_rows: int
    reference_rows: int


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
    distance: whether the reference runs. tables: numbers that are kept of a token: old
        log-probability, entropy, distance, with a KL term the reference's log-probability.
    prompt, completion: the longest that the settings allow, in tokens.
    typical_prompt, typical_completion: lengths for the estimate of time, in tokens.
    compute: bytes per number of rounded matrix products; None: as the weights.
    micro_rows: completions of a micro-batch; 0: as many as micro_tokens allow.
    overlap: whether the next batch is sampled while this one trains.
    checkpointing: auto only until memory.settled has chosen. chosen: whether that was so.
    apart: whether completions are measured before any is trained on: a rule of the whole batch.
    refreshed: whether every update measures its completions again.
    repeats: whether attention repeats keys and values; see policy/packing.py.
    kept: most tokens that a truncated sampler keeps in place of one, where later updates need them.
    eager: whether attention keeps the whole matrix of each head.
    continuations: of each prefix of a completion, for a credit rule by values.
    """

    shape: ModelShape
    element: int
    packed: bool
    adapter: int
    rank: int
    distance: bool
    checkpointing: CheckpointingKind
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
    layout: Layout = Layout()
    overlap: bool = False
    compute: int | None = None
    apart: bool = False
    refreshed: bool = False
    chosen: bool = False
    repeats: bool = False
    kept: int = 0
    eager: bool = False
    tables: int = 3
    continuations: int = 0

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
    def product(self) -> int:
        """Bytes per number of a matrix product, and of a gathered weight."""
        return self.compute or self.element

    @property
    def training(self) -> Training:
        # Weights gathered in 16 bits make all activations 16 bits; autocast over whole weights
        # keeps the stream between the blocks in their own.
        element = self.product if self.layout.sharded else self.element
        return Training(element, self.rank, self.checkpointing, self.compute, self.repeats)

    @property
    def layer(self) -> int:
        """Weights of one layer, without an adapter."""
        return (self.shape.parameters - self.root) // self.shape.layers

    @property
    def root(self) -> int:
        """Weights outside the layers: embedding, last norm, head."""
        return self.shape.outside_blocks + self.shape.hidden

    @property
    def passes(self) -> Passes:
        """The passes of a step in which every completion has an advantage."""
        lanes, update = self.layout.lanes, self.rows // self.updates
        rows, passes = -(-update // lanes), self._rounds(update)
        # The pass that trains measures the first update, and the later ones if they are refreshed.
        at_once = 0 if self.apart else self.updates if self.refreshed else 1
        before = self.rows if self.apart else self.rows - update
        again = (self.updates - 1) * (self.apart and self.refreshed)
        measured = self._rounds(before) + again * passes
        measured_rows = -(-before // lanes) + again * rows
        return Passes(
            measured=measured,
            trained=passes * self.updates,
            reference=measured + at_once * passes,
            measured_rows=measured_rows,
            trained_rows=rows * self.updates,
            reference_rows=measured_rows + at_once * rows,
        )

    def _rounds(self, rows: int) -> int:
        """Return the passes in which the lanes compute `rows` rows."""
        return -(-rows // (self._typical_rows * self.layout.lanes))

    @property
    def _typical_rows(self) -> int:
        """Typical rows of a micro-batch."""
        typical = self.typical_prompt + self.typical_completion
        return max(1, min(self._most_rows, self.micro_tokens // typical))

    @property
    def _most_rows(self) -> int:
        """The most rows of a micro-batch, as far as their number is limited."""
        return min(self.micro_rows or self.rows, self.rows)

    @property
    def micro_batch(self) -> MicroBatch:
        """The largest micro-batch.

        Rows of mixed lengths can fill the token limit where equal ones cannot.
        """
        rows = self._most_rows
        places = min(rows * self.row_tokens, max(self.micro_tokens, self.row_tokens))
        shared = rows * self.completion + self._prompts_of(rows) * self.prompt
        return MicroBatch(min(places, shared), places, min(places, rows * self.completion))

    @property
    def tokens_of_a_row(self) -> float:
        """Tokens computed per typical row, including its share of a shared prompt."""
        rows = self._typical_rows
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
