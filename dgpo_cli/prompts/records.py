"""Rows of a benchmark's file as they are, with their faults, for the examination.

Fields are found by name in any case.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dgpo_cli.prompts.files import Row, exact_text, read_rows

Names = Sequence[str]


@dataclass(frozen=True, slots=True)
class Record:
    """One row. `place` is "line 7"; `id` is None where the row has none; texts may be empty."""

    place: str
    id: str | None
    problem: str
    answer: str


def read_records(path: Path, *, ids: Names, problems: Names, answers: Names) -> Iterator[Record]:
    r"""Yield the rows of `path`; a field is the first of its names that a row has.

    A problem may also be a list of messages with a single turn, the user's. White space around
    texts is stripped, and lines end with \n.

    Raises:
        ConfigError: the file does not exist or cannot be read here.
        DataError: the file is not what its suffix says, or a field is missing.
    """
    for row in read_rows(path, columns=None):
        yield Record(
            place=row.place,
            id=exact_text(_value(row, ids, needed=False)),
            problem=_problem(row, _value(row, problems)),
            answer=_answer(_value(row, answers)),
        )


def _value(row: Row, names: Names, *, needed: bool = True) -> object | None:
    """Return the first field of these names, else the first in another case.

    Raises:
        DataError: it is missing, or two that differ by case alone disagree.
    """
    for name in names:
        if (value := row.get(name)) is not None:
            return value
    for name in names:
        same = [field for field in row.fields if str(field).lower() == name.lower()]
        if len({repr(row.fields[field]) for field in same}) > 1:
            raise row.error(f"fields {' and '.join(map(repr, same))} disagree; name one")
        if same:
            return row.get(same[0])
    if needed:
        known = ", ".join(map(repr, row.fields)) or "none"
        raise row.error(f"no field {names[0]!r} (fields: {known}); name it with --columns")
    return None


def _problem(row: Row, value: object) -> str:
    match value:
        case [{"role": "user", "content": str(text)}] | str(text):
            return _trimmed(text)
        case None:
            return ""
    raise row.error("the problem must be text, or one message of the user")


def _answer(value: object) -> str:
    return _trimmed(value) if isinstance(value, str) else exact_text(value) or ""


def _trimmed(text: str) -> str:
    """Strip white space, in front only what cannot be the rest of an escape."""
    return text.replace("\r\n", "\n").rstrip().lstrip(" \n")
