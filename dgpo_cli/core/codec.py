"""Reads JSON of any origin; errors name file, line and field.

A format is a frozen dataclass of the types below. null counts as missing, fields that a format does
not know are ignored, and no value is converted: true is not 1, and neither is "1".
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields
from functools import cached_property
from types import MappingProxyType
from typing import Annotated, Any, Generic, TypeVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    InstanceOf,
    Strict,
    TypeAdapter,
    ValidationError,
)

from dgpo_cli.core.errors import DataError
from dgpo_cli.core.refusal import problem
from dgpo_cli.core.text import cut

T = TypeVar("T")

_DEEPEST = 64  # levels of objects and lists in one field
_SHOWN = 60  # characters of a wrong value
TOO_DEEP = "lists or objects are nested too deep to be read"
_MAX_DIGITS = 4300  # of a whole number; Python refuses longer ones

Text = InstanceOf[str]  # str itself would refuse half of a surrogate pair, which models do write
Flag = Annotated[bool, Strict()]
Whole = Annotated[int, Strict()]
Count = Annotated[int, Strict(), Field(ge=0, lt=2**53)]
TokenId = Annotated[int, Strict(), Field(ge=0, lt=2**31)]
# Float32 can hold them: what is beyond is damage, and not a number of ours.
Number = Annotated[float, Strict(), Field(ge=-3e38, le=3e38, allow_inf_nan=False)]
Id = Annotated[Text, BeforeValidator(lambda value: str(value) if type(value) is int else value)]


def _tame(tree: dict[str, Any]) -> dict[str, Any]:
    """Refuse an object that cannot be written back, or not be walked through."""
    waiting: list[tuple[str, Any, int]] = [("", tree, 0)]
    while waiting:
        name, value, depth = waiting.pop()
        if depth > _DEEPEST:
            raise ValueError(f"is nested deeper than {_DEEPEST} levels")
        if isinstance(value, dict):
            waiting += [(f"{name}.{key}", each, depth + 1) for key, each in value.items()]
        elif isinstance(value, list):
            waiting += [(f"{name}[{at}]", each, depth + 1) for at, each in enumerate(value)]
        elif isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{name.removeprefix('.')} must be finite")
    return tree


Object = Annotated[InstanceOf[dict[str, Any]], AfterValidator(_tame)]


class Format(Generic[T]):
    """Reads the objects of one format."""

    def __init__(self, kind: type[T]) -> None:
        self._kind = kind

    @cached_property
    def _adapter(self) -> TypeAdapter[T]:
        return TypeAdapter(self._kind)

    @cached_property
    def _names(self) -> tuple[str, ...]:
        return tuple(field.name for field in fields(self._kind))  # type: ignore[arg-type]

    def read(self, data: Any, *, where: str, named: Mapping[str, str] | None = None) -> T:
        """Return the object that `data`, parsed JSON, is.

        where: the file, and the line if it has lines. named: what the file calls a field that is
        not under its own name.

        Raises:
            DataError: a field is missing or wrong; the message names it.
        """
        if not isinstance(data, dict):
            raise DataError(f"{where}: not a JSON object")
        known = {name: data[name] for name in self._names if data.get(name) is not None}
        try:
            return self._adapter.validate_python(known)
        except ValidationError as error:
            raise DataError(f"{where}: {told(error, named or {})}") from error
        except RecursionError as error:
            raise DataError(f"{where}: {TOO_DEEP}") from error


def parsed(raw: bytes, *, where: str) -> Any:
    """Parse one JSON text.

    Raises:
        DataError: it is not UTF-8, not JSON, or nested too deep.
    """
    try:
        text = raw.decode("utf-8")
        try:
            return json.loads(text)
        except json.JSONDecodeError:
            raise
        except ValueError:  # a whole number that is too long; its field is told where it is read
            return json.loads(text, parse_int=_whole)
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: not UTF-8; save it as UTF-8") from error
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: not JSON: {error.msg} at character {error.pos + 1}") from error
    except RecursionError as error:
        raise DataError(f"{where}: {TOO_DEEP}") from error


def _whole(digits: str) -> int | float:
    return int(digits) if len(digits) <= _MAX_DIGITS else math.inf


def told(error: ValidationError, named: Mapping[str, str] = MappingProxyType({})) -> str:
    """Say what is wrong first: the field, its value, what it must be."""
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
        case "dataclass_type":
            return f"{value}: must be an object"
        case "list_type" | "tuple_type":
            return f"{value}: must be a list"
        case "value_error":
            return f"{value}: {details['ctx']['error']}"
        case "literal_error" | "string_unicode":
            choices = details.get("ctx", {}).get("expected", "text").replace("'", "")
            return f"{value}: must be {choices}"
        case _ if name == "version":
            return f"{value}: this dgpo reads version {details.get('ctx', {}).get('le', 1)}"
    return f"{value}: {problem(details)}"


def _place(loc: tuple[int | str, ...], named: Mapping[str, str]) -> str:
    """Write pydantic's place as messages[0].content."""
    first = str(loc[0]) if loc else ""
    parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc[1:]]
    return named.get(first, first) + "".join(parts)


def shown(value: object) -> str:
    """Write a wrong value in a few characters, whatever it is."""
    match value:
        case dict():
            return "{...}"
        case list():
            return "[...]"
    return cut(json.dumps(value), _SHOWN)
