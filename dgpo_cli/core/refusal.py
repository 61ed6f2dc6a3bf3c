"""Values and pydantic's errors in the words of dgpo's messages."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dgpo_cli.core.errors import without_logins
from dgpo_cli.core.text import cut

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


def shown(value: object) -> str:
    """Write a value as it would be typed after --set."""
    if isinstance(value, tuple | list):
        return f"[{', '.join(_in_list(item) for item in value)}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{name} = {_in_list(each)}' for name, each in value.items())}}}"
    if isinstance(value, bool):
        return str(value).lower()
    return without_logins(str(value))


def _in_list(value: object) -> str:
    is_text = isinstance(value, str)
    return json.dumps(shown(value), ensure_ascii=False) if is_text else shown(value)


def problem(details: ErrorDetails) -> str:
    """Return pydantic's error in the words of the other messages."""
    context: dict[str, Any] = details.get("ctx", {})
    kind = details["type"]

    def bound(name: str) -> str:
        limit = context[name]
        return str(limit) if isinstance(limit, int) else f"{limit:g}"

    match kind:
        case "greater_than":
            return f"must be greater than {bound('gt')}"
        case "greater_than_equal":
            return f"must be at least {bound('ge')}"
        case "less_than":
            return f"must be less than {bound('lt')}"
        case "less_than_equal":
            return f"must be at most {bound('le')}"
        case "literal_error":
            choices = context["expected"].replace(" or ", ", ").replace("'", "").split(", ")
            return one_of(cut(shown(details["input"])), choices)
        case "missing":
            return "is required"
        case "extra_forbidden":
            return "is unknown; leave it out"
        case "too_short" | "string_too_short":
            return "must not be empty"
        case "finite_number":
            return "must be finite"
        case "tuple_type":
            return "must be a list, such as [1, 2]"
        case "string_pattern_mismatch":
            return "has the wrong form"
    for start, wanted in (
        ("int_", "a whole number"),
        ("float_", "a number"),
        ("bool_", "true or false"),
        ("string_", "text"),
    ):
        if kind.startswith(start):
            return f"must be {wanted}"
    return details["msg"].lower()


def one_of(value: str, choices: Sequence[str], more: str = "") -> str:
    """Return the allowed values, and the one that was most likely meant; more: added to them."""
    near = difflib.get_close_matches(value, choices, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"must be one of {', '.join(choices)}{more}{hint}"
