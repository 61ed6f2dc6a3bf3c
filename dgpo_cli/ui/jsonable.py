"""Data made valid JSON: numbers that JSON does not have become null."""

from __future__ import annotations

import math
from typing import Any


def jsonable(value: Any) -> Any:
    """The same data with None for NaN and infinities, string keys and lists for tuples."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(item) for item in value]
    return value
