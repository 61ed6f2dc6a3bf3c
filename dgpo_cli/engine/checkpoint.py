"""Checkpoints: a folder is complete or does not exist.

A checkpoint is the model or adapter in the ecosystem's own format, the tokenizer, `trainer.pt`
(optimiser and random generators), `state.json` (counters) and `SHA256SUMS`. It is written to a
temporary folder, flushed to disk and renamed.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

from dgpo_cli.core.codec import encoded, parsed
from dgpo_cli.core.digests import (
    OPTIMIZER,
    STATE,
    SUMS,
    cannot_read,
    check_digests,
    check_whole,
    has_digests,
    write_digests,
)
from dgpo_cli.core.errors import CheckpointError, DataError
from dgpo_cli.core.formats import STATE as STATE_FORMAT
from dgpo_cli.core.formats import TrainerState
from dgpo_cli.core.io import atomic_folder

if TYPE_CHECKING:
    import torch

    from dgpo_cli.policy.policy import Policy

_WITHOUT_DIGESTS = 1

# Errors of torch.load for a broken file, and of reading a wrong structure.
_UNREADABLE = (
    OSError,
    RuntimeError,
    ValueError,
    LookupError,
    EOFError,
    UnpicklingError,
    TypeError,
    AttributeError,
)


def save_checkpoint(
    folder: Path,
    *,
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    state: TrainerState,
    texts: Mapping[str, str] | None = None,
) -> None:
    """Write a checkpoint to `folder`, which must not exist.

    texts: more files, by name.

    Raises:
        CheckpointError: it could not be written (a full disk, say); nothing is left behind.
    """
    import torch

    from dgpo_cli.engine.optimizers import saved_state

    with atomic_folder(folder) as temporary:
        policy.save(temporary)
        trainer = {"optimizer": saved_state(optimizer), "rng": rng_state()}
        torch.save(trainer, temporary / OPTIMIZER)
        (temporary / STATE).write_text(encoded(STATE_FORMAT.dump(state)) + "\n")
        for name, text in (texts or {}).items():
            (temporary / name).write_text(text, encoding="utf-8")
        write_digests(temporary)


def load_state(folder: Path) -> TrainerState:
    """Read the counters of a checkpoint.

    Raises:
        CheckpointError: the file is missing, broken or of another format.
        UnreadableError: the system does not let us read it.
    """
    where = f"{folder / STATE}: cannot be read"
    try:
        state = STATE_FORMAT.read(parsed((folder / STATE).read_bytes(), where=where), where=where)
    except OSError as error:
        raise cannot_read(folder / STATE, error) from error
    except DataError as error:
        raise CheckpointError(str(error)) from error
    if state.format not in (STATE_FORMAT.version, _WITHOUT_DIGESTS):
        raise CheckpointError(
            f"{folder}: checkpoint format {state.format}, this dgpo reads {STATE_FORMAT.version}"
        )
    return state


def check_checkpoint(folder: Path, *, optimizer: bool = True) -> bool:
    """Check that a checkpoint is as it was written.

    optimizer: read the optimiser's state too.

    Returns:
        Whether it has digests; checkpoints of earlier versions do not.

    Raises:
        CheckpointError: a file is missing, empty, truncated or changed; the message names it.
        UnreadableError: the system does not let us read one.
    """
    if has_digests(folder):
        check_digests(folder, optimizer=optimizer)
        return True
    if load_state(folder).format != _WITHOUT_DIGESTS:
        raise CheckpointError(f"{folder / SUMS}: is missing")
    check_whole(folder)
    return False


def load_trainer(folder: Path, *, optimizer: torch.optim.Optimizer) -> None:
    """Restore the optimiser and every random generator from a checkpoint.

    Raises:
        CheckpointError: the file is missing, broken or of another model.
    """
    import torch

    from dgpo_cli.engine.optimizers import restore_state

    try:
        # weights_only: a checkpoint from elsewhere must not be able to run code.
        saved = torch.load(folder / OPTIMIZER, map_location="cpu", weights_only=True)
        restore_state(optimizer, saved["optimizer"])
        set_rng_state(saved["rng"])
    except _UNREADABLE as error:
        reason = str(error).partition("\n")[0]  # torch's messages run over many lines
        reason = f"{type(error).__name__}: {reason}" if reason else type(error).__name__
        raise CheckpointError(f"{folder / OPTIMIZER}: cannot be resumed from: {reason}") from error


def rng_state() -> dict[str, Any]:
    """Return the states of Python's, NumPy's and torch's generators, as plain data."""
    import numpy as np
    import torch

    kind, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": (kind, [int(key) for key in keys], position, has_gauss, gauss),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_rng_state(state: dict[str, Any]) -> None:
    """Put back what `rng_state` returned."""
    import numpy as np
    import torch

    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
