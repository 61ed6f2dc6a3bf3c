"""One evaluation during training in one line, with the curve of those before it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from dgpo_cli.core.numbers import ends, percent, whole_percent
from dgpo_cli.core.types import Interval

_LEVELS = "▁▂▃▄▅▆▇█"
_ASCII_LEVELS = "12345678"


def eval_line(curve: Sequence[Mapping[str, Any]], *, width: int, ascii_only: bool = False) -> str:
    """Write the newest of an evaluation's lines, what does not fit `width` columns left out.

    curve: the lines of evals.jsonl, oldest first, at least one. The levels of the curve are
    shares of the height from 0 to 100%.
    """
    last = curve[-1]
    score = percent(last["avg_at_k"])
    head = f"eval {last['bench']} after step {last['step']}  Avg@{last['k']} {score}"
    head += " greedy" if last.get("greedy") else ""
    errors = _errors(last)
    same = [line["avg_at_k"] for line in curve if line["bench"] == last["bench"]]
    cut = f"truncated {whole_percent(last['truncated'])}" if last.get("truncated") else ""
    both, one = ", ".join(errors), errors[0] if errors else ""
    for parts in ([both, cut], [both], [one], []):
        line = "  ".join([head, *(part for part in parts if part)])
        room = width - len(line) - 2
        if room >= min(len(same), 4):
            return f"{line}  {levels(same[-room:], ascii_only=ascii_only)}"
    return head


def _errors(line: Mapping[str, Any]) -> list[str]:
    """The known intervals, in percent; the first one says 95%."""
    known = [
        f"{ends(Interval(low, high))} {name}"
        for key, name in (("rerun_95", "rerun"), ("problems_95", "problems"))
        if (found := line.get(key))
        and None not in (low := found["low"], high := found["high"])
        and math.isfinite(low + high)
    ]
    return [f"95%: {known[0]}", *known[1:]] if known else []


def levels(shares: Sequence[float], *, ascii_only: bool = False) -> str:
    """Draw shares from 0 to 1 as one character each."""
    glyphs = _ASCII_LEVELS if ascii_only else _LEVELS
    return "".join(glyphs[min(len(glyphs) - 1, int(share * len(glyphs)))] for share in shares)


def summary(curve: Sequence[Mapping[str, Any]]) -> str | None:
    """Say where the evaluations of a run began and ended; None where there are not two."""
    if not curve:
        return None
    last = curve[-1]
    same = [line for line in curve if (line["bench"], line["k"]) == (last["bench"], last["k"])]
    if len(same) < 2:
        return None
    first = same[0]
    return (
        f"{last['bench']} Avg@{last['k']} {percent(first['avg_at_k'])} after step {first['step']}, "
        f"{percent(last['avg_at_k'])} after step {last['step']}"
    )
