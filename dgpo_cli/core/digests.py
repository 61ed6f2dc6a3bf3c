"""Digests of a checkpoint's files, as `sha256sum -c SHA256SUMS` reads them, and their check.

A file system or a copy can do damage that nobody sees: a weight with a flipped bit still loads.
Checkpoints of versions without digests are only checked for missing and truncated files.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

from dgpo_cli.core.errors import CheckpointError, DgpoError, UnreadableError

SUMS = "SHA256SUMS"
STATE = "state.json"
OPTIMIZER = "trainer.pt"  # the largest file, and not part of the model
MOMENTS = "optimizer"  # the folder of a sharded optimiser's state
_THREADS = 4  # hashing releases the interpreter's lock
_GONE = (FileNotFoundError, NotADirectoryError, IsADirectoryError)  # errors of missing files
_KEPT = 4096  # digests that are remembered


def write_digests(folder: Path, *, known: Mapping[str, str] | None = None) -> None:
    """Write SHA256SUMS over every file that is in `folder`.

    known: digests by name that need no reading.
    """
    found = dict(known or {})
    names = sorted(str(path.relative_to(folder)) for path in _files(folder))
    unread = [name for name in names if name not in found]
    with ThreadPoolExecutor(_THREADS) as pool:
        found |= zip(unread, pool.map(lambda name: digest_of(folder / name), unread), strict=True)
    lines = [f"{found[name]}  {name}\n" for name in names]
    (folder / SUMS).write_text("".join(lines), encoding="utf-8")


def has_digests(folder: Path) -> bool:
    try:
        (folder / SUMS).stat()
    except OSError as error:
        if isinstance(error, _GONE):
            return False
        raise cannot_read(folder / SUMS, error) from error
    return True


def cannot_read(path: Path, error: OSError) -> DgpoError:
    """Return the error for a file of a checkpoint that was not read.

    Only a missing file or wrong content is damage. Access, disk and mounts can be repaired.
    """
    if isinstance(error, _GONE):
        return CheckpointError(f"{path}: cannot be read: {error}")
    reason = (error.strerror or str(error)).lower()
    return UnreadableError(
        f"{path}: cannot be read: {reason}; make it readable and run the command again"
    )


def check_digests(folder: Path, *, optimizer: bool = True) -> None:
    """Compare the files of a folder with its SHA256SUMS.

    optimizer: read the optimiser's state too, and not only check that it exists.

    Raises:
        CheckpointError: a file is missing, empty or not what was written; the message names it.
        UnreadableError: the system does not let us read one.
    """
    expected = _read_sums(folder)
    for name in expected:
        _check_there(folder / name)
    read = [name for name in expected if optimizer or not _of_optimizer(name)]
    with ThreadPoolExecutor(_THREADS) as pool:
        found = list(pool.map(lambda name: _digest_now(folder / name), read))
    for name, digest in zip(read, found, strict=True):
        if digest != expected[name]:
            raise CheckpointError(
                f"{folder / name}: has changed since it was written (its SHA-256 is not the one in "
                f"{SUMS})"
            )


def _of_optimizer(name: str) -> bool:
    return name == OPTIMIZER or name.startswith(f"{MOMENTS}/")


def check_loaded(folder: Path) -> None:
    """Check the files of a model before it is loaded, if they are a checkpoint's.

    Raises:
        CheckpointError, UnreadableError: as `check_digests`; names the other checkpoints.
    """
    if not (has_digests(folder) and (folder / STATE).is_file()):
        return
    try:
        check_digests(folder, optimizer=False)
    except CheckpointError as error:
        beside = sorted(folder.absolute().parent.glob("step-*[0-9]"))
        others = [path.name for path in beside if path.name != folder.name]
        fix = "give an undamaged copy of it"
        if others:
            fix = f"give another checkpoint; in the same folder: {', '.join(others)}"
        raise CheckpointError(f"{error}; {fix}") from error


def check_whole(folder: Path) -> None:
    """Check for missing and truncated files, if there are no digests.

    Raises:
        CheckpointError: see above.
        UnreadableError: the system does not let us read one.
    """
    _check_there(folder / OPTIMIZER)
    if not zipfile.is_zipfile(folder / OPTIMIZER):
        raise CheckpointError(f"{folder / OPTIMIZER}: is truncated or not a torch file")
    for path in _weights(folder):
        _check_there(path)
        _check_safetensors(path)


def _weights(folder: Path) -> Iterator[Path]:
    """Yield the files that must have the weights."""
    index = folder / "model.safetensors.index.json"
    if (folder / "adapter_config.json").exists():
        yield folder / "adapter_model.safetensors"
    elif index.exists():
        try:
            yield from {
                folder / name for name in json.loads(index.read_text())["weight_map"].values()
            }
        except OSError as error:
            raise cannot_read(index, error) from error
        except (ValueError, LookupError, AttributeError, TypeError) as error:
            raise CheckpointError(f"{index}: cannot be read: {error}") from error
    else:
        yield folder / "config.json"
        yield folder / "model.safetensors"


def _check_there(path: Path) -> None:
    """Read the first byte: the loader may not report why it fails."""
    try:
        with path.open("rb") as file:
            first = file.read(1)
    except _GONE as error:
        raise CheckpointError(f"{path}: is missing") from error
    except OSError as error:
        raise cannot_read(path, error) from error
    if not first:
        raise CheckpointError(f"{path}: is empty")


def _check_safetensors(path: Path) -> None:
    from safetensors import SafetensorError, safe_open

    if path.suffix != ".safetensors":
        return
    try:
        with safe_open(str(path), framework="np") as file:
            file.keys()
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path}: is truncated or not a safetensors file ({error})"
        ) from error


def _read_sums(folder: Path) -> dict[str, str]:
    path = folder / SUMS
    _check_there(path)
    try:
        pairs = [line.split("  ", 1) for line in path.read_text(encoding="utf-8").splitlines()]
        expected = {name: digest for digest, name in pairs}
    except OSError as error:
        raise cannot_read(path, error) from error
    except ValueError as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    if any(len(digest) != hashlib.sha256().digest_size * 2 for digest in expected.values()):
        raise CheckpointError(f"{path}: has a line without a digest")
    return expected


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file() and path.name != SUMS)


def _digest_now(path: Path) -> str:
    try:
        return digest_of(path)
    except OSError as error:
        raise cannot_read(path, error) from error


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file; an unchanged one is not read again."""
    found = path.stat()
    return _digest_of(path.resolve(), found.st_size, found.st_mtime_ns, found.st_ino)


@lru_cache(maxsize=_KEPT)
def _digest_of(path: Path, size: int, mtime_ns: int, inode: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
