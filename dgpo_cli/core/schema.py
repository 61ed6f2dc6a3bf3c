"""The base class of every settings model: frozen, and an unknown key is an error."""

from __future__ import annotations

from enum import IntEnum

from pydantic import BaseModel, ConfigDict


class Change(IntEnum):
    """What changing a setting means for a run that has begun.

    A field is marked as Annotated[int, Change.FREE]; the mark of a section counts for all of it. A
    field without a mark is LEARNT.
    """

    FREE = 0  # moves no weight, except by rounding
    LEARNT = 1  # it affects what the run learns
    FIXED = 2  # a checkpoint's weights, optimiser state or place in the data belong to it


class Frozen(BaseModel):
    """Immutable settings. Every field of a subclass has a range and a description."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False
    )
