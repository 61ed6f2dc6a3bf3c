"""Fetches one file of a Hugging Face dataset at a pinned commit, and verifies it.

huggingface_hub keeps the cache, which is used without a network too.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dgpo_cli.core.errors import BackendError, DataError
from dgpo_cli.core.events import NOBODY, Observer, phase, tell
from dgpo_cli.hub.calls import TIMEOUT_S, ask, endpoint, given_endpoint, probe

DATA_SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a dataset on the hub; `revision` is a commit, 40 hexadecimal digits.

    instead: the alternative to the hub that errors name.
    """

    dataset: str
    revision: str
    name: str
    instead: str = "pass a copy with --data FILE"

    def __str__(self) -> str:
        return f"{self.name} of {self.dataset} at {self.revision[:8]}"


def fetch(file: HubFile, *, observer: Observer = NOBODY) -> tuple[Path, tuple[str, ...]]:
    """Return the path of the file in the cache, downloaded if it is missing, and notes.

    HF_ENDPOINT, HF_TOKEN, HF_HUB_CACHE and HF_HUB_OFFLINE work as in huggingface_hub. The file,
    cached or new, is compared with the hub's checksum; one that differs is removed and fetched
    again once. If the dataset lacks the file but has exactly one other data file, that is used.

    Raises:
        BackendError: the hub cannot be reached, or refuses the file.
        DataError: the file that arrives does not have the hub's checksum.
    """
    from huggingface_hub.errors import RemoteEntryNotFoundError

    try:
        return _verified(file, observer)
    except BackendError as error:
        if not isinstance(error.__cause__, RemoteEntryNotFoundError):
            raise
        other = _only_data_file(file)
        if other is None:
            raise
    path, notes = _verified(other, observer)
    return path, (f"{file.dataset} has no {file.name}; {other.name} is read instead", *notes)


def _verified(file: HubFile, observer: Observer) -> tuple[Path, tuple[str, ...]]:
    path = _download(file, observer)
    if (fault := _fault(path)) is None:
        return path, _unproven(path, file)
    _remove(path)
    path = _download(file, observer, again=fault)
    if (second := _fault(path)) is None:
        return path, (f"{file} was damaged ({fault}) and has been fetched again",)
    _remove(path)
    raise DataError(
        f"{file} is damaged, and again after a second download ({second}); {endpoint()} or "
        f"something before it alters files: try another HF_ENDPOINT, or {file.instead}"
    )


def _download(file: HubFile, observer: Observer, *, again: str | None = None) -> Path:
    """Get the file from the cache or the hub; `again`: the fault of the cached one."""
    from huggingface_hub import hf_hub_download

    def call() -> Path:
        with ExitStack() as stack:
            if again is not None or cached(file) is None:
                tell(observer, f"{file}: asking {endpoint()}")
                probe(lambda: _ask_for(file))
            return Path(
                hf_hub_download(
                    file.dataset,
                    file.name,
                    repo_type="dataset",
                    revision=file.revision,
                    endpoint=given_endpoint(),
                    # Also past a damaged blob that huggingface_hub shares between datasets.
                    force_download=again is not None,
                    tqdm_class=_bar_class(observer, file.name, stack),
                )
            )

    return ask(call, what=str(file), instead=file.instead, damaged=again)


def cached(file: HubFile) -> Path | None:
    """Return the path of the file in the cache, None if it is missing; ask nobody."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(
        file.dataset, file.name, revision=file.revision, repo_type="dataset"
    )
    return Path(found) if isinstance(found, str) else None


def _ask_for(file: HubFile) -> None:
    """Ask the hub for the file's metadata: without a network this fails at once.

    hf_hub_download would try for half a minute.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    url = hf_hub_url(
        file.dataset,
        file.name,
        repo_type="dataset",
        revision=file.revision,
        endpoint=given_endpoint(),
    )
    get_hf_file_metadata(url, timeout=TIMEOUT_S, endpoint=given_endpoint())


def list_files(dataset: str, revision: str, *, instead: str) -> list[str]:
    """Return the names of all files of a dataset at a commit, in the hub's order.

    Raises:
        BackendError: the hub cannot be reached, or refuses the list.
    """
    from huggingface_hub import HfApi

    api = HfApi(endpoint=given_endpoint())

    def names() -> list[str]:
        probe(lambda: api.dataset_info(dataset, revision=revision, timeout=TIMEOUT_S))
        return list(api.list_repo_files(dataset, repo_type="dataset", revision=revision))

    return ask(
        names,
        what=f"the list of files of {dataset} at {revision[:8]}",
        instead=instead,
    )


def _only_data_file(file: HubFile) -> HubFile | None:
    """Return the only data file of the dataset, None if there are none or several."""
    names = list_files(file.dataset, file.revision, instead=file.instead)
    found = [name for name in names if name.lower().endswith(DATA_SUFFIXES)]
    return replace(file, name=found[0]) if len(found) == 1 else None


def _fault(path: Path) -> str | None:
    """Compare a cached file with the checksum that names its blob; None if they agree.

    The hub's ETag, which huggingface_hub names blobs by, is a SHA-256 for large files and git's
    SHA-1 of a blob for others. Other servers may give the plain SHA-1.
    """
    expected = _checksum(path)
    if expected is None:
        return None
    size = path.stat().st_size
    if len(expected) == 64:
        found = {_digest(path, "sha256")}
    else:
        found = {_digest(path, "sha1", start=start) for start in (b"blob %d\0" % size, b"")}
    if expected in found:
        return None
    return f"{size} bytes, checksum {min(found)[:8]}…, announced {expected[:8]}…"


def _digest(path: Path, kind: str, *, start: bytes = b"") -> str:
    digest = hashlib.new(kind, start)
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: digest).hexdigest()


def _checksum(path: Path) -> str | None:
    """Return the hub's digest, None if the cache does not have it."""
    if not path.is_symlink():  # a disk without links: the cache has plain files
        return None
    name = os.path.basename(os.readlink(path)).lower()
    is_digest = len(name) in (40, 64) and set(name) <= set("0123456789abcdef")
    return name if is_digest else None


def _unproven(path: Path, file: HubFile) -> tuple[str, ...]:
    if _checksum(path) is not None:
        return ()
    return (f"{file}: not verified, the hub gave no checksum",)


def _remove(path: Path) -> None:
    """Remove the file from the cache: the link of the commit, and its blob."""
    blob = path.parent / os.readlink(path)
    path.unlink()
    blob.unlink(missing_ok=True)


def _bar_class(observer: Observer, name: str, stack: ExitStack) -> Any:
    """Return a class that huggingface_hub uses as tqdm: its bars are phases of `observer`."""

    class Bar:
        def __init__(self, *, total: int | None = None, **_: object) -> None:
            self.n = 0
            self.total = total or 0
            self._advance = stack.enter_context(
                phase(observer, f"download {name}", total=self.total, unit="B")
            )

        def update(self, amount: int | None = 1) -> None:
            self.n += amount or 0
            self._advance(amount or 0)

        def update_transfer(self, amount: int) -> None:
            """Ignore bytes on the wire: those of the file count."""

        def set_postfix_str(self, *_: object, **__: object) -> None:
            """Ignore rates: the observer computes them."""

        set_transfer_postfix_str = refresh = close = set_postfix_str

        def __enter__(self) -> Bar:
            return self

        def __exit__(self, *_: object) -> None:
            """The phase ends with the download."""

    return Bar
