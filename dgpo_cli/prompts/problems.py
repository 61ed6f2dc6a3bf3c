"""The problems of files of rows: each once, with its answer; others are counted.

Duplicates are only counted, so a file with every problem a hundred times takes the memory of its
different problems.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dgpo_cli.core.errors import DataError
from dgpo_cli.core.numbers import counted
from dgpo_cli.core.types import Message, Prompt
from dgpo_cli.prompts.files import Row, exact_text, final_answer, json_object, read_rows
from dgpo_cli.prompts.templates import chat_messages, problem_messages

_SHOWN = 5  # problems that a note names
_REMEMBERED = 200_000  # rows whose duplicates are recognised without parsing them


@dataclass(frozen=True, slots=True)
class DataFile:
    """A file of rows. label: with a row's number, the id of a problem that has none."""

    path: Path
    label: str


@dataclass(frozen=True, slots=True)
class Columns:
    """Fields of a row; a dotted name reaches into nested objects and lists.

    others: keep every field of a row with its problem, as JSON values.
    answered: a row without an answer is an error; else its answer is "".
    """

    problem: str = "problem"
    answer: str = "answer"
    others: bool = False
    answered: bool = True


# What data sets call their columns, the likeliest first; the last of each is verl's.
PROBLEM_COLUMNS = ("problem", "question", "query", "instruction", "input", "prompt")
ANSWER_COLUMNS = (
    *("answer", "final_answer", "expected_answer", "gold", "ground_truth", "target", "label"),
    "reward_model.ground_truth",
)


def find_columns(rows: Sequence[Row]) -> Columns:
    """Return the columns that these rows have the problem and the answer in, by their names.

    Where no name is known it is the default, which the error for the first row then names.
    """

    def found(names: Sequence[str]) -> str:
        full = (name for name in names if all(row.get(name) is not None for row in rows))
        return next(full, names[0])

    return Columns(found(PROBLEM_COLUMNS), found(ANSWER_COLUMNS))


def read_prompts(
    path: Path,
    *,
    template: str,
    system: str | None,
    problem_column: str = "problem",
    answer_column: str = "answer",
    others: bool = False,
) -> tuple[tuple[Prompt, ...], tuple[str, ...]]:
    """Return the problems of one file, and notes on what was left out; see `read_files`."""
    return read_files(
        [DataFile(path, path.stem)],
        source=str(path),
        template=template,
        system=system,
        columns=Columns(problem_column, answer_column, others=others),
    )


def read_files(
    files: Sequence[DataFile],
    *,
    source: str,
    template: str,
    system: str | None,
    columns: Columns,
) -> tuple[tuple[Prompt, ...], tuple[str, ...]]:
    """Return the problems of the files, in their order, and notes on what was left out.

    Duplicates are left out and counted: problems with the same turns, up to white space and
    Unicode's composition (NFC). Duplicates with conflicting answers are all left out, and named.
    The problem column has text or a list of chat messages; then the template wraps the last user
    turn. A prompt's id is the row's `id`, or the file's label and the row's number.

    Raises:
        ConfigError: a file does not exist or cannot be read here.
        DataError: a row is broken (with file, line and field), two rows share an id, or there are
            no problems.
    """
    reading = _Reading(source=source, template=template, system=system, columns=columns)
    for file in files:
        wanted = None if columns.others else (columns.problem, columns.answer, "id")
        for row in read_rows(file.path, columns=wanted):
            reading.add(row, label=file.label)
    return reading.result()


