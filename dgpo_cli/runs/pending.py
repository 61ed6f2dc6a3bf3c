"""Pending groups: a step sampled them and did not train on them, so the next one does.

Older weights sampled them, so they keep their tokens' log-probabilities under those weights: the
ratio of the loss starts at p_now / p_then and not at 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from dgpo_cli.core import io
from dgpo_cli.core.codec import Format, encoded, parsed
from dgpo_cli.core.errors import CheckpointError, DataError
from dgpo_cli.core.formats import PENDING, PendingGroup

PENDING_FILE = "carried.json"
PREFETCHED_FILE = "waiting.json"  # the prefetched batch: train/prefetch.py
SELECTED_FILE = "selected.json"  # pass rates of prompts: train/curriculum.py
T = TypeVar("T")


def pending_text(pending: Sequence[PendingGroup]) -> str:
    """Write groups as JSON, exactly; a number that is not finite comes back as NaN."""
    return encoded(PENDING.dump(tuple(pending))) + "\n"


def read_pending(checkpoint: Path) -> tuple[PendingGroup, ...]:
    """Read the pending groups of a checkpoint; it may have none.

    Raises:
        CheckpointError: the file is broken.
    """
    return read_optional(checkpoint / PENDING_FILE, PENDING) or ()


def read_optional(path: Path, format: Format[T]) -> T | None:
    """Read a file that only some checkpoints have; None if it is missing.

    Raises:
        CheckpointError: the file is broken.
    """
    if not path.exists():
        return None
    where = f"{path}: cannot be read"
    try:
        # Earlier versions wrote NaN and Infinity, which are not JSON.
        data = parsed(io.read_bytes(path), where=where, constants=False)
        return format.read(data, where=where)
    except DataError as error:
        raise CheckpointError(str(error)) from error
