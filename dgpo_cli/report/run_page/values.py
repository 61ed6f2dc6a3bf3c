"""How the page writes durations, sizes, times and differences."""

from __future__ import annotations

import math
import time

from dgpo_cli.report.charts.ticks import short

UNKNOWN = "–"


def duration(seconds: float) -> str:
    """Seconds as 12.3 s, 4 min 10 s, 3 h 12 min or 2 d 5 h."""
    if not math.isfinite(seconds):
        return UNKNOWN
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"


def size(count: int) -> str:
    """Bytes as 512 B, 4.1 MiB or 12 GiB."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.3g} {unit}" if unit != "B" else f"{count} B"
        value /= 1024
    return f"{value:.3g} TiB"


def moment(unix: float) -> str:
    """A time in UTC: the page is the same wherever it is written."""
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(unix))


def value(number: float | None) -> str:
    return UNKNOWN if number is None else short(number)


def difference(number: float | None, other: float | None) -> str:
    """number - other with its sign; nothing where either is unknown."""
    if number is None or other is None:
        return ""
    apart = number - other
    if apart == 0.0:
        return "±0"
    return f"{'+' if apart > 0 else '−'}{short(abs(apart))}"
