"""Writes a checkpoint of a sharded model: every rank a part of it, while training goes on.

The weights are files as transformers writes them, each by one rank; a rank gathers whole tensors
with the others and copies its own to the host's memory. The optimiser's moments are a distributed
checkpoint of PyTorch in `optimizer/`, in safetensors files, whose other format has a pickle that
may run code. The leader writes everything else, and renames the folder once all parts are on the
disk.
"""

from __future__ import annotations

import json
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import (
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.tensor import DTensor

from dgpo_cli.core import io
from dgpo_cli.core.digests import MOMENTS, digest_of, write_digests
from dgpo_cli.core.errors import CheckpointError
from dgpo_cli.parallel.gathered import Gathered, Unit
from dgpo_cli.parallel.ranks import Ranks
from dgpo_cli.parallel.sharding import local_of
from dgpo_cli.parallel.weights import rows_of

_LARGEST = 5 * 10**9  # bytes of a file of weights
_BUFFER = 10**8  # bytes of a file of moments, which is copied in memory while it is written
_METADATA = {"format": "pt"}


@dataclass(frozen=True, slots=True)
class Part:
    """A file of a checkpoint: what goes into it, and the rank that writes it."""

    name: str
    units: tuple[Unit, ...]
    owner: int


def parts_of(units: Sequence[Unit], *, ranks: int) -> list[Part]:
    """Cut the weights, in their order, into files of much the same size, equally many a rank."""
    total = sum(unit.nbytes for unit in units)
    count = ranks * -(-total // (ranks * _LARGEST))
    files: list[list[Unit]] = [[] for _ in range(count)]
    before = 0
    for unit in units:
        files[(2 * before + unit.nbytes) * count // (2 * total)].append(unit)
        before += unit.nbytes
    full = [own for own in files if own]
    several = len(full) > 1
    return [
        Part(
            f"model-{n:05d}-of-{len(full):05d}.safetensors" if several else "model.safetensors",
            tuple(own),
            owner=(n - 1) % ranks,
        )
        for n, own in enumerate(full, 1)
    ]


class ShardWriter:
    """Writes checkpoints of a sharded model, one after the other, each in a thread of its own."""

    def __init__(self, ranks: Ranks) -> None:
        """Collective."""
        self._ranks = ranks
        self._channel = ranks.channel()
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is being written."""
        return self._thread is not None and self._thread.is_alive()

    def start(
        self,
        folder: Path,
        *,
        model: nn.Module,
        moments: Mapping[str, Tensor],
        rest: Callable[[Path], None],
    ) -> None:
        """Copy the model and the moments as they are now, and begin to write them to `folder`.

        Collective; it waits until the checkpoint before is written.

        moments: sharded tensors, by the name under which `load_moments` finds them.
        rest: writes the other files; the leader calls it.

        Raises:
            CheckpointError: the leader could not begin, or the checkpoint before was not written.
        """
        self.wait()
        gathered = Gathered(model)
        parts = parts_of(gathered.units, ranks=self._ranks.count)
        if not self._begin(folder, parts, rest=rest):
            return  # the leader raised
        content = _own_weights(gathered, parts, rank=self._ranks.number)
        writer = HuggingFaceStorageWriter(
            str(io.partial_of(folder) / MOMENTS), _files_of(moments), save_distributed=True
        )
        copies = writer.stage(dict(moments))
        self._thread = threading.Thread(
            target=self._write,
            args=(folder, content, writer, copies),
            name="checkpoint",
            daemon=True,
        )
        self._thread.start()

    def wait(self) -> None:
        """Wait until a begun checkpoint is written.

        Raises:
            CheckpointError: it was not (raised by the leader).
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _begin(self, folder: Path, parts: Sequence[Part], *, rest: Callable[[Path], None]) -> bool:
        failure: BaseException | None = None
        if self._ranks.leads:
            try:
                temporary = io.begin_folder(folder)
                (temporary / MOMENTS).mkdir()
                rest(temporary)
                if len(parts) > 1:
                    _write_index(temporary, parts)
            except Exception as error:
                failure = io.drop_folder(folder, error)
        if not self._ranks.share(failure is None):
            if failure is not None:
                raise failure
            return False
        seen = self._ranks.gather((io.partial_of(folder) / MOMENTS).is_dir())
        if all(seen):
            return True
        if self._ranks.leads:
            where = f"{folder}: rank {seen.index(False)} does not see this folder"
            unshared = CheckpointError(f"{where}; give an --out that all machines share")
            raise io.drop_folder(folder, unshared)
        return False

    def _write(
        self,
        folder: Path,
        content: Mapping[str, Mapping[str, Tensor]],
        writer: HuggingFaceStorageWriter,
        moments: dict[str, Any],
    ) -> None:
        failure: BaseException | None = None
        digests: dict[str, str] = {}
        temporary, number = io.partial_of(folder), self._ranks.number
        try:
            save(moments, storage_writer=writer, process_group=self._channel.group)
            for path in (temporary / MOMENTS).glob(f"shard-{number + 1:05d}-*"):
                digests[f"{MOMENTS}/{path.name}"] = digest_of(path)
            for name, tensors in content.items():
                save_file(dict(tensors), temporary / name, metadata=_METADATA)
                digests[name] = _settled(temporary / name)
        except CheckpointException as error:  # every rank gets what any has met
            failure = error.failures.get(number, (None,))[0]
        except BaseException as error:
            failure = error
        try:
            self._finish(folder, digests, failure)
        except BaseException as error:  # of this rank, or another one is gone
            if self._ranks.leads:
                self._failure = io.drop_folder(folder, error)

    def _finish(
        self, folder: Path, digests: Mapping[str, str], failure: BaseException | None
    ) -> None:
        """Once all ranks have written their parts, let the folder appear; the leader does."""
        reason = None if failure is None else f"{type(failure).__name__}: {failure}"
        reports = self._channel.gather((digests, reason))
        if reports is None:
            return
        if failure is not None:
            raise failure
        others = [f"rank {n}: {text}" for n, (_, text) in enumerate(reports) if text]
        if others:
            raise OSError(others[0])
        known = {name: digest for found, _ in reports for name, digest in found.items()}
        write_digests(io.partial_of(folder), known=known)
        io.complete_folder(folder)


def _settled(path: Path) -> str:
    """Flush a written file to the disk; return its digest."""
    io.sync(path)
    return digest_of(path)


def _own_weights(
    gathered: Gathered, parts: Sequence[Part], *, rank: int
) -> dict[str, dict[str, Tensor]]:
    """Gather all tensors with the other ranks; return copies of those in this rank's files."""
    found: dict[str, dict[str, Tensor]] = {}
    for part in parts:
        for unit in part.units:
            weights = gathered.gather(unit)
            if part.owner != rank:
                continue
            tensors = gathered.converted(unit, weights)
            found.setdefault(part.name, {}).update(
                {n: t.contiguous().to("cpu", copy=True) for n, t in tensors.items()}
            )
    return found


def _write_index(folder: Path, parts: Sequence[Part]) -> None:
    named = [(each, part.name) for part in parts for unit in part.units for each in unit.tensors]
    index = {
        "metadata": {"total_size": sum(each.nbytes for each, _ in named)},
        "weight_map": {each.name: name for each, name in sorted(named, key=lambda p: p[0].name)},
    }
    text = json.dumps(index, indent=2) + "\n"
    (folder / "model.safetensors.index.json").write_text(text, encoding="utf-8")


def _files_of(moments: Mapping[str, Tensor]) -> dict[str, int]:
    """Return the number of the file that has a rank's rows of each tensor."""
    sizes = accumulate(local_of(tensor).nbytes for tensor in moments.values())
    return {name: 1 + size // _BUFFER for name, size in zip(moments, sizes, strict=True)}


def load_moments(folder: Path, parameters: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Return the moments of each parameter, this rank's rows of them if it is sharded.

    Raises:
        ValueError, LookupError: they are of other parameters, or rows are missing.
    """
    reader = HuggingFaceStorageReader(str(folder / MOMENTS))
    found: dict[str, dict[str, Tensor]] = {name: {} for name in parameters}
    into: dict[str, Any] = {}
    described: Mapping[str, Any] = reader.read_metadata().state_dict_metadata
    for key, stored in described.items():
        name, _, moment = key.rpartition("/")
        if sum(chunk.sizes.numel() for chunk in stored.chunks) != stored.size.numel():
            raise ValueError(f"rows of {name} are missing")
        into[key] = torch.empty_like(parameters[name], dtype=stored.properties.dtype)
        found[name][moment] = into[key]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # each rank reads alone, which the library doubts
            load(into, storage_reader=reader, no_dist=True)
    except CheckpointException as error:
        raise ValueError(str(error.failures[0][0])) from error
    return found


def rows_like(whole: Any, like: Tensor) -> Any:
    """Return this rank's rows of a whole moment, if its parameter is sharded; all else as it is."""
    if not isinstance(whole, Tensor) or whole.shape != like.shape or not isinstance(like, DTensor):
        return whole
    start, stop = rows_of(like)
    return DTensor.from_local(
        whole[start:stop].to(local_of(like).device, copy=True),
        like.device_mesh,
        like.placements,
        run_check=False,
        shape=like.shape,
        stride=like.stride(),
    )
