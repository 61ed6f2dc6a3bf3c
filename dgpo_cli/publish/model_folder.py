"""Puts scores into a model's files: README.md's metadata and `.eval_results`, beside what is there.

Only results of dgpo for the same benchmark are replaced. What others wrote keeps its meaning, and
of README.md everything but the model-index keeps its bytes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from dgpo_cli.core import io
from dgpo_cli.core.digests import has_digests
from dgpo_cli.core.errors import ConfigError, DataError
from dgpo_cli.core.events import Observer, tell
from dgpo_cli.core.text import markdown_plain
from dgpo_cli.prompts.manifests import Leaderboard
from dgpo_cli.publish.scores import (
    MARK,
    Score,
    entry,
    is_ours,
    leaderboard,
    read_score,
    results,
)
from dgpo_cli.publish.weights import check_weights, has_weights, unknown

README = "README.md"
EVAL_RESULTS = ".eval_results"
_OF_MODELS = (README, "config.json", "adapter_config.json")
# The block of metadata, as the hub and huggingface_hub find it.
_BLOCK = re.compile(r"^(\s*---(?:\r\n|\r|\n))([\S\s]*?)((?:\r\n|\r|\n)---[ \t]*(?:\r\n|\n|$))")
# A key at the margin, and all lines up to the next one; a list may stand at the margin, too.
_INDEX = re.compile(r"^model-index[ \t]*:.*(?:\n(?:[ \t-].*|[ \t]*))*(?:\n|$)", re.MULTILINE)
_KEY = "model-index"


@dataclass(frozen=True, slots=True)
class Published:
    """The files that were written, and what a reader should know of them."""

    files: tuple[Path, ...]
    notes: tuple[str, ...]


def check(folder: Path) -> None:
    """Check that scores can be written into `folder`, before they are measured.

    Raises:
        ConfigError: it is not the folder of a model. DataError: its files are broken.
    """
    if not any((folder / name).is_file() for name in _OF_MODELS):
        fault = "has no README.md or config.json" if folder.is_dir() else "no such folder"
        raise ConfigError(f"--publish {folder}: {fault}; name the folder of a model")
    if has_digests(folder):
        raise ConfigError(
            f"--publish {folder}: is a checkpoint, whose files must not change; name a folder that "
            "dgpo merge wrote, or use dgpo push --eval"
        )
    with_results(_text(folder / README), (), title="", where=str(folder / README))
    for file in _result_files(folder):
        _entries(_text(file), where=str(file))


def publish_evaluations(folder: Path, evaluations: Sequence[Path], *, observer: Observer) -> None:
    """Write the scores of finished evaluations into the files of a model.

    Raises:
        ConfigError: an evaluation is of other weights than the folder's.
        DataError: a file that is there is broken; nothing was written.
    """
    scores = []
    for path in evaluations:
        score = read_score(path)
        check_weights(path, score, [folder], flag=f"--publish {folder}:")
        if not has_weights(score):
            tell(observer, unknown(path))
        scores.append(score)
    found = publish(folder, scores)
    for note in found.notes:
        tell(observer, note)
    if found.files:
        tell(observer, f"scores written to {' and '.join(map(str, found.files))}")


def publish(
    folder: Path, scores: Sequence[Score], *, url: str | None = None, title: str = ""
) -> Published:
    """Write scores into the files of a model.

    url: of the model's repository on the hub, if it is known. title: the model's name, if it is
    not the folder's.

    Raises:
        DataError: a file that is there is broken; nothing was written.
    """
    readme = folder / README
    old = _text(readme)
    title = title or folder.resolve().name
    text = with_results(old, results(scores), title=title, where=str(readme))
    changed = {readme: text} if text != old else {}
    notes = [] if not old or _BLOCK.match(old) else [f"{readme}: had no metadata, and has some now"]
    for score in scores:
        place, reason = leaderboard(score)
        if place is None:
            notes.append(f"{reason}: its score is in the card only")
            continue
        new = _yaml_entry(score, place, url=url)
        file = _place(folder, new) or folder / EVAL_RESULTS / f"{MARK}-{score.name}.yaml"
        changed[file] = with_entry(changed.get(file, _text(file)), new, where=str(file))
    for file, text in changed.items():
        file.parent.mkdir(exist_ok=True)
        io.write(file, text.encode("utf-8"))
    return Published(tuple(changed), tuple(notes))


def with_results(text: str, new: Sequence[dict[str, Any]], *, title: str, where: str) -> str:
    """Return a card with these results of dgpo in its model-index, and nothing else changed.

    Raises:
        DataError: its metadata cannot be read.
    """
    block = _BLOCK.match(text)
    if block is None:
        body = text or f"# {markdown_plain(title)}\n"
        added = _dumped({_KEY: _merged([], new, title=title, where=where)})
        return f"---\n{added}---\n{body}" if new else text
    newline = "\r\n" if block[1].endswith("\r\n") else "\n"
    inside = block[2].replace("\r\n", "\n")
    metadata = _loaded(inside, where=where)
    if not isinstance(metadata, dict | None):
        raise DataError(f"{where}: its metadata is not a table of keys and values; mend it")
    metadata = metadata or {}
    index = _merged(metadata.get(_KEY) or [], new, title=title, where=where)
    if not new:
        return text
    inside = _with_index(inside, metadata, index).rstrip("\n").replace("\n", newline)
    return block[1] + inside + block[3] + text[block.end() :]


def foreign_results(text: str, *, where: str) -> list[dict[str, Any]]:
    """Return the results of a card's model-index that are not of dgpo.

    Raises:
        DataError: its metadata cannot be read.
    """
    block = _BLOCK.match(text)
    metadata = _loaded(block[2], where=where) if block else None
    index = metadata.get(_KEY) if isinstance(metadata, dict) else None
    _merged(index or [], (), title="", where=where)  # a check of its form
    return [each for model in index or [] for each in model["results"] if not is_ours(each)]


def keep_results(folder: Path, there: Callable[[str], str], *, repo: str) -> None:
    """Add to the files in `folder` what others wrote in the repository that they go to.

    there: returns the text of a file of the repository, "" if it has none.

    Raises:
        DataError: a file of the repository cannot be read.
    """
    readme = folder / README
    others = foreign_results(there(README), where=f"{README} of {repo}")
    text = with_results(_text(readme), others, title=PurePosixPath(repo).name, where=str(readme))
    io.write(readme, text.encode("utf-8"))
    for file in _result_files(folder):
        name = f"{EVAL_RESULTS}/{file.name}"
        kept = there(name)
        for new in _entries(_text(file), where=str(file)):
            kept = with_entry(kept, new, where=f"{name} of {repo}")
        io.write(file, kept.encode("utf-8"))


def _merged(
    index: Any, new: Sequence[dict[str, Any]], *, title: str, where: str
) -> list[dict[str, Any]]:
    """Return a model-index with `new` in place of older results of dgpo for the same benchmark."""
    listed = isinstance(index, list) and all(isinstance(each, dict) for each in index)
    if not listed or not all(isinstance(each.get("results"), list) for each in index):
        raise DataError(f"{where}: its model-index is not a list of models with results; mend it")
    replaced = [_benchmark(each) for each in new if is_ours(each)]
    models = [
        {
            **model,
            "results": [
                each
                for each in model["results"]
                if not (is_ours(each) and _benchmark(each) in replaced)
            ],
        }
        for model in index
    ] or [{"name": markdown_plain(title), "results": []}]
    models[0]["results"] += new
    return models


def _benchmark(result: dict[str, Any]) -> tuple[Any, Any]:
    dataset = result.get("dataset")
    found = dataset if isinstance(dataset, dict) else {}
    return found.get("type"), found.get("name")


def _with_index(text: str, metadata: dict[str, Any], index: list[dict[str, Any]]) -> str:
    """Return metadata with another model-index; the other lines stay as they are if they can."""
    added = _dumped({_KEY: index})
    whole = text if text.endswith("\n") or not text else f"{text}\n"
    at = _INDEX.search(whole)
    kept = whole + added if at is None else whole[: at.start()] + added + whole[at.end() :]
    wanted = {**metadata, _KEY: index}
    try:
        if _loaded(kept, where="") == wanted:
            return kept
    except DataError:
        pass
    return _dumped(wanted)  # written in a way of its own: anchors, or one line


def _yaml_entry(score: Score, place: Leaderboard, *, url: str | None) -> dict[str, Any]:
    from huggingface_hub import eval_result_entries_to_yaml

    return eval_result_entries_to_yaml([entry(score, place, url=url)])[0]


def with_entry(text: str, new: dict[str, Any], *, where: str) -> str:
    """Return a file of `.eval_results` with an entry in place of dgpo's older one.

    Raises:
        DataError: the file cannot be read.
    """
    kept = [each for each in _entries(text, where=where) if not _is_older(each, new)]
    return _dumped([*kept, new])


def _entries(text: str, *, where: str) -> list[dict[str, Any]]:
    from huggingface_hub import parse_eval_result_entries

    found = _loaded(text, where=where) or []
    try:
        parse_eval_result_entries(found)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(
            f"{where}: not a list of evaluation results ({type(error).__name__}: {error}); mend it"
        ) from error
    return list(found)


def _is_older(old: dict[str, Any], new: dict[str, Any]) -> bool:
    """Return whether an entry is one of dgpo on the same leaderboard."""
    mine = str(old.get("notes") or "").startswith(f"{MARK} ")
    same = all(old["dataset"].get(key) == new["dataset"][key] for key in ("id", "task_id"))
    return mine and same


def _place(folder: Path, new: dict[str, Any]) -> Path | None:
    """Return the file that has the older entry, whatever its name."""
    for file in _result_files(folder):
        if any(_is_older(each, new) for each in _entries(_text(file), where=str(file))):
            return file
    return None


def _result_files(folder: Path) -> list[Path]:
    return sorted((folder / EVAL_RESULTS).glob("*.yaml"))


def _text(file: Path) -> str:
    """Return the text of a file with its line ends; "" if there is none."""
    if not file.exists():
        return ""
    try:
        return io.read_bytes(file).decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not UTF-8 (byte {error.start}); mend it") from error


def _loaded(text: str, *, where: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = "" if mark is None else f" (line {mark.line + 1}: {getattr(error, 'problem', '')})"
        raise DataError(f"{where}: not valid YAML{line}; mend it") from error


def _dumped(value: Any) -> str:
    import yaml

    # As huggingface_hub writes it.
    return str(yaml.dump(value, sort_keys=False, allow_unicode=True))
