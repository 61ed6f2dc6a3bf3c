"""Checkpoints: a folder is complete or does not exist.

A checkpoint is the model or adapter in the ecosystem's own format, the tokenizer, `trainer.pt`
(optimiser and random generators), `state.json` (counters) and `SHA256SUMS`. It is written to a
temporary folder, flushed to disk and renamed. All ranks of a sharded model write it together, in
the background, with the optimiser's moments in `optimizer/`. Any number of ranks resumes from
either kind.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
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
from dgpo_cli.parallel.ranks import ALONE, Ranks

if TYPE_CHECKING:
    import torch

    from dgpo_cli.parallel.shard_checkpoint import ShardWriter
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


class CheckpointWriter:
    """Writes the checkpoints of a policy that is trained.

    Every rank calls `save`. The weights of a sharded model are written in the background; else the
    leader alone writes, and a checkpoint is complete when `save` returns.
    """

    def __init__(
        self, policy: Policy, optimizer: torch.optim.Optimizer, *, ranks: Ranks = ALONE
    ) -> None:
        self._policy, self._optimizer, self._ranks = policy, optimizer, ranks
        self._shards: ShardWriter | None = None
        if ranks.collective and not policy.has_adapter:
            from dgpo_cli.parallel.shard_checkpoint import ShardWriter

            self._shards = ShardWriter(ranks)

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is being written in the background."""
        return self._shards is not None and self._shards.busy

    def save(
        self,
        folder: Path,
        *,
        state: TrainerState | None,
        texts: Mapping[str, str] | None = None,
    ) -> None:
        """Write, or begin to write, a checkpoint to `folder`, which must not exist.

        Args:
            state: of the run; followers have none.
            texts: more files, by name.

        Raises:
            CheckpointError: it, or one before it, could not be written (a full disk, say);
                nothing is left behind.
        """
        import torch

        from dgpo_cli.engine.optimizers import moments_of, saved_state

        policy, optimizer, sharded = self._policy, self._optimizer, self._ranks.collective
        rng = rng_state()
        of_ranks = self._ranks.gather(rng) if self._ranks.count > 1 else None
        if not (sharded or self._ranks.leads):
            return
        optimizer_state = saved_state(optimizer, moments=self._shards is None)
        trainer: dict[str, Any] = {"optimizer": optimizer_state, "rng": rng}
        if of_ranks is not None:
            trainer["ranks"] = of_ranks
        names = {id(p): name for name, p in policy.trainable()}

        def rest(temporary: Path) -> None:
            assert state is not None
            torch.save(trainer, temporary / OPTIMIZER)
            (temporary / STATE).write_text(encoded(STATE_FORMAT.dump(state)) + "\n")
            for name, text in (texts or {}).items():
                (temporary / name).write_text(text, encoding="utf-8")

        if self._shards is not None:
            trainer["names"] = [
                names[id(p)] for group in optimizer.param_groups for p in group["params"]
            ]

            def beside_shards(temporary: Path) -> None:
                _save_without_weights(policy, temporary)
                rest(temporary)

            self._shards.start(
                folder,
                model=policy.model,
                moments=moments_of(optimizer, names=names),
                rest=beside_shards,
            )
            return
        adapter = policy.gathered_adapter() if sharded else None
        if not self._ranks.leads:
            return
        with atomic_folder(folder) as temporary:
            policy.save(temporary, adapter=adapter)
            rest(temporary)
            write_digests(temporary)

    def wait(self) -> None:
        """Wait until a checkpoint that was begun is complete.

        Raises:
            CheckpointError: it could not be written; nothing of it is left.
        """
        if self._shards is not None:
            self._shards.wait()


def _save_without_weights(policy: Policy, folder: Path) -> None:
    """Write everything that transformers writes of a model but its weights."""
    from dgpo_cli.parallel.sharding import root_of

    root: Any = root_of(policy.model)
    root.save_pretrained(str(folder), state_dict={})
    for path in folder.glob("*.safetensors*"):
        path.unlink()
    policy.tokenizer.save_pretrained(str(folder))


def save_checkpoint(
    folder: Path,
    *,
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    state: TrainerState,
    texts: Mapping[str, str] | None = None,
) -> None:
    """Write a checkpoint of a policy on one device to `folder`; see CheckpointWriter.save."""
    CheckpointWriter(policy, optimizer).save(folder, state=state, texts=texts)


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


def load_trainer(folder: Path, *, optimizer: torch.optim.Optimizer, ranks: Ranks = ALONE) -> None:
    """Restore the optimiser and every random generator from a checkpoint.

    Each rank reads its own rows of the moments. A rank more than wrote it keeps its generators.

    Raises:
        CheckpointError: the file is missing, broken or of another model.
    """
    import torch

    from dgpo_cli.engine.optimizers import restore_state

    try:
        # weights_only: a checkpoint from elsewhere must not be able to run code.
        # mmap: a rank reads no more of it than its rows.
        saved = torch.load(
            folder / OPTIMIZER, map_location="cpu", weights_only=True, mmap=ranks.collective
        )
        state = saved["optimizer"]
        if ranks.collective or "names" in saved:
            _take_moments(folder, state, names=saved.get("names"), optimizer=optimizer)
        restore_state(optimizer, state)
        of_ranks = saved.get("ranks") or [saved["rng"]]
        if ranks.number < len(of_ranks):
            set_rng_state(of_ranks[ranks.number])
    except _UNREADABLE as error:
        reason = str(error).partition("\n")[0]  # torch's messages run over many lines
        reason = f"{type(error).__name__}: {reason}" if reason else type(error).__name__
        raise CheckpointError(f"{folder / OPTIMIZER}: cannot be resumed from: {reason}") from error


def _take_moments(
    folder: Path, state: Any, *, names: Sequence[str] | None, optimizer: torch.optim.Optimizer
) -> None:
    """Put the moments of every parameter, or this rank's rows of them, into a loaded state.

    names: of the parameters whose moments are in files of their own.
    """
    from dgpo_cli.parallel.shard_checkpoint import load_moments, rows_like

    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if names is None:
        for index, own in state["state"].items():
            like = parameters[index]
            own.update({key: rows_like(value, like) for key, value in own.items()})
        return
    moments = load_moments(folder, dict(zip(names, parameters, strict=True)))
    for index, name in enumerate(names):
        if index in state["state"]:
            state["state"][index] |= moments[name]


def rng_state() -> dict[str, Any]:
    """Return the states of Python's, NumPy's and torch's generators, as plain data."""
    import numpy as np
    import torch

    kind, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": (kind, [int(key) for key in keys], position, has_gauss, gauss),
        "torch": torch.get_rng_state(),
        # Of the policy's device, which is this thread's.
        "cuda": [torch.cuda.get_rng_state()] if torch.cuda.is_initialized() else [],
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
    states = state["cuda"]
    if states and torch.cuda.is_initialized():
        device = torch.cuda.current_device()
        # Earlier versions stored the generators of all devices.
        torch.cuda.set_rng_state(states[device if device < len(states) else 0])
