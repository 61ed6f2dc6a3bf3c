"""The linear scale of numbers other than weights: from 0 to a round number, on one side or both.

Its end follows the completion, so that small numbers have contrast. The legend prints it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from dgpo_cli.core.numbers import signed, small

_STEPS = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0, 10.0)


@dataclass(frozen=True, slots=True)
class Linear:
    """A scale from 0 to `end`, which is negative for negative numbers and 0 if all are 0.

    signed: it reaches from -end to end. low, high: the range of the numbers.
    """

    end: float
    steps: int
    low: float
    high: float
    signed: bool

    @classmethod
    def of(cls, values: Sequence[float], *, steps: int, signed: bool = False) -> Linear:
        """Return the scale for these numbers; without `signed` they have one sign."""
        finite = [value for value in values if math.isfinite(value)] or [0.0]
        low, high = min(finite), max(finite)
        furthest = max(low, high, key=abs)
        end = _nice(abs(furthest))
        return cls(
            end=end if signed else math.copysign(end, furthest),
            steps=steps,
            low=low,
            high=high,
            signed=signed,
        )

    @property
    def is_uniform(self) -> bool:
        """Return whether every number is 0."""
        return self.end == 0.0

    def share(self, value: float) -> float:
        """Return the place of a number between 0 and the end, in [0, 1]; in [-1, 1] if signed."""
        if self.is_uniform or math.isnan(value):
            return 0.0
        return max(-1.0 if self.signed else 0.0, min(1.0, value / self.end))

    def level(self, value: float) -> int:
        """Return the step of a number, in [0, steps]; in [-steps, steps] if signed."""
        return round(self.share(value) * self.steps)

    def start_of(self, level: int) -> float:
        """Return the number nearest to 0 that is at `level`."""
        return math.copysign(abs(level) - 0.5, level) / self.steps * self.end

    def number(self, value: float, *, short: bool = False) -> str:
        """Return a number in at most 8 cells; short: without zeros at the end."""
        text = signed(value) if self.signed else small(value)
        return text.rstrip("0").rstrip(".") if short and "." in text and "e" not in text else text


def _nice(value: float) -> float:
    """Round a number up to a round one; 0 for 0."""
    if value <= 0.0:
        return 0.0
    power = 10.0 ** math.floor(math.log10(value))
    if power == 0.0 or not math.isfinite(value / power):
        return value  # too small for a power of ten of its own
    return next(
        (step * power for step in _STEPS if step * power >= value * (1.0 - 1e-9)), 10.0 * power
    )
