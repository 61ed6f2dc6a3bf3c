"""Entries of evaluation cards, and the differences between two cards."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

_SHOWN = 40  # characters of a value in a difference
_BEFORE = 12  # of them before the first that differs


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the leaves of a nested mapping by dotted name; an empty mapping is a leaf."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            leaves |= flat(value, f"{prefix}{key}.")
        else:
            leaves[f"{prefix}{key}"] = value
    return leaves


def written(value: object) -> str:
    """Return a value of a card as text: strings as they are, everything else as JSON."""
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the dotted name of every differing entry with "old -> new", long values shortened."""
    old, new = flat(before), flat(after)
    for key in (*old, *(key for key in new if key not in old)):
        if key not in old or key not in new:
            sides = ("missing" if key not in x else _cut(written(x[key]), at=0) for x in (old, new))
            yield key, " -> ".join(sides)
        elif old[key] != new[key]:
            x, y = written(old[key]), written(new[key])
            same = (i for i, (a, b) in enumerate(zip(x, y, strict=False)) if a != b)
            at = next(same, min(len(x), len(y)))
            yield key, f"{_cut(x, at=at)} -> {_cut(y, at=at)}"


def _cut(text: str, *, at: int) -> str:
    """Return the part of a long text around its first difference."""
    if len(text) <= _SHOWN:
        return text
    start = max(0, at - _BEFORE)
    part = text[start : start + _SHOWN]
    return ("..." if start else "") + part + ("..." if start + _SHOWN < len(text) else "")
