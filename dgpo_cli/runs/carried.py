"""Groups that a step sampled and did not train on, kept for the next one, and in checkpoints.

They are of the weights before the update, so their tokens' log-probabilities under those weights
go with them: the ratio of the loss starts at p_now / p_then and not at 1.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dgpo_cli.core.errors import CheckpointError
from dgpo_cli.core.types import Completion, Message, Prompt, ScoredGroup, Verdict

FILE = "carried.json"
WAITING_FILE = "waiting.json"  # the batch that was sampled ahead (waiting.py)


@dataclass(frozen=True, slots=True)
class CarriedGroup:
    """old_logprobs: of every completion's tokens, by the trainer, under the sampling weights."""

    group: ScoredGroup
    old_logprobs: tuple[tuple[float, ...], ...]


def carried_text(carried: Sequence[CarriedGroup]) -> str:
    """Write groups as JSON; every number comes back as it was."""
    return json.dumps([asdict(each) for each in carried]) + "\n"


def read_carried(checkpoint: Path) -> tuple[CarriedGroup, ...]:
    """Read the groups that a checkpoint keeps; none where it has no file of them.

    Raises:
        CheckpointError: the file is broken.
    """
    path = checkpoint / FILE
    if not path.exists():
        return ()
    try:
        return tuple(map(_carried, json.loads(path.read_text(encoding="utf-8"))))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error


def _carried(fields: dict[str, Any]) -> CarriedGroup:
    return CarriedGroup(
        group=group_of(fields["group"]),
        old_logprobs=tuple(map(tuple, fields["old_logprobs"])),
    )


def group_of(fields: dict[str, Any]) -> ScoredGroup:
    """Return the group that was written as JSON; raises what a wrong structure raises."""
    prompt = fields["prompt"]
    return ScoredGroup(
        prompt=Prompt(**prompt | {"messages": tuple(Message(**m) for m in prompt["messages"])}),
        prompt_ids=tuple(fields["prompt_ids"]),
        completions=tuple(
            Completion(
                **each | {name: tuple(each[name]) for name in ("token_ids", "sampling_logprobs")}
            )
            for each in fields["completions"]
        ),
        verdicts=tuple(Verdict(**each) for each in fields["verdicts"]),
        advantages=tuple(fields["advantages"]),
        penalties=tuple(fields["penalties"]),
    )
