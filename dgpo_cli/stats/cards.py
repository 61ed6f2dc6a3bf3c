"""Cards of evaluations side by side: their entries, and where two of them differ."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

_SHOWN = 40  # characters of a value in a difference
_BEFORE = 12  # of them before the first that differs


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The leaves of a nested mapping by their dotted names; an empty mapping is a leaf."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            leaves |= flat(value, f"{prefix}{key}.")
        else:
            leaves[f"{prefix}{key}"] = value
    return leaves


def written(value: object) -> str:
    """A value of a card as text: texts as they are, everything else as JSON."""
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The dotted name of every entry that differs, with "old -> new", long values cut."""
    old, new = flat(before), flat(after)
    for key in (*old, *(key for key in new if key not in old)):
        if key not in old or key not in new:
            gone = "missing" if key not in old else _cut(written(old[key]), at=0)
            come = "missing" if key not in new else _cut(written(new[key]), at=0)
            yield key, f"{gone} -> {come}"
        elif old[key] != new[key]:
            x, y = written(old[key]), written(new[key])
            same = (i for i, (a, b) in enumerate(zip(x, y, strict=False)) if a != b)
            at = next(same, min(len(x), len(y)))
            yield key, f"{_cut(x, at=at)} -> {_cut(y, at=at)}"


def _cut(text: str, *, at: int) -> str:
    """The part of a long text where it first differs."""
    if len(text) <= _SHOWN:
        return text
    start = max(0, at - _BEFORE)
    part = text[start : start + _SHOWN]
    return ("..." if start else "") + part + ("..." if start + _SHOWN < len(text) else "")
