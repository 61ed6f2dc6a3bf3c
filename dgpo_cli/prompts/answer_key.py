"""Reads the answers of rows, and aligns a benchmark's rows with its answer key."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dgpo_cli.prompts.records import Record

# 2024-I-1, 2024-II-01, I-1, AIME24I-1, aime_2026_ii_10: contest and number end the id.
_ID = re.compile(r"(?<![A-Z])(II?)[^A-Z0-9]*0*([0-9]{1,2})$")
_YEAR = re.compile(r"(?<![0-9])(?:19|20)[0-9]{2}(?![0-9])")
_INTEGER = re.compile(r"[+-]?[0-9]{1,1000}")


@dataclass(frozen=True, slots=True)
class Alignment:
    """ids: the key's id of each record, or None.

    how: "by id", "by number", "by position", "in another order" or "not at all".
    """

    ids: tuple[str | None, ...]
    how: str


def read_integer(text: str) -> int | None:
    """Parse an integer, leading zeros allowed; None for other text."""
    return int(text) if _INTEGER.fullmatch(text) else None


def align(records: Sequence[Record], key: Mapping[str, int]) -> Alignment:
    """Find the key's id of every record.

    By id if the rows have ids of the key's form; else by the order of their numbers (0 to 29, 1 to
    30); else by position. Without such ids, the key's answers in another order identify no single
    row, so no id is given.
    """
    if not key:
        return Alignment((None,) * len(records), "not at all")
    named = tuple(_key_id(record.id, key) for record in records)
    if sum(name is not None for name in named) > len(records) / 2:
        return Alignment(named, "by id")
    nameless = (None,) * len(records)
    if len(records) != len(key):
        return Alignment(nameless, "not at all")
    numbers = _numbers(records)
    order = range(len(records)) if numbers is None else numbers
    ids = tuple(list(key)[place] for place in order)
    answers = [read_integer(record.answer) for record in records]
    if answers != [key[name] for name in ids] and Counter(answers) == Counter(key.values()):
        return Alignment(nameless, "in another order")
    return Alignment(ids, "by position" if numbers is None else "by number")


def _key_id(given: str | None, key: Mapping[str, int]) -> str | None:
    if given is None or given in key:
        return given
    text = given.upper()
    found, years = _ID.search(text), set(_YEAR.findall(text))
    if found is None:
        return None
    ending = f"-{found[1]}-{found[2]}"
    fitting = (name for name in key if name.endswith(ending) and years <= {name.split("-")[0]})
    return next(fitting, None)


def _numbers(records: Sequence[Record]) -> tuple[int, ...] | None:
    """Return the ids counted from 0 if they are numbers without a gap, else None."""
    numbers = [read_integer(record.id or "") for record in records]
    present = [number for number in numbers if number is not None]
    if len(present) < len(records) or len(set(present)) < len(present):
        return None
    least = min(present)
    if max(present) - least != len(present) - 1:
        return None
    return tuple(number - least for number in present)
