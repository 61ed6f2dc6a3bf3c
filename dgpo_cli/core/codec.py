"""Reads and writes JSON of every format; errors name file, line and field.

A format is a frozen dataclass of the types in schema.py. On reading, null counts as missing, fields
that a format does not know are ignored, and no value is converted: true is not 1, and neither is
"1". On writing, a number that is not finite is null, and text is ASCII: a model's may
contain half of a surrogate pair, or control a terminal.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from functools import cache, cached_property
from types import MappingProxyType
from typing import Any, Generic, TypeVar, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError
from pydantic.json_schema import GenerateJsonSchema
from typing_extensions import TypedDict

from dgpo_cli.core.errors import DataError
from dgpo_cli.core.refusal import problem
from dgpo_cli.core.schema import Unknown
from dgpo_cli.core.text import cut

T = TypeVar("T")
V = TypeVar("V")

_SHOWN = 60  # characters of a wrong value
TOO_DEEP = "lists or objects are nested too deep to be read"
_MAX_DIGITS = 4300  # of a whole number; Python refuses longer ones
_DIALECT = "https://json-schema.org/draft/2020-12/schema"


class Format(Generic[T]):
    """One format: its type, its version, its reader, writer and schema."""

    def __init__(
        self,
        kind: type[T],
        *,
        name: str = "",
        what: str = "",
        version: int = 1,
        stamp: str = "",
        versionless: bool = False,
        closed: bool = False,
        sparse: Iterable[str] = (),
        partial: bool = False,
    ) -> None:
        """
        Args:
            kind: the type; of an object with fields, a dataclass.
            name: that of its schema; empty for a part of a format.
            what: the files that have it, in words.
            stamp: the field with the version, the first of the object. Without it the file has
                none until there is a second version, which will have one named "version".
            versionless: other programs write it too, without a version.
            closed: unknown fields are an error.
            sparse: fields that are not written if they are None.
            partial: any field may be missing, also in inner objects.
        """
        self.kind, self.name, self.what, self.version = kind, name, what, version
        self._stamp, self._versionless, self._closed = stamp, versionless, closed
        self._sparse, self._partial = frozenset(sparse), partial

    @cached_property
    def _adapter(self) -> TypeAdapter[T]:
        return TypeAdapter(self.kind)

    @cached_property
    def _part(self) -> TypeAdapter[dict[str, Any]]:
        """Reads some of the fields."""
        return TypeAdapter(TypedDict("_Part", self._hints, total=False))  # type: ignore[operator]

    @cached_property
    def _hints(self) -> dict[str, Any]:
        hints = get_type_hints(self.kind, include_extras=True)
        return {field.name: hints[field.name] for field in fields(self.kind)}  # type: ignore[arg-type]

    @cached_property
    def _nullable(self) -> frozenset[str]:
        """The fields in which null is an unknown number, and not a missing field."""
        marks = {name: getattr(hint, "__metadata__", ()) for name, hint in self._hints.items()}
        return frozenset(n for n, own in marks.items() if any(isinstance(m, Unknown) for m in own))

    def read(self, data: Any, *, where: str, named: Mapping[str, str] | None = None) -> T:
        """Return `data`, parsed JSON, as the type of the format.

        where: the file, and the line if it has lines. named: the file's names of fields that have
        another name there.

        Raises:
            DataError: a field is missing or wrong; the message names it.
        """
        is_object = is_dataclass(self.kind)
        if (is_object or get_origin(self.kind) is dict) and not isinstance(data, dict):
            raise DataError(f"{where}: not a JSON object")
        if is_object:
            self._check(data, where=where)
            data = self._known(data)
        return self._validated(self._adapter, data, where=where, named=named)

    def read_part(
        self, data: Mapping[str, Any], *, where: str, named: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """Return the fields of `data`, as `read` would; any may be missing."""
        return self._validated(self._part, self._known(data), where=where, named=named)

    def fits(self, data: Any) -> bool:
        """Whether `read` accepts `data`."""
        try:
            self.read(data, where="")
        except DataError:
            return False
        return True

    def _known(self, data: Mapping[str, Any]) -> dict[str, Any]:
        return {
            name: data[name]
            for name in self._hints
            if name in data and (data[name] is not None or name in self._nullable)
        }

    def _validated(
        self, adapter: TypeAdapter[V], data: Any, *, where: str, named: Mapping[str, str] | None
    ) -> V:
        try:
            return adapter.validate_python(data)
        except ValidationError as error:
            raise DataError(f"{where}: {first_problem(error, named or {})}") from error
        except RecursionError as error:
            raise DataError(f"{where}: {TOO_DEEP}") from error

    def _check(self, data: Mapping[str, Any], *, where: str) -> None:
        """Refuse an object of another version, or with unknown fields."""
        stamp = self._stamp or "version"
        found = data.get(stamp)
        if found is None and self._stamp and not self._versionless:
            raise DataError(f"{where}: the field {stamp} is missing")
        other = found is not None and (type(found) is not int or found != self.version)
        if other and stamp not in self._hints:
            raise DataError(
                f"{where}: {stamp}={shown(found)}: this dgpo reads version {self.version}"
            )
        if self._closed and (more := data.keys() - self._hints.keys() - {stamp}):
            raise DataError(f"{where}: has the unknown field {min(more)}")

    def dump(self, value: T) -> dict[str, Any]:
        """Return an object as it is written, with its version, for `encoded`."""
        data: dict[str, Any] = self._adapter.dump_python(value, warnings=False)
        for name in self._sparse:
            if data[name] is None:
                del data[name]
        return {self._stamp: self.version, **data} if self._stamp else data

    def to_json(self, value: T) -> dict[str, Any]:
        """Return `dump` as it comes back from a file: null for NaN, lists for tuples."""
        found: dict[str, Any] = jsonable(self.dump(value))
        return found

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema of what dgpo writes."""
        describer = _PartDescriber if self._partial else _Describer
        found = self._adapter.json_schema(mode="serialization", schema_generator=describer)
        if self._stamp:
            found["properties"] = {self._stamp: {"const": self.version}, **found["properties"]}
            found["required"] = [self._stamp, *found["required"]]
        if self._sparse:
            found["required"] = [name for name in found["required"] if name not in self._sparse]
        title = f"{self.what}, version {self.version}"
        return {"$schema": _DIALECT, **found, "title": title}


