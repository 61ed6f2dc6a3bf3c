"""Examines the data of a benchmark on every load, and lists its faults.

A score over thirty problems is worthless if one of them is duplicated, has lost its backslashes or
has the answer of another.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from dgpo_cli.core.numbers import counted
from dgpo_cli.core.text import cut
from dgpo_cli.prompts.answer_key import Alignment, align, read_integer
from dgpo_cli.prompts.manifests import RowsManifest
from dgpo_cli.prompts.records import Record
from dgpo_cli.rewards.gold import why_unusable
from dgpo_cli.rewards.integer import read_integer as read_written

# Escapes of JSON and Python, and the rest of LaTeX commands that such an escape has eaten.
_ESCAPES = {"\t": "t", "\f": "f", "\b": "b", "\r": "r", "\v": "v", "\a": "a", "\n": "n"}
_EATEN = {
    "\t": re.compile(r"imes|heta|anh|riangle|frac|ilde|binom|herefore|ext(?=[a-z]*\{)"),
    "\n": re.compile(r"(?:eq|abla|otin|ot|leq|geq|earrow|ewline)(?![a-z])"),
}
_EATEN_INSIDE_A_LINE = re.compile(r"(?:an|o|op|au)(?![a-z])")  # \tan, \to: words after a tab else
_COMMAND = re.compile(r"[A-Za-z]+")
_WRITTEN = re.compile(r"[+-]?(?:[0-9]{1,1000}|[1-9][0-9]{0,2}(?:,[0-9]{3})+)(?:\.0+)?")


@dataclass(frozen=True, slots=True)
class Examination:
    """The rows without duplicates and empty ones, with the findings.

    faults: a strict load stops at these, a line each.
    wording: faults of texts, which are the benchmark's own if the file is the published one.
    notes: other findings.
    """

    records: tuple[Record, ...]
    faults: tuple[str, ...]
    wording: tuple[str, ...]
    notes: tuple[str, ...]


def examine(
    records: Sequence[Record], manifest: RowsManifest, *, answers: bool = False
) -> Examination:
    """Compare the rows of a benchmark's files with its manifest.

    The returned records have the key's ids if they could be aligned with it, and integers as
    digits.

    answers: name expected answers in the findings, which may end in a log.
    """
    whole = [record for record in records if record.problem and record.answer]
    single, faults = _without_repeats(whole, kept=manifest.repeats, answers=answers)
    notes = [f"{faults.pop(0)}; the benchmark has them"] if manifest.repeats and faults else []
    single = [_canonical(record, manifest) for record in single]
    if manifest.problems not in (None, len(single)):
        what = "" if manifest.repeats else "different "
        faults.append(f"{len(single)} {what}problems, but there must be {manifest.problems}")
    faults += [fault for record in records for fault in _empty(record)]
    wording = [fault for record in single for fault in text_faults(record)]
    faults += [fault for record in single for fault in _answer_faults(record, manifest, answers)]
    alignment = align(single, manifest.answers)
    differing = list(_differences(single, alignment, manifest, answers=answers))
    faults += differing
    if manifest.answers:
        notes.append(_checked(single, alignment, manifest))
    agree = all(
        name is None or read_integer(record.answer) == manifest.answers[name]
        for record, name in zip(single, alignment.ids, strict=True)
    )
    identified = _identified(single, alignment, trusted=agree and not differing)
    return Examination(identified, tuple(faults), tuple(wording), tuple(notes))


def text_faults(record: Record) -> Iterator[str]:
    """Yield the faults in the text of a problem or answer, a line for each kind."""
    for what, text in (("problem", record.asked), ("answer", record.answer)):
        if count := text.count("\ufffd"):
            yield f"{record.place}: {count} replacement characters (U+FFFD) in the {what}"
        if halves := sum(unicodedata.category(char) == "Cs" for char in text):
            yield f"{record.place}: {counted(halves, 'half surrogate pair')} in the {what}"
        found = Counter(_controls(text))
        for (char, command), count in found.items():
            times = f" ({count} times)" if count > 1 else ""
            yield (
                f"{record.place}: control character U+{ord(char):04X} in the {what}{times}"
                + (f": was it \\{command}? Its backslash was not escaped" if command else "")
            )


def _empty(record: Record) -> Iterator[str]:
    for what, text in (("problem", record.problem), ("answer", record.answer)):
        if not text:
            yield f"{record.place}: the {what} is empty; the row is left out"


def _controls(text: str) -> Iterator[tuple[str, str | None]]:
    """Yield every stray control character, with the command that it may have been."""
    for at, char in enumerate(text):
        if unicodedata.category(char) != "Cc":
            continue
        rest = text[at + 1 : at + 40]
        word = _COMMAND.match(rest)
        command = _ESCAPES[char] + word[0] if word and char in _ESCAPES else None
        if char in "\t\n":
            inside = char == "\t" and text[max(0, at - 1) : at] not in ("", "\n", "\t")
            eaten = _EATEN[char].match(rest) or (inside and _EATEN_INSIDE_A_LINE.match(rest))
            if not eaten:
                continue
        yield char, command


def _without_repeats(
    records: Sequence[Record], *, kept: bool, answers: bool
) -> tuple[list[Record], list[str]]:
    """Keep the first of every problem, or all; white space and case do not distinguish two."""
    first: dict[str, Record] = {}
    times: Counter[str] = Counter()
    faults = []
    for record in records:
        text = " ".join(unicodedata.normalize("NFKC", record.asked).split()).casefold()
        times[text] += 1
        before = first.setdefault(text, record)
        if _digits(before.answer) != _digits(record.answer):
            which = f" ({_short(record.answer)}, not {_short(before.answer)})" if answers else ""
            faults.append(
                f"{record.place}: repeats the problem of {before.place} with another answer{which}"
            )
    if len(first) < len(records):
        counts = set(times.values())
        how = f" each repeated {min(counts)} times" if len(counts) == 1 else ", some repeated"
        faults.insert(0, f"{len(records)} rows, {len(first)} problems{how}")
    return (list(records) if kept else list(first.values())), faults


def _answer_faults(record: Record, manifest: RowsManifest, answers: bool) -> Iterator[str]:
    where = f"{record.place}: answer{_if(answers, record.answer)}"
    match manifest.answer_kind:
        case "choice":
            if record.odd:
                yield f"{where} {record.odd}"
            if len(record.options) > manifest.choices:
                yield f"{record.place}: {len(record.options)} options, at most {manifest.choices}"
        case "math":
            if (problem := why_unusable(record.answer)) is not None:
                yield f"{where} {problem}"
        case "integer":
            answer = read_integer(record.answer)
            if answer is None:
                yield f"{where} is not an integer"
            elif not manifest.in_range(answer):
                yield f"{where} is not in {_range(manifest)}"


def _range(manifest: RowsManifest) -> str:
    low, high = manifest.minimum, manifest.maximum
    if low is None or high is None:
        return f"range: at most {high}" if low is None else f"range: at least {low}"
    return f"{low} to {high}"


def _differences(
    records: Sequence[Record], alignment: Alignment, manifest: RowsManifest, *, answers: bool
) -> Iterator[str]:
    for record, name in zip(records, alignment.ids, strict=True):
        if name is None:
            if alignment.how == "by id":
                yield f"{record.place}: id {_short(record.id or '')} is not the benchmark's"
            continue
        answer, right = read_integer(record.answer), manifest.answers[name]
        in_range = answer is not None and manifest.in_range(answer)
        if in_range and answer != right:  # other answers are reported by _answer_faults
            remark = manifest.remarks.get(name)
            key = f", the key has {right}" if answers else " is not that of the key"
            yield (
                f"{record.place} ({name}): answer{_if(answers, record.answer)}{key}"
                + (f" ({remark})" if remark else "")
            )
    for name, count in Counter(name for name in alignment.ids if name).items():
        if count > 1:
            yield f"{count} problems have the id {name}"
    missing = [name for name in manifest.answers if name not in alignment.ids]
    if alignment.how == "by id" and missing:
        yield f"missing problems: {_some(missing)}"


def _checked(records: Sequence[Record], alignment: Alignment, manifest: RowsManifest) -> str:
    """Return how many answers agree with the key, and how the rows were aligned."""
    if alignment.how == "in another order":
        return f"all {len(records)} answers are those of the key, in another order"
    pairs = [
        read_integer(record.answer) == manifest.answers[name]
        for record, name in zip(records, alignment.ids, strict=True)
        if name is not None
    ]
    if not pairs:
        return f"none of the {len(records)} answers could be compared with the key"
    return f"{sum(pairs)} of {len(records)} answers agree with the key ({alignment.how})"


def _identified(
    records: Sequence[Record], alignment: Alignment, *, trusted: bool
) -> tuple[Record, ...]:
    """Give every record a unique id: the key's if it is sure, else the row's or its number."""
    sure = trusted or alignment.how == "by id"
    taken: set[str] = set()
    found = []
    for record, name in zip(records, alignment.ids, strict=True):
        own = (name if sure else None) or record.id or str(record.number)
        unique = own if own not in taken else f"{own} ({record.place})"
        taken.add(unique)
        found.append(replace(record, id=unique))
    return tuple(found)


def _canonical(record: Record, manifest: RowsManifest) -> Record:
    """Return the record with an integer as digits: "027", "27.0" and "1,027" are so written."""
    if manifest.answer_kind != "integer":
        return record
    return replace(record, answer=_digits(record.answer))


def _digits(answer: str) -> str:
    if _WRITTEN.fullmatch(answer):
        return read_written(answer) or answer
    return answer


def _if(answers: bool, answer: str) -> str:
    return f" {_short(answer)}" if answers else ""


def _short(text: str) -> str:
    return repr(cut(text, 40))


def _some(names: Sequence[str], *, shown: int = 8) -> str:
    rest = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {rest} more" if rest > 0 else "")
