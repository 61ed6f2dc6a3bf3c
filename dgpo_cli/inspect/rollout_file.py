"""A file of rollouts, opened fast: the long columns of a line are parsed on demand.

A line of 20,000 tokens has a megabyte of numbers. Choosing a completion needs only its weights, so
columns stay bytes and the rest of each line is read without them.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dgpo_cli.algo.advantages import AdvantageSettings
from dgpo_cli.core.codec import TOO_DEEP, parsed
from dgpo_cli.core.errors import DataError
from dgpo_cli.core.formats import TRAINED, TrainedRecord
from dgpo_cli.core.io import unpacked
from dgpo_cli.inspect.imported import NAMES, adapted, typed
from dgpo_cli.runs.rollouts import TOKEN_FIELDS, RolloutLine, parse_line
from dgpo_cli.runs.run_folder import RunFolder

_LONG = ("prompt_token_ids", "token_ids", "sampling_logprobs", *TOKEN_FIELDS)
_NAMES = (name for own in _LONG for name in NAMES.get(own, (own,)))
# A quote inside a JSON string has a backslash before it, so this finds only keys.
_COLUMN = re.compile(rb'"(?:' + "|".join(_NAMES).encode() + rb')"\s*:\s*(?=\[)')
_TEXT = re.compile(rb"\S")


@dataclass(frozen=True, slots=True)
class Entry:
    """One completion of a file; its columns are read on demand."""

    source: str
    number: int
    record: TrainedRecord
    _columns: Mapping[str, Any] = field(repr=False)
    _named: Mapping[str, str] = field(repr=False)
    _data: bytes = field(repr=False)

    @property
    def prompt_id(self) -> str:
        return self.record.prompt_id

    @property
    def index(self) -> int:
        return self.record.index

    @property
    def tokens(self) -> int:
        """Return their number without reading them; 0 if the line has only text."""
        match self._columns.get("token_ids"):
            case {"\0column": [int(start), int(stop)]}:
                return self._data.count(b",", start, stop) + 1
            case list(ids):
                return len(ids)
        return 0

    @property
    def where(self) -> str:
        return f"{self.source}:{self.number}" if self.number else self.source

    def line(self) -> RolloutLine:
        """Read all of it.

        Raises:
            DataError: a field is missing or wrong; the message names file, line and field.
        """
        record = replace(self.record, **self._read(*self._columns))
        try:
            return parse_line(record, source=self.source)
        except KeyError as error:
            raise DataError(f"{self.where}: the field {error.args[0]} is missing") from error
        except ValueError as error:
            raise DataError(f"{self.where}: {error}") from error

    def weights(self) -> list[float] | None:
        """Return the weights that trained, if they are stored and all are numbers."""
        found = self._read("weights").get("weights")
        return None if not found or any(map(math.isnan, found)) else list(found)

    def _read(self, *names: str) -> dict[str, Any]:
        columns = {name: self._column(self._columns.get(name)) for name in names}
        return TRAINED.read_part(columns, where=self.where, named=self._named)

    def _column(self, value: Any) -> Any:
        match value:
            case {"\0column": [int(start), int(stop)]}:
                return parsed(self._data[start:stop], where=self.where)
        return value


class RolloutFile:
    """The completions of a file. assumed: what its lines lack and was assumed."""

    def __init__(self, path: Path, entries: Sequence[Entry], *, assumed: Sequence[str]) -> None:
        self.path = path
        self.entries = tuple(entries)
        self.assumed = tuple(assumed)

    @property
    def groups(self) -> tuple[str, ...]:
        """Return the ids of the prompts, in order."""
        return tuple(dict.fromkeys(entry.prompt_id for entry in self.entries))

    def advantages(self, settings: AdvantageSettings) -> dict[int, float]:
        """Return the advantage of every line by its number: as stored, else from the rewards of
        its group; NaN if one of these is unknown."""
        groups: dict[str, list[Entry]] = {}
        for entry in self.entries:
            groups.setdefault(entry.prompt_id, []).append(entry)
        found: dict[int, float] = {}
        for group in groups.values():
            rewards = [entry.record.reward for entry in group]
            known = all(_is_known(entry.record) for entry in group)
            made = settings.advantages(rewards) if known else (math.nan,) * len(group)
            for entry, advantage in zip(group, made, strict=True):
                own = entry.record.advantage
                found[entry.number] = advantage if own is None else own
        return found


def _is_known(record: TrainedRecord) -> bool:
    """Whether the reward is there, or is known to be none because it failed."""
    return math.isfinite(record.reward) or record.outcome in ("error", "timeout")


def read_rollouts(source: str | Path, *, step: int | None = None) -> Iterator[RolloutLine]:
    """Read the completions of a file of rollouts, or of a run, one by one and in order.

    A row has the prompt, the completion and the verdict; those of a run also have the advantage
    and, in `stats`, log-probability and entropy (nats), squared Hellinger distance, score and
    weight of every token. Files that other programs wrote are read as `dgpo inspect` does.

    Args:
        source: a JSONL file, which may be packed by gzip, or the folder of a run.
        step: of a run, only this step (from 1); else all steps whose rollouts were kept.

    Raises:
        DataError: there is no such file, or a line is broken; the message names file, line and
            field.

    Examples:
        >>> from dgpo_cli import read_rollouts
        >>> for row in read_rollouts("rollouts.jsonl"):  # doctest: +SKIP
        ...     print(row.prompt.text, row.completion.text, row.reward)
    """
    path = Path(source)
    if path.is_dir():
        run = RunFolder(path)
        files = run.rollouts() if step is None else [run.rollout_file(step)]
        if not files:
            raise DataError(f"{path}: has no rollouts; give the folder of a run that kept some")
    elif step is not None:
        raise DataError(f"step={step}: {path} is not the folder of a run; leave out step")
    else:
        files = [path]
    return (entry.line() for file in files for entry in open_rollouts(file).entries)


def open_rollouts(path: Path) -> RolloutFile:
    """Open a file of rollouts, which may be gzipped.

    Raises:
        DataError: it cannot be read, or a line is not a completion; the message names the field.
    """
    data = unpacked(path)
    maker = _Maker(str(path), data)
    start = 3 if data.startswith(b"\xef\xbb\xbf") else 0
    number = 0
    while start < len(data):
        number += 1
        stop = data.find(b"\n", start)
        stop = len(data) if stop < 0 else stop
        if _TEXT.search(data, start, stop):
            maker.add(number, start, stop)
        start = stop + 1
    if not maker.entries:
        raise DataError(f"{path}: has no rollouts")
    return RolloutFile(path, maker.entries, assumed=list(maker.assumed))


def typed_rollout(prompt: str, completion: str) -> RolloutFile:
    """Return a completion that the user typed as a file of one line."""
    name = "--completion"
    maker = _Maker(name, b"")
    maker.take(0, typed(prompt, completion), where=name)
    return RolloutFile(Path(name), maker.entries, assumed=["the completion ended by itself"])


class _Maker:
    """Makes the entries of a file, and assigns missing prompt ids and indices."""

    def __init__(self, source: str, data: bytes) -> None:
        self.source = source
        self.data = data
        self.entries: list[Entry] = []
        self.assumed: dict[str, None] = {}
        self._prompts: dict[str, int] = {}
        self._counts: dict[str, int] = {}

    def add(self, number: int, start: int, stop: int) -> None:
        """Take the line that is data[start:stop]."""
        where = f"{self.source}:{number}"
        line = _skimmed(self.data, start, stop, where=where)
        if not isinstance(line, dict):
            raise DataError(f"{where}: not a JSON object")
        try:
            self.take(number, line, where=where)
        except RecursionError as error:
            raise DataError(f"{where}: {TOO_DEEP}") from error

    def take(self, number: int, line: dict[str, Any], *, where: str) -> None:
        own, named = adapted(line, self.assumed, where=where)
        own.setdefault("prompt_id", self._prompt_id(own))
        own.setdefault("index", self._counts.get(str(own["prompt_id"]), 0))
        columns = {name: own.pop(name) for name in _LONG if name in own}
        record = TRAINED.read(own, where=where, named=named)
        self._counts[record.prompt_id] = self._counts.get(record.prompt_id, 0) + 1
        self.entries.append(Entry(self.source, number, record, columns, named, self.data))

    def _prompt_id(self, line: dict[str, Any]) -> str:
        key = repr((line.get("messages"), line.get("prompt")))
        return f"prompt {self._prompts.setdefault(key, len(self._prompts))}"


def _skimmed(data: bytes, start: int, stop: int, *, where: str) -> Any:
    """Parse a line with each column replaced by its start and stop."""
    parts: list[bytes] = []
    at = start
    while match := _COLUMN.search(data, at, stop):
        first = match.end()
        last = data.find(b"]", first, stop) + 1
        if not last:
            break
        parts += [data[at:first], f'{{"{_ESCAPED}": [{first}, {last}]}}'.encode()]
        at = last
    parts.append(data[at:stop])
    try:
        return parsed(b"".join(parts), where=where)
    except DataError:
        # A column is not a flat list of numbers, or this raises the error of broken JSON.
        return parsed(data[start:stop], where=where)


_ESCAPED = json.dumps("\0column")[1:-1]
