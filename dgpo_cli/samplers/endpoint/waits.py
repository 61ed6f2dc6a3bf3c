"""How long an endpoint asks to wait, as its headers say it."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_EPOCH = 1e9  # a larger number of seconds is a date


def wait_told(headers: Mapping[str, str], *, now: float | None = None) -> float | None:
    """Return the seconds until a new request may succeed; None if no header says.

    Retry-After in seconds or as a date, retry-after-ms, and the reset of whichever limit of
    x-ratelimit is used up, as seconds, as 6m0s, as 12ms or as a date. now: seconds since 1970.
    """
    at = time.time() if now is None else now
    low = {name.lower(): value.strip() for name, value in headers.items()}
    if (told := _seconds(low.get("retry-after-ms", ""), at=at)) is not None:
        return told / 1000
    if (told := _seconds(low.get("retry-after", ""), at=at)) is not None:
        return told
    waits = []
    for name, value in low.items():
        limit = re.fullmatch(r"(.*ratelimit)-reset(.*)|(.*ratelimit-.*)-reset", name)
        if limit is None:
            continue
        left = f"{limit[1]}-remaining{limit[2]}" if limit[1] else f"{limit[3]}-remaining"
        if low.get(left, "0") in ("0", "-1") and (told := _seconds(value, at=at)) is not None:
            waits.append(told)
    return max(waits, default=None)


def _seconds(text: str, *, at: float) -> float | None:
    """Read a duration or a date; None if it is neither."""
    with contextlib.suppress(ValueError, OverflowError):
        value = float(text)
        if not 0 <= value < 1e15:
            return None
        if value > _EPOCH:  # since 1970, in milliseconds if it is that large
            value = (value / 1000 if value > _EPOCH * 100 else value) - at
        return max(0.0, value)
    if text and not _PART.sub("", text):
        return sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
    for read in (parsedate_to_datetime, datetime.fromisoformat):
        with contextlib.suppress(ValueError, TypeError, IndexError):
            moment = read(text)
            moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
            return max(0.0, moment.timestamp() - at)
    return None