class _Describer(GenerateJsonSchema):
    """Marks every field as required: a writer leaves none out."""

    def field_is_required(self, field: Any, total: bool) -> bool:
        return True

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def default_schema(self, schema: Any) -> dict[str, Any]:
        return self.generate_inner(schema["schema"])


class _PartDescriber(_Describer):
    def field_is_required(self, field: Any, total: bool) -> bool:
        return False


@cache
def _field_names(kind: Any) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))


def filled(kind: type[T], *sources: object, **own: Any) -> T:
    """Make a dataclass: each field from `own`, else from the first source that has the name.

    Other fields have their defaults.
    """
    for name in _field_names(kind):  # type: ignore[arg-type]
        if name not in own:
            for source in sources:
                if hasattr(source, name):
                    own[name] = getattr(source, name)
                    break
    return kind(**own)


def encoded(value: Any, *, indent: int | None = None, compact: bool = False) -> str:
    """Return data as JSON on one line, or with an indent."""
    separators = (",", ":") if compact else None
    try:
        return json.dumps(value, allow_nan=False, indent=indent, separators=separators)
    except ValueError:  # a number that is not finite
        return json.dumps(jsonable(value), allow_nan=False, indent=indent, separators=separators)


def jsonable(value: Any) -> Any:
    """Return the data with None for NaN and infinities, string keys, and lists for tuples."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(item) for item in value]
    return value


def parsed(raw: bytes, *, where: str, constants: bool = True) -> Any:
    """Parse one JSON text.

    constants: read NaN and Infinity, which are not JSON, as numbers, else as null.

    Raises:
        DataError: it is not UTF-8, not JSON, or nested too deep.
    """
    try:
        text = raw.decode("utf-8")
        options: dict[str, Any] = {} if constants else {"parse_constant": lambda word: None}
        try:
            return json.loads(text, **options)
        except json.JSONDecodeError:
            raise
        except ValueError:  # a whole number that is too long; `read` names its field
            return json.loads(text, parse_int=_whole, **options)
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: not UTF-8; save it as UTF-8") from error
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: not JSON: {error.msg} at character {error.pos + 1}") from error
    except RecursionError as error:
        raise DataError(f"{where}: {TOO_DEEP}") from error


def _whole(digits: str) -> int | float:
    return int(digits) if len(digits) <= _MAX_DIGITS else math.inf


def first_problem(error: ValidationError, named: Mapping[str, str] = MappingProxyType({})) -> str:
    """Return the first problem: the field, its value, what it must be."""
    details = error.errors(include_url=False)[0]
    name = _place(details["loc"], named)
    if details["type"] == "missing":
        return f"the field {name} is missing"
    if details["input"] == math.inf:  # of too many digits, or too large an exponent
        return f"{name}: the number is too large"
    value = f"{name}={shown(details['input'])}"
    match details["type"]:
        case "is_instance_of":
            return f"{value}: must be {'an object' if 'dict' in details['msg'] else 'text'}"
        case "dataclass_type" | "dict_type":
            return f"{value}: must be an object"
        case "list_type" | "tuple_type":
            return f"{value}: must be a list"
        case "value_error":
            return f"{value}: {details['ctx']['error']}"
        case "literal_error" | "string_unicode":
            choices = details.get("ctx", {}).get("expected", "text").replace("'", "")
            return f"{value}: must be {choices}"
    return f"{value}: {problem(details)}"


def _place(loc: tuple[int | str, ...], named: Mapping[str, str]) -> str:
    """Return a location of pydantic as messages[0].content."""
    first = str(loc[0]) if loc else ""
    parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc[1:]]
    return named.get(first, first) + "".join(parts)


def shown(value: object) -> str:
    """Return a wrong value in a few characters."""
    match value:
        case dict():
            return "{...}"
        case list():
            return "[...]"
    return cut(json.dumps(value, default=repr), _SHOWN)  # Parquet has bytes and dates, too
