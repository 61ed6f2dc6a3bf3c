"""The batch that was sampled ahead of its step, as a checkpoint keeps it.

The weights that sampled it are gone by then, so it cannot be drawn again: it is written down with
its old_logprobs, measured under those weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dgpo_cli.core.codec import encoded, filled
from dgpo_cli.core.errors import CheckpointError
from dgpo_cli.core.formats import WAITING, Position, PrefetchedBatch
from dgpo_cli.engine.checkpoint import load_state
from dgpo_cli.runs.carried import WAITING_FILE, kept
from dgpo_cli.train.collect import Collected


@dataclass(frozen=True, slots=True)
class Waiting:
    """The groups of step `number` (from 1), before it has come to its turn.

    version: optimiser updates that the sampling weights had seen.
    before: where the run stood in its prompts before it drew these.
    group_size, temperature: under which they were sampled; a step under others cannot take them.
    measured: whether every completion has its old_logprobs that needs them.
    """

    number: int
    version: int
    before: Position
    group_size: int
    temperature: float
    found: Collected
    measured: bool


def waiting_text(waiting: Waiting) -> str:
    """Write a measured batch as JSON; every number comes back as it was, or as NaN."""
    assert waiting.measured
    found = waiting.found
    batch = filled(
        PrefetchedBatch,
        waiting,
        groups=tuple(found.groups),
        old_logprobs=tuple(found.old_logprobs),
        sampled=None if found.sampled is found.groups else tuple(found.sampled),
        metrics=found.metrics,
    )
    return encoded(WAITING.dump(batch)) + "\n"


def read_waiting(checkpoint: Path) -> Waiting | None:
    """Read the batch of its next step that a checkpoint keeps; None where it has none.

    Raises:
        CheckpointError: the file is broken, of another format or of another step.
    """
    batch = kept(checkpoint / WAITING_FILE, WAITING)
    if batch is None:
        return None
    if batch.number != load_state(checkpoint).step + 1:
        raise CheckpointError(
            f"{checkpoint / WAITING_FILE}: cannot be read: is of step {batch.number}"
        )
    groups = list(batch.groups)
    found = Collected(
        groups=groups,
        old_logprobs=list(batch.old_logprobs),
        sampled=groups if batch.sampled is None else list(batch.sampled),
        metrics=batch.metrics,
    )
    return filled(Waiting, batch, found=found, measured=True)
