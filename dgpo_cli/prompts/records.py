"""Rows of a benchmark's files as they are, with their faults, for the examination.

Fields are found by name in any case.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dgpo_cli.prompts.files import Row, exact_text, final_answer, read_rows
from dgpo_cli.prompts.manifests import Where
from dgpo_cli.prompts.options import right_letter, with_options

Names = Sequence[str]


@dataclass(frozen=True, slots=True)
class Record:
    """One row.

    place: as in "line 7"; number: counted from 1 over the rows of all files that belong to it.
    id: None where the row has none. Texts may be empty.
    options: those of a choice, in the order of the row; `answer` is then the right one's letter.
    odd: why the answer of a choice is none.
    """

    place: str
    id: str | None
    problem: str
    answer: str
    number: int = 0
    options: tuple[str, ...] = ()
    odd: str = ""

    @property
    def asked(self) -> str:
        """The problem, with its options if it has some."""
        return with_options(self.problem, self.options)


@dataclass(frozen=True, slots=True)
class Fields:
    """The names of what a row has; the first that a row has counts.

    options: of a list. wrong: of one wrong option each, `answers` then being the right one's text.
    index: of the right option's number, from 0, instead of an answer.
    where: the rows to read, by field.
    """

    ids: Names
    problems: Names
    answers: Names
    options: str | None = None
    wrong: Names = ()
    index: str | None = None
    where: Mapping[str, Where] | None = None


def read_records(path: Path, fields: Fields) -> Iterator[Record]:
    r"""Yield the rows of `path` that belong to the benchmark.

    A problem may also be a list of messages with a single turn,
    the user's, an answer a list of one. White space around texts is stripped, lines end with \n.

    Raises:
        ConfigError: the file does not exist or cannot be read here.
        DataError: the file is not what its suffix says, or a field is missing.
    """
    for row in read_rows(path, columns=None):
        wheres = (fields.where or {}).items()
        if not all(where.holds(exact_text(_filtered(row, name))) for name, where in wheres):
            continue
        options, answer, odd = _solution(row, fields)
        yield Record(
            place=row.place,
            id=exact_text(_value(row, fields.ids, needed=False)),
            problem=_problem(row, _value(row, fields.problems)),
            answer=answer,
            options=options,
            odd=odd,
        )


def _filtered(row: Row, name: str) -> object | None:
    """Return the value of a field that decides whether a row belongs to the benchmark."""
    return row.require(name, fix="the manifest chooses rows by it ([where])")


def _solution(row: Row, fields: Fields) -> tuple[tuple[str, ...], str, str]:
    """Return the options, the answer, and why the answer of a choice is none."""
    if fields.index is not None:
        answer = _answer(_value(row, [fields.index]))
    else:
        answer = _answer(_value(row, fields.answers))
    if fields.wrong:
        others = [_text(_value(row, [name])) for name in fields.wrong]
        return (answer, *others), "A" if answer else "", ""
    if fields.options is None:
        return (), answer, ""
    found = _value(row, [fields.options])
    if not isinstance(found, list):
        raise row.error(f"field {fields.options!r} must be a list of options")
    options = tuple(map(_text, found))
    letter, odd = right_letter(answer, options, by_index=fields.index is not None)
    return options, letter or answer, odd


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
    if isinstance(value, list):
        return ", ".join(map(_answer, value))
    return _trimmed(final_answer(value)) if isinstance(value, str) else _text(value)


def _text(value: object) -> str:
    return _trimmed(value) if isinstance(value, str) else exact_text(value) or ""


def _trimmed(text: str) -> str:
    """Strip white space, in front only what cannot be the rest of an escape."""
    return text.replace("\r\n", "\n").rstrip().lstrip(" \n")
