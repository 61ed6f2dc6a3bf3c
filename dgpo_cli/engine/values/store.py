"""Rewards of continuations in a file, so that no estimate is paid for twice.

JSON Lines: the first has what the rewards depend on, the others have the rewards. Lines are only
added, a slice at a time; of a kill, a last line that is unfinished is all that remains.
"""

from __future__ import annotations

import fcntl
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Self

from dgpo_cli.config.settings import Settings
from dgpo_cli.config.tree import change_of, entry_change_of, flatten, is_list_of_tables
from dgpo_cli.core import io
from dgpo_cli.core.codec import encoded, parsed, shown
from dgpo_cli.core.errors import ConfigError, DataError, cannot_write
from dgpo_cli.core.formats import VALUE, VALUES, ValuesHeader, ValuesRecord
from dgpo_cli.core.own_code import own_code_of
from dgpo_cli.core.schema import Change
from dgpo_cli.engine.values.prefixes import Key

SAMPLED = ("temperature", "top_p", "top_k", "max_completion_tokens", "stop")
_REMEDY = "give another file, or delete it to start again"


class ValueStore:
    """The rewards in one file, which no other process may use meanwhile; a context manager."""

    def __init__(self, path: Path, header: ValuesHeader) -> None:
        """Open a file, or begin one.

        Raises:
            DataError: its rewards are of other weights or settings, or a line is broken.
            ConfigError: another process uses it, or it cannot be written.
        """
        self.path = path
        self._known: dict[tuple[Key, int], dict[int, float]] = {}
        self._added: list[bytes] = []
        self._file = _locked(path)
        try:
            io.drop_torn_line(path, is_whole=lambda line: True)
            self._read(header)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def rewards(self, key: Key, *, seed: int) -> Mapping[int, float]:
        """Return what is known of a prefix, by number."""
        return self._known.get((key, seed), {})

    def add(self, key: Key, found: Mapping[int, float], *, seed: int) -> None:
        """Take new rewards of a prefix, by number. One that failed is left out: it is drawn again
        next time."""
        scored = {k: reward for k, reward in sorted(found.items()) if reward == reward}
        self._known.setdefault((key, seed), {}).update(scored)
        while scored:
            first = k = next(iter(scored))
            rewards = []
            while k in scored:
                rewards.append(scored.pop(k))
                k += 1
            line = ValuesRecord(**key._asdict(), seed=seed, first=first, rewards=tuple(rewards))
            self._added.append(_line(VALUE.dump(line)))

    def flush(self) -> None:
        """Write what was added; it is on the disk when this returns."""
        lines, self._added = self._added, []
        io.append(self.path, b"".join(lines))

    def _read(self, header: ValuesHeader) -> None:
        with self.path.open("rb") as file:
            first = file.readline()
            if not first:
                io.append(self.path, _line(VALUES.dump(header)))
                return
            where = f"{self.path}: line 1"
            _check_same(VALUES.read(parsed(first, where=where), where=where), header, self.path)
            for number, raw in enumerate(file, start=2):
                line = _parsed(raw, where=f"{self.path}: line {number}")
                key = Key(line.prompt_id, line.problem, line.at, line.digest)
                found = self._known.setdefault((key, line.seed), {})
                found.update(enumerate(line.rewards, start=line.first))


def _parsed(raw: bytes, *, where: str) -> ValuesRecord:
    try:
        return VALUE.read(parsed(raw, where=where), where=where)
    except DataError as error:
        raise DataError(f"{error}; delete the line to draw its continuations again") from error


def header_of(settings: Settings, *, adapter: Path | None = None) -> ValuesHeader:
    """Return what rewards depend on with the model and adapter that settings sample from.

    Raises:
        ModelError: the files of the model or adapter cannot be read.
        ConfigError: a file of the reward's own code is gone.
    """
    from dgpo_cli.policy.fingerprint import adapter_fingerprint, model_folder, weights_fingerprint
    from dgpo_cli.policy.load import model_location

    model = settings.model
    folder = model_folder(model_location(model.path), revision=model.revision)
    return ValuesHeader(
        weights={
            "model": weights_fingerprint(folder)["sha256"],
            "adapter": None if adapter is None else adapter_fingerprint(adapter)["sha256"],
            "dtype": model.dtype,
            "quantization": model.quantization,
        },
        settings=dict(_conditions(settings)),
        code=own_code_of(settings.reward),
    )


def _conditions(settings: Settings) -> dict[str, Any]:
    """Return the settings that a reward depends on, by their dotted names."""
    found: dict[str, Any] = {}
    for key, value in flatten(settings).items():
        room, _, name = key.partition(".")
        if is_list_of_tables(value) and room == "reward":
            for at, table in enumerate(value):
                learnt = (n for n in table if entry_change_of(key, n) != Change.FREE)
                found |= {f"{key}.{at}.{n}": table[n] for n in learnt}
        elif (room == "reward" and change_of(key) != Change.FREE) or (
            room == "rollout" and name in SAMPLED
        ):
            found[key] = value
    return found


def _check_same(stored: ValuesHeader, header: ValuesHeader, path: Path) -> None:
    """Compare the conditions of a file with those of now."""
    now = VALUES.read(VALUES.to_json(header), where=str(path))
    if stored.weights != now.weights:
        raise DataError(f"{path}: its values are of other weights; {_REMEDY}")
    for old, new in ((stored.settings, now.settings), (stored.code, now.code)):
        for name in sorted(old.keys() | new.keys()):
            if old.get(name) != new.get(name):
                was, is_now = shown(old.get(name)), shown(new.get(name))
                raise DataError(
                    f"{path}: its values are with {name}={was}, not {is_now}; {_REMEDY}"
                )


def _locked(path: Path) -> BinaryIO:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("ab")
    except OSError as error:
        fix = "; give a file that can be written"
        raise cannot_write(error, what=str(path), fix=fix) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise ConfigError(
            f"{path}: is in use by another process; wait until that has finished"
        ) from error
    except OSError:  # a file system without locks
        pass
    return file


def _line(data: Mapping[str, Any]) -> bytes:
    return encoded(data, compact=True).encode("ascii") + b"\n"
