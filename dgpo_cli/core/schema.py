"""The base class of settings, and the types of values in settings and files."""

from __future__ import annotations

import json
import math
import re
from enum import IntEnum
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    InstanceOf,
    PlainSerializer,
    Strict,
    WithJsonSchema,
)

_DEEPEST = 64  # levels of objects and lists in one field


class Change(IntEnum):
    """What a change of a setting means for a run that has begun.

    Annotated[int, Change.FREE] marks a field; the mark of a section holds for all of it. A field
    without a mark is LEARNT.
    """

    FREE = 0  # moves weights by rounding at most
    LEARNT = 1  # it affects what the run learns
    FIXED = 2  # a checkpoint's weights, optimiser state or place in the data belong to it


class Frozen(BaseModel):
    """Immutable settings. Every field of a subclass has a range and a description."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False
    )


def _tame(tree: dict[str, Any]) -> dict[str, Any]:
    """Refuse an object that is nested too deep or has numbers that are not finite."""
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


_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PLAIN = (bool, int, float, str)


def _plain_table(value: Any) -> Any:
    """Check a table of plain values and lists of these; an empty one counts as unset."""
    if not isinstance(value, dict):
        if value is None:
            return None
        raise ValueError("must be a table, such as {name = true}")
    return {name: _plain_value(name, each) for name, each in value.items()} or None


def _plain_value(name: str, value: Any) -> Any:
    if not _IDENTIFIER.fullmatch(name):
        raise ValueError(f"{name!r} cannot be a name; use letters, digits and _")
    each = tuple(value) if isinstance(value, list | tuple) else (value,)
    if not all(isinstance(one, _PLAIN) for one in each):
        raise ValueError(f"{name} must be true or false, a number, text, or a list of these")
    if any(isinstance(one, float) and not math.isfinite(one) for one in each):
        raise ValueError(f"{name} must be finite")
    return each if isinstance(value, list | tuple) else value


Plain = bool | int | float | str
# A setting whose names are the user's: a table of plain values, in files and after --set.
Table = Annotated[dict[str, Plain | tuple[Plain, ...]] | None, BeforeValidator(_plain_table)]


def _json_table(value: Any) -> Any:
    """Check a table of anything that JSON has but null; an empty one counts as unset."""
    if not isinstance(value, dict):
        if value is None:
            return None
        raise ValueError("must be a table, such as {name = true}")
    with_lists = json.loads(_as_json(_tame(value)))
    return with_lists or None


def _as_json(value: dict[str, Any]) -> str:
    try:
        return json.dumps(value)
    except TypeError as error:
        raise ValueError(
            "must have only true or false, numbers, texts, lists and tables"
        ) from error


JsonTable = Annotated[dict[str, Any] | None, BeforeValidator(_json_table)]


class Unknown(BeforeValidator):
    """Marks a number that is null in a file if it is unknown; in memory it is NaN."""

    def __init__(self) -> None:
        super().__init__(_known)


def _known(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("must be finite")
    return math.nan if value is None else value


def doc(text: str) -> Any:
    """Describe a field in its schema."""
    return Field(description=text)


Text = InstanceOf[str]  # str refuses half of a surrogate pair, which models do write
Flag = Annotated[bool, Strict()]
Whole = Annotated[int, Strict()]
Count = Annotated[int, Strict(), Field(ge=0, lt=2**53)]
TokenId = Annotated[int, Strict(), Field(ge=0, lt=2**31)]
# The range of float32: a number beyond it is damage.
Number = Annotated[float, Strict(), Field(ge=-3e38, le=3e38, allow_inf_nan=False)]
Real = Annotated[float, Strict(), Unknown(), WithJsonSchema({"type": ["number", "null"]})]
Id = Annotated[Text, BeforeValidator(lambda value: str(value) if type(value) is int else value)]
Object = Annotated[InstanceOf[dict[str, Any]], AfterValidator(_tame)]


def _nan_for_none(values: tuple[float | None, ...]) -> tuple[float, ...]:
    return tuple(math.nan if x is None else x for x in values) if None in values else values  # type: ignore[return-value]


if TYPE_CHECKING:
    Column = tuple[float, ...]
else:  # a number a token; null: not finite
    Column = Annotated[tuple[Number | None, ...], AfterValidator(_nan_for_none)]


def _pairs(value: Any) -> Any:
    if isinstance(value, dict):
        return tuple(value.items())
    return () if value is None else value


if TYPE_CHECKING:
    Terms = tuple[tuple[str, float], ...]
else:  # names with numbers: an object in a file, null if there are none
    Terms = Annotated[
        tuple[tuple[Text, Real], ...],
        BeforeValidator(_pairs),
        PlainSerializer(lambda pairs: dict(pairs) or None, return_type=dict[str, Real] | None),
    ]
