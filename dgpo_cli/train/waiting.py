"""The batch that was sampled ahead of its step, as a checkpoint keeps it.

The weights that sampled it are gone by then, so it cannot be drawn again: it is written down with
its old_logprobs, measured under those weights.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from dgpo_cli.core.errors import CheckpointError
from dgpo_cli.engine.checkpoint import load_state
from dgpo_cli.prompts.datasets import Position
from dgpo_cli.runs.carried import WAITING_FILE, group_of
from dgpo_cli.train.collect import Collected

FORMAT = 1


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
    """Write a measured batch as JSON; every number comes back as it was."""
    assert waiting.measured
    found = waiting.found
    every = None if found.sampled is found.groups else found.sampled
    values = {
        "format": FORMAT,
        "number": waiting.number,
        "version": waiting.version,
        "before": {"draws": waiting.before.draws, "prompts": waiting.before.prompts},
        "group_size": waiting.group_size,
        "temperature": waiting.temperature,
        "groups": [asdict(group) for group in found.groups],
        "old_logprobs": found.old_logprobs,
        "sampled": None if every is None else [asdict(group) for group in every],
        "metrics": found.metrics,
    }
    return json.dumps(values) + "\n"


def read_waiting(checkpoint: Path) -> Waiting | None:
    """Read the batch of its next step that a checkpoint keeps; None where it has none.

    Raises:
        CheckpointError: the file is broken, of another format or of another step.
    """
    path = checkpoint / WAITING_FILE
    if not path.exists():
        return None
    step = load_state(checkpoint).step
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if (values["format"], values["number"]) != (FORMAT, step + 1):
            raise ValueError(f"format {values['format']}, step {values['number']}")
        groups = [group_of(fields) for fields in values["groups"]]
        every = values["sampled"]
        return Waiting(
            number=values["number"],
            version=int(values["version"]),
            before=Position(**values["before"]),
            group_size=int(values["group_size"]),
            temperature=float(values["temperature"]),
            found=Collected(
                groups=groups,
                old_logprobs=[tuple(map(float, row)) for row in values["old_logprobs"]],
                sampled=groups if every is None else [group_of(fields) for fields in every],
                metrics={name: float(value) for name, value in values["metrics"].items()},
            ),
            measured=True,
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
