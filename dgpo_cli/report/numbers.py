"""How shares, differences, p-values, lengths and small numbers are written."""

from __future__ import annotations

import math

from dgpo_cli.types import Interval

UNKNOWN = "unknown"


def percent(share: float) -> str:
    return f"{100.0 * share:.1f} %" if math.isfinite(share) else UNKNOWN


def points(difference: float) -> str:
    """A difference of shares in percentage points, with its sign."""
    if not math.isfinite(difference):
        return UNKNOWN
    return f"{round(100.0 * difference, 1) + 0.0:+.1f}"  # + 0.0: no minus before a zero


def size(share: float) -> str:
    """An error in percentage points: two digits after the point where one would read as 0."""
    if not math.isfinite(share):
        return UNKNOWN
    value = 100.0 * share
    return f"{value:.2f}" if 0.0 < value < 0.1 else f"{value:.1f}"


def ends(interval: Interval) -> str:
    """Both ends of an interval of shares, in percent."""
    if not (math.isfinite(interval.low) and math.isfinite(interval.high)):
        return UNKNOWN
    return f"{100.0 * interval.low:.1f} to {100.0 * interval.high:.1f}"


def signed_ends(interval: Interval) -> str:
    """Both ends of an interval of differences, in percentage points."""
    if not (math.isfinite(interval.low) and math.isfinite(interval.high)):
        return UNKNOWN
    return f"{points(interval.low)} to {points(interval.high)}"


def p_value(p: float) -> str:
    """A p-value that never reads as 0, and as 1 only where it is."""
    if not math.isfinite(p):
        return UNKNOWN
    if p < 0.0001:
        return "< 0.0001"
    return f"{p:.4f}" if p < 0.01 else f"{p:.3f}" if p < 1.0 and round(p, 3) < 1.0 else f"{p:.3g}"


def tokens(length: float, *, narrow: bool = False) -> str:
    """A length in tokens, with a digit after the point where it is short."""
    if not math.isfinite(length):
        return "-"
    if narrow:
        return f"{length:.0f}"
    return f"{length:.1f}" if length < 1000 else f"{length:,.0f}"


def counted(number: int, noun: str) -> str:
    """A number and its noun, in the plural where it is not 1."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def small(value: float) -> str:
    """A number of any size in at most 7 cells: 0.0123, 4.1e-05, 12.3."""
    if not math.isfinite(value):
        return "none" if math.isnan(value) else f"{value}"
    if value == 0.0:
        return "0"
    if 1e-3 <= abs(value) < 10.0:
        return f"{value:.4f}"
    return f"{value:.1f}" if 10.0 <= abs(value) < 1e4 else f"{value:.1e}"


def probability(logprob: float) -> str:
    """exp(logprob) in at most 6 cells."""
    value = math.exp(min(0.0, logprob))
    return f"{value:.3f}" if value >= 5e-4 or value == 0.0 else f"{value:.0e}"
