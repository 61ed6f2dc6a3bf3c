"""How dgpo writes numbers for people: one form for each quantity, wherever it is printed.

Bytes are binary (KiB, MiB, GiB), as torch and nvidia-smi count memory; durations run from ms to
days; counts are shortened with k, M, B and T. There is no space before a percent sign.
`ui/assets/numbers.js` writes the same in a browser. The value of a setting is no measurement:
messages repeat it as it was given.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # types need pydantic, which `dgpo --help` can do without
    from dgpo_cli.core.types import Interval

UNKNOWN = "unknown"  # a number that exists and is not known
ABSENT = "-"  # a cell of a table that has no number at all
UNITS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))
_BYTES = ("KiB", "MiB", "GiB", "TiB")


def size(count: float) -> str:
    """Bytes in three digits and their unit: 512 B, 4.10 MiB, 12.3 GiB, 350 GiB."""
    if not math.isfinite(count):
        return UNKNOWN
    value = abs(count)
    if value < 1000:
        return f"{count:.0f} B"
    value /= 1024
    unit = 0
    while value >= 999.5 and unit < len(_BYTES) - 1:
        value /= 1024
        unit += 1
    return f"{'-' if count < 0 else ''}{_three(value)} {_BYTES[unit]}"


def duration(seconds: float, *, whole: bool = False) -> str:
    """A time in two or three digits: 12.3 ms, 0.123 s, 1.23 s, 4 min 10 s, 3 h 12 min, 2 d 5 h.

    whole: without a fraction of a second, for what counts up or down on a screen.
    """
    if not math.isfinite(seconds):
        return UNKNOWN
    if seconds < (59.5 if whole else 59.95):
        return f"{max(0.0, seconds):.0f} s" if whole else _seconds(seconds)
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if days < 1000 else f"{days:,} d"


def _seconds(seconds: float) -> str:
    if seconds <= 0:
        return "0 s"
    if seconds >= 0.09995:
        return f"{_three(seconds)} s"
    return f"{_three(1000.0 * seconds)} ms"


def round_duration(seconds: float) -> str:
    """A duration at the tick of an axis, without the parts that are 0."""
    value, _, rest = duration(seconds).partition(" ")
    if "." in value:
        value = value.rstrip("0").rstrip(".")
    return re.sub(" 0 (s|min|h)$", "", f"{value} {rest}")


def moment(unix: float) -> str:
    """A time of day in UTC: the same wherever it is written."""
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(unix))


def short(value: float) -> str:
    """A number of any size in few characters: 0.05, 12.3k, 1e-06; only 1 itself reads as 1."""
    if not math.isfinite(value):
        return _beyond(value)
    if value == 0.0:
        return "0"
    far = abs(value)
    if far < 1e-3 or far >= 9.995e14:
        return f"{value:.3g}"
    if far >= 9999.5:
        rounded = float(f"{value:.3g}")
        scale, unit = next(each for each in UNITS if abs(rounded) >= each[0])
        return f"{rounded / scale:.3g}{unit}"
    if far >= 999.95:
        return f"{value:,.0f}"
    if 0.0 < abs(far - 1.0) < 1e-2:
        return f"{value:.7g}" if abs(far - 1.0) >= 1e-6 else f"{value:.12g}"
    return f"{value:.3g}" if -1e-2 < value < 0 else f"{value:.4g}"  # 8 characters


def cell(value: float | None, write: Callable[[float], str] = short) -> str:
    """A cell of a table that may have no number at all."""
    return ABSENT if value is None else write(value)


def cost(value: float) -> str:
    """An amount in the currency of a price: cents, or two digits where it is less than 1."""
    if not math.isfinite(value):
        return ABSENT
    return f"{value:,.2f}" if value >= 0.995 or value == 0 else short(float(f"{value:.2g}"))


def small(value: float) -> str:
    """A number of any size in at most 7 cells, for a column: 0.0123, 4.1e-05, 12.3."""
    if not math.isfinite(value):
        return _beyond(value)
    if value == 0.0:
        return "0"
    if 1e-3 <= abs(value) < 10.0:
        return f"{value:.4f}"
    return f"{value:.1f}" if 10.0 <= abs(value) < 1e4 else f"{value:.1e}"


def scientific(value: float) -> str:
    """A number that is read on a logarithmic scale, such as d or a learning rate: 3.7e-04."""
    if not math.isfinite(value):
        return _beyond(value)
    return f"{value:.1e}" if value else "0"


def decimal(value: float, *, digits: int = 3) -> str:
    """A mean of order 1, such as a reward or an entropy: 0.583."""
    return f"{value:.{digits}f}" if math.isfinite(value) else _beyond(value)


def fraction(value: float, *, digits: int = 5, most: int = 12) -> str:
    """A fraction with enough digits, up to `most`, that only 1 itself reads as 1."""
    if not math.isfinite(value):
        return UNKNOWN
    text = f"{value:.{digits}f}"
    while value < 1.0 and float(text) == 1.0:
        if digits == most:
            return f">0.{'9' * digits}"
        digits += 1
        text = f"{value:.{digits}f}"
    return text


def error(value: float) -> str:
    """Half an interval, or a standard error: two digits."""
    return short(float(f"{value:.2g}"))


def error_digits(halves: Iterable[float]) -> int:
    """Digits after the point that show two of the smallest error, three at most of the largest."""
    known = [half for half in halves if math.isfinite(half) and half > 0.0]
    if not known:
        return 3
    least, most = (1 - math.floor(math.log10(half)) for half in (max(known), min(known)))
    return min(6, max(0, min(most, least + 1)))


def with_error(
    value: float, half: float, *, sign: bool = False, digits: int | None = None
) -> tuple[str, str]:
    """A number and its error with the same digits: 0.5832 and 0.0031.

    The error is empty where it is unknown. sign: the number is a difference. digits: after the
    point, by default two of the error.
    """
    if not math.isfinite(value):
        return _beyond(value), ""
    far = max(abs(value), half) if math.isfinite(half) else abs(value)
    if far >= 1e5 or 0.0 < far < 1e-4:  # digits after the point show nothing of these
        written = signed(value, short) if sign else short(value)
        return written, error(half) if math.isfinite(half) else ""
    digits = error_digits([half]) if digits is None else digits
    text = f"{value:{'+' if sign else ''}.{digits}f}"
    if float(text) == 0.0:
        text = f"{0.0:.{digits}f}"  # no sign before a zero
    return text, f"{half:.{digits}f}" if math.isfinite(half) else ""


def signed(value: float, write: Callable[[float], str] | None = None) -> str:
    """A difference or an advantage with its sign: +0.500, -12.3, 0.

    write: the form of the numbers that differ; without it three digits.
    """
    if not math.isfinite(value) or value == 0.0:
        return _beyond(value) if value else "0"
    far = abs(value)
    if write is None:
        write = _three if 1e-3 <= far < 999.5 else short
    return ("-" if value < 0 else "+") + write(far)


def worth(value: float) -> str:
    """A value, the reward that is to be expected: 0.91; two digits where it is from 0 to 1."""
    return decimal(value, digits=2) if 0.0 <= value <= 1.0 else short(value)


def percent(share: float, *, digits: int = 1) -> str:
    """A share in percent; what is neither none nor all never reads as 0% or 100%."""
    if not math.isfinite(share):
        return UNKNOWN
    least = 10.0**-digits
    text = f"{100.0 * share:.{digits}f}"
    if share > 0.0 and float(text) == 0.0:
        return f"<{least:.{digits}f}%"
    if share < 1.0 and float(text) >= 100.0:
        return f">{100.0 - least:.{digits}f}%"
    return f"{text}%"


def whole_percent(share: float) -> str:
    """A share in whole percent, for sentences: 42%, <1%, >99%."""
    return percent(share, digits=0)


def points(difference: float) -> str:
    """A difference of shares in percentage points, with its sign."""
    if not math.isfinite(difference):
        return UNKNOWN
    return f"{round(100.0 * difference, 1) + 0.0:+.1f}"  # + 0.0: no minus before a zero


def margin(share: float) -> str:
    """An error in percentage points: two digits after the point where one would read as 0."""
    if not math.isfinite(share):
        return UNKNOWN
    value = 100.0 * share
    return f"{value:.2f}" if 0.0 < value < 0.1 else f"{value:.1f}"


def ends(interval: Interval) -> str:
    """Both ends of an interval of shares, in percent."""
    if not interval_known(interval):
        return UNKNOWN
    return f"{100.0 * interval.low:.1f} to {100.0 * interval.high:.1f}"


def signed_ends(interval: Interval) -> str:
    """Both ends of an interval of differences, in percentage points."""
    if not interval_known(interval):
        return UNKNOWN
    return f"{points(interval.low)} to {points(interval.high)}"


def interval_known(interval: Interval) -> bool:
    return math.isfinite(interval.low) and math.isfinite(interval.high)


def p_value(p: float) -> str:
    """A p-value that never reads as 0, and as 1 only where it is."""
    if not math.isfinite(p):
        return UNKNOWN
    if p < 0.0001:
        return "< 0.0001"
    return f"{p:.4f}" if p < 0.01 else f"{p:.3f}" if p < 1.0 and round(p, 3) < 1.0 else f"{p:.3g}"


def probability(logprob: float) -> str:
    """exp(logprob) in at most 6 cells."""
    value = math.exp(min(0.0, logprob))
    return f"{value:.3f}" if value >= 5e-4 or value == 0.0 else f"{value:.0e}"


def tokens(length: float, *, narrow: bool = False) -> str:
    """A length in tokens, with a digit after the point where it is short; NaN of no completion."""
    if not math.isfinite(length):
        return ABSENT
    if narrow:
        return f"{length:.0f}"
    return f"{length:.1f}" if length < 999.95 else f"{length:,.0f}"


def counted(number: int, noun: str) -> str:
    """A number and its noun, in the plural where it is not 1."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def rate(speed: float, unit: str) -> str:
    """Units a second in three digits, or the time of one where they are slow."""
    if not math.isfinite(speed) or speed <= 0:
        return UNKNOWN
    if speed >= 0.9995:
        return f"{short(float(f'{speed:.3g}'))} {unit}/s"
    return f"{duration(1.0 / speed)} each"


def _three(value: float) -> str:
    """A positive number below 1000 in three digits, zeros at the end kept."""
    exponent = int(f"{value:.2e}".partition("e")[2])
    return f"{value:.{max(0, 2 - exponent)}f}"


def _beyond(value: float) -> str:
    """What is not finite."""
    return UNKNOWN if math.isnan(value) else f"{value}"
