"""Groups that a step sampled and did not train on, kept for the next one, and in checkpoints.

They are of the weights before the update, so their tokens' log-probabilities under those weights
go with them: the ratio of the loss starts at p_now / p_then and not at 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from dgpo_cli.core import io
from dgpo_cli.core.codec import Format, encoded, parsed
from dgpo_cli.core.errors import CheckpointError, DataError
from dgpo_cli.core.formats import CARRIED, CarriedGroup

FILE = "carried.json"
WAITING_FILE = "waiting.json"  # the batch that was sampled ahead (waiting.py)
T = TypeVar("T")


def carried_text(carried: Sequence[CarriedGroup]) -> str:
    """Write groups as JSON; every number comes back as it was, or as NaN if it is not finite."""
    return encoded(CARRIED.dump(tuple(carried))) + "\n"


def read_carried(checkpoint: Path) -> tuple[CarriedGroup, ...]:
    """Read the groups that a checkpoint keeps; none where it has no file of them.

    Raises:
        CheckpointError: the file is broken.
    """
    return kept(checkpoint / FILE, CARRIED) or ()


def kept(path: Path, format: Format[T]) -> T | None:
    """Read a file that only some checkpoints have; None where there is none.

    Raises:
        CheckpointError: the file is broken.
    """
    if not path.exists():
        return None
    where = f"{path}: cannot be read"
    try:
        # Earlier versions wrote NaN and Infinity, which JSON has not.
        data = parsed(io.read_bytes(path), where=where, constants=False)
        return format.read(data, where=where)
    except DataError as error:
        raise CheckpointError(str(error)) from error
