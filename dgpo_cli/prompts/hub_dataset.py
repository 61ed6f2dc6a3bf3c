"""The data files of a split of a Hugging Face dataset, at one commit.

Parquet, JSONL, JSON and CSV files are read directly; no code of the dataset is run.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from dgpo_cli.core.errors import BackendError, ConfigError
from dgpo_cli.core.events import NOBODY, Observer
from dgpo_cli.hub.calls import (
    TIMEOUT_S,
    Unreached,
    ask,
    given_endpoint,
    go_offline,
    probe,
)
from dgpo_cli.hub.files import DATA_SUFFIXES, HubFile, fetch, list_files
from dgpo_cli.prompts.settings import HubPrompts

_INSTEAD = "download the data and set prompts.kind=file prompts.path=FILE"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_DESCRIPTIONS = ("dataset_info.json", "dataset_infos.json")  # not data
_FORMATS = (".parquet", ".jsonl", ".json", ".csv")  # the first wins if a split is in several
_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_SHOWN = 8  # names that an error lists


@dataclass(frozen=True, slots=True)
class HubData:
    """Cached files of a split. names: in the repository, in the order of `paths`."""

    names: tuple[str, ...]
    paths: tuple[Path, ...]
    notes: tuple[str, ...]


def is_commit(revision: str | None) -> bool:
    """Whether `revision` is a full commit hash."""
    return revision is not None and _COMMIT.fullmatch(revision) is not None


def resolve_revision(
    dataset: str,
    revision: str | None,
    *,
    instead: str = f"set prompts.revision to a commit that is in the cache, or {_INSTEAD}",
    fixed: str = "prompts.revision is set to it",
) -> tuple[str, tuple[str, ...]]:
    """Return the present commit of a branch, a tag or None (the default branch), and notes.

    If the hub does not answer, the only commit in the cache is used.
    instead: the alternative to the hub that errors name. fixed: the end of the note.

    Raises:
        BackendError: the hub does not answer, and the cache does not have exactly one commit.
    """
    from huggingface_hub import HfApi

    if is_commit(revision):
        return str(revision), ()
    name = revision or "main"
    api = HfApi(endpoint=given_endpoint())
    try:
        found = ask(
            lambda: (
                probe(lambda: api.dataset_info(dataset, revision=revision, timeout=TIMEOUT_S)).sha
            ),
            what=f"{dataset} at {name}",
            instead=instead,
        )
    except BackendError as error:
        commits = [path.name for path in _snapshots(dataset) if is_commit(path.name)]
        if len(commits) != 1:
            raise
        _stop_asking(error)
        note = f"{dataset}: the hub does not answer; using the cached commit {commits[0]}"
        return commits[0], (f"{note} ({error})",)
    assert found is not None
    return found, (f"{dataset}: {name} is commit {found}; {fixed}",)


def fetch_split(settings: HubPrompts, *, observer: Observer = NOBODY) -> HubData:
    """Return the files of settings.split at settings.revision, a commit.

    Missing ones are downloaded and compared with the hub's checksums.

    Raises:
        BackendError: the hub cannot be reached, or refuses a file.
        ConfigError: no file, or files of several subsets, fit the settings.
        DataError: a file that arrives does not have the hub's checksum.
    """
    assert settings.revision is not None
    names, notes = _list(settings.dataset, settings.revision)
    chosen, more = choose_files(names, split=settings.split, pattern=settings.files)
    paths = []
    for name in chosen:
        file = HubFile(settings.dataset, settings.revision, name, instead=_INSTEAD)
        path, said = fetch(file, observer=observer)
        paths.append(path)
        notes += said
    return HubData(names=chosen, paths=tuple(paths), notes=(*notes, *more))


def choose_files(
    names: Sequence[str], *, split: str, pattern: str | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the files of a split among those of a repository, sorted, and notes.

    pattern: a shell pattern of whole names. Without it, a file belongs to a split if its path has
    the split's name as a word; if no file names a split, all are "train". A split in two formats
    is read in one; several folders are ambiguous.

    Source: https://huggingface.co/docs/hub/datasets-file-names-and-splits; the section `configs`
    of a dataset's card is not read.

    Raises:
        ConfigError: no file fits, or the choice is ambiguous.
    """
    data = sorted(
        name
        for name in names
        if name.lower().endswith(DATA_SUFFIXES) and PurePosixPath(name).name not in _DESCRIPTIONS
    )
    if pattern is not None:
        chosen = [name for name in data if fnmatchcase(name, pattern)]
        if not chosen:
            raise ConfigError(f"prompts.files={pattern!r}: fits no data file; {_has(data)}")
    else:
        chosen = _of_split(data, split)
        folders = sorted({str(PurePosixPath(name).parent) for name in chosen})
        if len(folders) > 1:
            raise ConfigError(
                f"prompts.split={split!r}: has files in {len(folders)} folders "
                f"({', '.join(folders[:_SHOWN])}), which may be the same data several times; "
                f"set prompts.files='{folders[0]}/*' or another pattern"
            )
    formats = {PurePosixPath(name).suffix.lower() for name in chosen}
    if len(formats) == 1:
        return tuple(chosen), ()
    best = next(suffix for suffix in _FORMATS if suffix in formats)
    kept = tuple(name for name in chosen if name.lower().endswith(best))
    return kept, (f"of {len(chosen)} data files the {len(kept)} in {best[1:]} are read",)


def _of_split(data: Sequence[str], split: str) -> list[str]:
    words = _WORDS.get(split, (split,))
    chosen = [name for name in data if _names(name, words)]
    known = [word for group in _WORDS.values() for word in group]
    if not chosen and split == "train" and not any(_names(name, known) for name in data):
        chosen = list(data)
    if not chosen:
        raise ConfigError(
            f"prompts.split={split!r}: no data file is named after it; {_has(data)}; "
            "set prompts.split, or prompts.files"
        )
    return chosen


def _names(name: str, words: Sequence[str]) -> bool:
    """Whether a path contains one of `words`, not next to letters."""
    joined = "|".join(map(re.escape, words))
    return re.search(rf"(?<![^\W\d_])(?:{joined})(?![^\W\d_])", name, re.IGNORECASE) is not None


def _has(data: Sequence[str]) -> str:
    more = f" and {len(data) - _SHOWN} more" if len(data) > _SHOWN else ""
    return f"the dataset has {', '.join(data[:_SHOWN]) or 'none that dgpo reads'}{more}"


def _list(dataset: str, revision: str) -> tuple[list[str], tuple[str, ...]]:
    """Return the names of all files at a commit; those in the cache if the hub does not answer."""
    try:
        return list_files(dataset, revision, instead=_INSTEAD), ()
    except BackendError as error:
        for folder in _snapshots(dataset):
            if folder.name == revision:
                _stop_asking(error)
                names = [str(path.relative_to(folder)) for path in folder.rglob("*")]
                note = f"the hub does not answer; using the cached files ({error})"
                return names, (f"{dataset}: {note}",)
        raise


def _stop_asking(error: BackendError) -> None:
    """Stop asking a hub that does not answer: each request would wait as long."""
    if isinstance(error.__cause__, Unreached):
        go_offline(error.__cause__)


def _snapshots(dataset: str) -> list[Path]:
    """Return the folders of the cached commits of a dataset."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    name = repo_folder_name(repo_id=dataset, repo_type="dataset")
    folder = Path(constants.HF_HUB_CACHE) / name / "snapshots"
    return sorted(folder.iterdir()) if folder.is_dir() else []