@dataclass(slots=True)
class _Reading:
    """The problems so far.

    numbers: digest of a problem to its index in `prompts`.
    seen: digests of raw fields, to skip duplicates early.
    disputed: indices of problems with conflicting answers.
    places: id to the place of its row.
    """

    source: str
    template: str
    system: str | None
    columns: Columns
    rows: int = 0
    seen: set[bytes] = field(default_factory=set)
    prompts: list[Prompt] = field(default_factory=list)
    numbers: dict[bytes, int] = field(default_factory=dict)
    disputed: set[int] = field(default_factory=set)
    places: dict[str, str] = field(default_factory=dict)

    def add(self, row: Row, *, label: str) -> None:
        """Add a row, or only count it."""
        raw = _digest(repr((row.get(self.columns.problem), row.get(self.columns.answer))))
        if raw not in self.seen:
            self._read(row, label=label)
            if len(self.seen) < _REMEMBERED:
                self.seen.add(raw)
        self.rows += 1

    def _read(self, row: Row, *, label: str) -> None:
        messages = _messages(row, self.columns.problem, template=self.template, system=self.system)
        lacks = not self.columns.answered and row.get(self.columns.answer) is None
        answer = "" if lacks else _answer(row, self.columns.answer)
        _check_text(row, self.columns.problem, [turn.content for turn in messages])
        _check_text(row, self.columns.answer, [answer])
        key = problem_key(messages)
        number = self.numbers.get(key)
        if number is not None:
            if self.prompts[number].answer != answer:
                self.disputed.add(number)
            return
        prompt = Prompt(
            id=_identity(row, label),
            messages=messages,
            answer=answer,
            source=self.source,
            place=row.place,
            columns=json_object(row.fields) if self.columns.others else {},
        )
        if prompt.id in self.places:
            raise row.error(f"id {prompt.id!r} is already that of {self.places[prompt.id]}")
        self.places[prompt.id] = row.place
        self.numbers[key] = len(self.prompts)
        self.prompts.append(prompt)

    def result(self) -> tuple[tuple[Prompt, ...], tuple[str, ...]]:
        if not self.rows:
            raise DataError(f"{self.source}: no problems in it")
        notes = []
        different = len(self.prompts)
        if self.rows > different:
            notes.append(
                f"{self.source}: {self.rows:,} rows, {different:,} problems: duplicates left out"
            )
        if self.disputed:
            named = [repr(self.prompts[number].id) for number in sorted(self.disputed)]
            more = ", …" if len(named) > _SHOWN else ""
            notes.append(
                f"{self.source}: {counted(len(named), 'problem')} with conflicting answers left "
                f"out: {', '.join(named[:_SHOWN])}{more}"
            )
        kept = tuple(p for n, p in enumerate(self.prompts) if n not in self.disputed)
        if not kept:
            raise DataError(f"{self.source}: all problems have conflicting answers")
        return kept, tuple(notes)


def problem_key(messages: Sequence[Message]) -> bytes:
    """Return 16 bytes that identify a problem: NFC, white space collapsed."""
    parts = [
        f"{turn.role}\0{' '.join(unicodedata.normalize('NFC', turn.content).split())}"
        for turn in messages
    ]
    return _digest("\0\0".join(parts))


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _identity(row: Row, label: str) -> str:
    given = row.get("id")
    if given is None or given == "":
        return f"{label}:{row.number}"
    text = exact_text(given)
    if not text:
        raise row.error(f"field 'id' must be text or a number, not {type(given).__name__}")
    return text


def _answer(row: Row, column: str) -> str:
    value = row.require(
        column, fix="name it with prompts.answer_column, or in eval with --columns answer=NAME"
    )
    text = exact_text(value)
    if text is None:
        raise row.error(f"field {column!r} must be text or a number, not {_kind(value)}")
    answer = final_answer(text)
    if not answer:
        raise row.error(f"field {column!r} is empty")
    return answer


def _messages(row: Row, column: str, *, template: str, system: str | None) -> tuple[Message, ...]:
    value = row.require(
        column, fix="name it with prompts.problem_column, or in eval with --columns problem=NAME"
    )
    if isinstance(value, list):
        turns = [_turn(row, column, item) for item in value]
        try:
            return chat_messages(turns, template=template, system=system)
        except ValueError as error:
            raise row.error(f"field {column!r}: {error}") from error
    if not isinstance(value, str):
        raise row.error(f"field {column!r} must be text or a list of messages, not {_kind(value)}")
    if not value.strip():
        raise row.error(f"field {column!r} is empty")
    return problem_messages(value.strip(), template=template, system=system)


def _check_text(row: Row, column: str, texts: Sequence[str]) -> None:
    """Refuse half a surrogate pair, which JSON can contain and no tokenizer accepts."""
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            half = f"\\u{ord(text[error.start]):04x}"
            raise row.error(
                f"field {column!r} has {half}, half of a surrogate pair, not a character; fix it"
            ) from error


def _turn(row: Row, column: str, item: object) -> Message:
    fields = item if isinstance(item, dict) else {}
    role, content = fields.get("role"), fields.get("content")
    if role not in ("system", "user", "assistant") or not isinstance(content, str):
        raise row.error(
            f"field {column!r}: every message needs a role (system, user or assistant) and a "
            "content that is text"
        )
    return Message(role, content)


def _kind(value: object) -> str:
    names = {
        "NoneType": "null",
        "Decimal": "a number that is endless or has over 1000 digits",
        "dict": "an object",
        "bool": "a boolean",
    }
    return names.get(type(value).__name__, f"a {type(value).__name__}")
