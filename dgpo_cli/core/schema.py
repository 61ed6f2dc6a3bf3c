"""The base class of settings, and the types of values in settings and files."""

from __future__ import annotations

import math
from enum import IntEnum
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    InstanceOf,
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
