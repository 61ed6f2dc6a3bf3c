"""A file of rollouts, opened fast: the long columns of a line are parsed when they are asked for.

A line of 20,000 tokens holds a megabyte of numbers. To choose a completion needs none of them but
its weights, so that columns stay bytes and the rest of each line is read without them.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dgpo_cli.algo.advantages import AdvantageSettings
from dgpo_cli.errors import DataError
from dgpo_cli.workflows.foreign import NAMES, adapted, typed
from dgpo_cli.workflows.rollouts import TOKEN_FIELDS, RolloutLine, parse_line

_CUT = "\0column"  # stands for a column, with where it starts and stops
_COLUMNS = (
    *NAMES["prompt_token_ids"],
    *NAMES["token_ids"],
    "sampling_logprobs",
    *TOKEN_FIELDS,
)
# A quote inside of a JSON text has a backslash before it, so that this finds keys alone.
_COLUMN = re.compile(rb'"(?:' + "|".join(_COLUMNS).encode() + rb')"\s*:\s*(?=\[)')
_WRONG = (KeyError, TypeError, ValueError, AttributeError, RecursionError)


@dataclass(frozen=True, slots=True)
class Entry:
    """One completion of a file. advantage: as stored; None where the line has none."""

    source: str
    number: int
    prompt_id: str
    index: int
    advantage: float | None
    reward: float
    _fields: dict[str, Any] = field(repr=False)
    _data: bytes = field(repr=False)

    @property
    def where(self) -> str:
        return f"{self.source}:{self.number}" if self.number else self.source

    def line(self) -> RolloutLine:
        """Parse all of it.

        Raises:
            DataError: a field is missing or broken; the message names file, line and field.
        """
        try:
            whole = {key: self._column(value) for key, value in self._fields.items()}
            return parse_line(whole, source=self.source)
        except _WRONG as error:
            raise _broken(error, where=self.where) from error

    def weights(self) -> list[float] | None:
        """Return the weights that trained, if they are stored and all are numbers."""
        try:
            found = self._column(self._fields.get("weights"))
            return found if found and None not in found else None
        except _WRONG as error:
            raise _broken(error, where=self.where) from error

    def _column(self, value: Any) -> Any:
        if isinstance(value, dict) and _CUT in value:
            start, stop = value[_CUT]
            return json.loads(self._data[start:stop])
        return value


class RolloutFile:
    """The completions of a file. assumed: what its lines do not say and was taken as given."""

    def __init__(self, path: Path, entries: Sequence[Entry], *, assumed: Sequence[str]) -> None:
        self.path = path
        self.entries = tuple(entries)
        self.assumed = tuple(assumed)

    @property
    def groups(self) -> tuple[str, ...]:
        """The prompts' ids, in order."""
        return tuple(dict.fromkeys(entry.prompt_id for entry in self.entries))

    def advantages(self, settings: AdvantageSettings) -> dict[int, float]:
        """Return the advantage of every line by its number: as stored, else from the rewards of
        its group; NaN where a reward of the group is not known."""
        groups: dict[str, list[Entry]] = {}
        for entry in self.entries:
            groups.setdefault(entry.prompt_id, []).append(entry)
        found: dict[int, float] = {}
        for group in groups.values():
            rewards = [entry.reward for entry in group]
            known = all(math.isfinite(reward) for reward in rewards)
            made = settings.advantages(rewards) if known else (math.nan,) * len(group)
            for entry, advantage in zip(group, made, strict=True):
                found[entry.number] = advantage if entry.advantage is None else entry.advantage
        return found


def read_lines(path: Path) -> list[RolloutLine]:
    """Read a file of rollouts and all that is in it.

    Raises:
        DataError: it is not there, or a line is broken; the message names file, line and field.
    """
    return [entry.line() for entry in open_rollouts(path).entries]


def open_rollouts(path: Path) -> RolloutFile:
    """Open a file of rollouts.

    Raises:
        DataError: it cannot be read, or a line is not JSON or no completion.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    maker = _Maker(str(path), data)
    start = 3 if data.startswith(b"\xef\xbb\xbf") else 0
    number = 0
    while start < len(data):
        number += 1
        stop = data.find(b"\n", start)
        stop = len(data) if stop < 0 else stop
        if not data[start : min(stop, start + 80)].isspace() and start < stop:
            maker.add(number, start, stop)
        start = stop + 1
    if not maker.entries:
        raise DataError(f"{path}: no rollouts in it")
    return RolloutFile(path, maker.entries, assumed=list(maker.assumed))


def typed_rollout(prompt: str, completion: str) -> RolloutFile:
    """Return a completion that the user typed as a file of one line."""
    name = "--completion"
    maker = _Maker(name, b"")
    maker.take(0, typed(prompt, completion))
    return RolloutFile(Path(name), maker.entries, assumed=["the completion ended by itself"])


class _Maker:
    """Makes the entries of one file, and gives those without a prompt_id and an index theirs."""

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
        try:
            line = _skimmed(self.data, start, stop)
        except UnicodeDecodeError as error:
            raise DataError(f"{where}: not UTF-8; save it as UTF-8") from error
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where}: not JSON: {error}") from error
        if not isinstance(line, dict):
            raise DataError(f"{where}: not a JSON object")
        try:
            self.take(number, adapted(line, self.assumed))
        except _WRONG as error:
            raise _broken(error, where=where) from error

    def take(self, number: int, line: dict[str, Any]) -> None:
        if "prompt_id" not in line:
            line["prompt_id"] = self._prompt_id(line)
        name = str(line["prompt_id"])
        line.setdefault("index", self._counts.get(name, 0))
        self._counts[name] = self._counts.get(name, 0) + 1
        advantage = line.get("advantage")
        self.entries.append(
            Entry(
                source=self.source,
                number=number,
                prompt_id=name,
                index=int(line["index"]),
                advantage=None if advantage is None else float(advantage),
                reward=float(line.get("reward", math.nan)),
                _fields=line,
                _data=self.data,
            )
        )

    def _prompt_id(self, line: dict[str, Any]) -> str:
        key = json.dumps([line.get("messages"), line.get("prompt")])
        return f"prompt {self._prompts.setdefault(key, len(self._prompts))}"


def _skimmed(data: bytes, start: int, stop: int) -> Any:
    """Parse a line with its columns cut out; each is replaced by where it starts and stops."""
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
        return json.loads(b"".join(parts).decode("utf-8"))
    except UnicodeDecodeError:
        raise
    except ValueError:
        # A column that is no flat list of numbers; or not JSON at all, which this explains.
        return json.loads(data[start:stop].decode("utf-8"))


_ESCAPED = json.dumps(_CUT)[1:-1]


def _broken(error: Exception, *, where: str) -> DataError:
    if isinstance(error, DataError):
        return error
    if isinstance(error, KeyError):
        return DataError(f"{where}: the field {error} is missing")
    return DataError(f"{where}: not a line of rollouts: {error}")
