"""Rows of a local file of problems, with their places: JSONL, JSON, CSV or Parquet.

JSONL and Parquet are read row by row, so a file larger than memory can be filtered.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from dgpo_cli.core.errors import ConfigError, DataError

_MISSING = object()
_MAX_DIGITS = 1000  # of a number in a file; int() of 1e999999999 would never end
_PARQUET_ROWS = 4096


@dataclass(frozen=True, slots=True)
class Row:
    """One record. `place` is "line 7", "item 7" or "row 7", counted from 1 as `number`."""

    fields: Mapping[str, Any]
    path: Path
    place: str
    number: int

    def error(self, message: str) -> DataError:
        return DataError(f"{self.path}, {self.place}: {message}")

    def get(self, name: str) -> object | None:
        """Return the field `name`, or None.

        A dotted name may reach into nested objects and lists: a.b, prompt.0.content.
        """
        value = self._find(name)
        return None if value is _MISSING else value

    def require(self, name: str, *, fix: str) -> object:
        """Return the field `name`.

        fix: for the error.

        Raises:
            DataError: the row lacks the field.
        """
        value = self._find(name)
        if value is _MISSING:
            known = ", ".join(map(repr, self.fields)) or "none"
            raise self.error(f"no field {name!r} (fields: {known}); {fix}")
        return value

    def _find(self, name: str) -> object:
        if name in self.fields:
            return self.fields[name]
        value: object = self.fields
        for part in name.split("."):
            if isinstance(value, Mapping) and part in value:
                value = value[part]
            elif isinstance(value, list) and part.isdecimal() and int(part) < len(value):
                value = value[int(part)]
            else:
                return _MISSING
        return value


def read_rows(path: Path, *, columns: tuple[str, ...] | None) -> Iterator[Row]:
    """Yield the rows of `path`; blank lines are skipped.

    The suffix gives the format: .json (a list of objects), .csv, .parquet; others are JSONL.
    columns: those to read from a Parquet file; None: all.

    Raises:
        ConfigError: no such file, or pyarrow is missing for a Parquet file.
        DataError: the file is not what its suffix says, or is not UTF-8.
    """
    if not path.is_file():
        what = "is a folder, not a file" if path.is_dir() else "no such file"
        raise ConfigError(f"{path}: {what}; set prompts.path or --prompts to a file of problems")
    readers = {".json": _read_json, ".csv": _read_csv}
    if path.suffix.lower() == ".parquet":
        return _read_parquet(path, columns)
    return readers.get(path.suffix.lower(), _read_jsonl)(path)


def _read_jsonl(path: Path) -> Iterator[Row]:
    with path.open("rb") as lines:
        for number, raw in enumerate(lines, start=1):
            text = _decode(raw, path, f"line {number}")
            if text.strip():
                # Without its end, at which Python would count a second line.
                fields = _parse(text.rstrip("\r\n"), path, f"line {number}")
                yield _object(fields, path, "line", number)


def _read_json(path: Path) -> Iterator[Row]:
    items = _parse(_decode(path.read_bytes(), path, "the file"), path, "the file")
    if not isinstance(items, list):
        raise DataError(f"{path}: must be a list of objects; one object a line goes into a .jsonl")
    for number, item in enumerate(items, start=1):
        yield _object(item, path, "item", number)


def _read_csv(path: Path) -> Iterator[Row]:
    text = _decode(path.read_bytes(), path, "the file")
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        names = Counter(reader.fieldnames or ())
        if twice := [name for name, count in names.items() if name and count > 1]:
            raise DataError(f"{path}: the header has {twice[0]!r} twice; name every column once")
        for fields in reader:
            number = reader.line_num
            # DictReader puts extra values under None and fills missing ones with None.
            if None in fields or None in fields.values():
                width = len(reader.fieldnames or ())
                raise DataError(f"{path}, line {number}: must have {width} columns as the header")
            yield Row(fields, path, f"line {number}", number)
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.reader.line_num}: not CSV ({error})") from error


def _read_parquet(path: Path, columns: tuple[str, ...] | None) -> Iterator[Row]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ConfigError(
            f"{path}: Parquet needs pyarrow; pip install pyarrow, or save as JSONL"
        ) from error
    try:
        file = pq.ParquetFile(path)
        names = file.schema_arrow.names
        if columns is not None:
            wanted = {name for column in columns for name in (column, column.split(".")[0])}
            names = [name for name in names if name in wanted]
        number = 0
        for batch in file.iter_batches(batch_size=_PARQUET_ROWS, columns=names):
            for fields in batch.to_pylist():
                number += 1
                yield Row(fields, path, f"row {number}", number)
    except pa.ArrowException as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path}: not a Parquet file that can be read ({reason})") from error


def _decode(raw: bytes, path: Path, place: str) -> str:
    try:
        return raw.removeprefix(codecs.BOM_UTF8).decode("utf-8")
    except UnicodeDecodeError as error:
        byte = raw[error.start]
        raise DataError(
            f"{path}, {place}: not UTF-8 (byte 0x{byte:02x} at {error.start}); save it as UTF-8"
        ) from error


def _parse(text: str, path: Path, place: str) -> Any:
    try:
        return json.loads(text, parse_float=Decimal, parse_int=Decimal, parse_constant=_refuse)
    except json.JSONDecodeError as error:
        where = place if error.lineno == 1 else f"line {error.lineno}"
        what = error.msg.removesuffix(" at")  # some of Python's messages end with it
        raise DataError(f"{path}, {where}: not JSON ({what} at column {error.colno})") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}, {place}: not JSON ({error})") from error


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not allowed")


def _object(value: object, path: Path, unit: str, number: int) -> Row:
    if not isinstance(value, dict):
        raise DataError(f"{path}, {unit} {number}: must be an object with fields")
    return Row(value, path, f"{unit} {number}", number)


def final_answer(answer: str) -> str:
    """Return the text after the last `####`, as in GSM8K; all of it without one."""
    return answer.rpartition("####")[2].strip() if "####" in answer else answer


def json_object(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a row as JSON values.

    Numbers that are not finite are null; what JSON has not, such as a date, is text.
    """
    return {str(name): _json_value(value) for name, value in fields.items()}


def _json_value(value: Any) -> Any:
    match value:
        case None | bool() | str() | int():
            return value
        case Decimal():
            whole = value.is_finite() and value == value.to_integral_value()
            return int(value) if whole and value.as_tuple().exponent == 0 else _finite(float(value))
        case float():
            return _finite(value)
        case Mapping():
            return json_object(value)
        case list() | tuple():
            return [_json_value(each) for each in value]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def exact_text(value: object) -> str | None:
    """Write text or a number exactly: 12 and 12.0 as "12", 0.10 as "0.1"; None for other values.

    White space around text is stripped.
    """
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return None
    number = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
    if not number.is_finite() or abs(number.adjusted()) > _MAX_DIGITS:
        return None
    text = format(number, "f")
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text == "-0" else text
