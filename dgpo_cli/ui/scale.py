"""The diverging logarithmic scale of credit weights: from a weight to a step of a ramp.

It is centred on w = 1, what GRPO gives every token, and reaches equally far to both sides. By
default it is the same for every completion: 1/2 to 2, and weights of 0.8 to 1.25 have no colour,
so that colour means a real difference and two completions can be compared by eye. A scale that is
fitted to the completion gives small differences contrast; the legend prints its ends. Weights of 0
and below, which some rules give, are beyond the lower end of any scale.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

EQUAL = 1e-6  # |log w| below this is the rounding of float32
NEARLY_UNIFORM = 0.01  # max |log w| below this: credit is close to GRPO's
FACTOR = 2.0  # the fixed scale reaches from 1/2 to 2
NEUTRAL = 1.25  # and has no colour from 1/1.25 to 1.25
_STEPS = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)
_LEAST_CLIP = 5.0  # weights far below 1 do not stretch the scale beyond 1/5 to 5 by themselves


def log_weight(weight: float) -> float:
    """log w; -inf for a weight of 0 or less, 0 for one that is not finite."""
    if not math.isfinite(weight):
        return 0.0
    return math.log(weight) if weight > 0.0 else -math.inf


def spread(weights: Sequence[float]) -> float:
    """The largest |log w|: 0 where every token has GRPO's weight."""
    return max((abs(log_weight(weight)) for weight in weights), default=0.0)


def _nice_factor(factor: float) -> float:
    """The next round number from `factor` up: 1.0005, 1.02, 1.5, 3, 20."""
    excess = factor - 1.0 if factor < 2.0 else factor
    exponent = math.floor(math.log10(excess))
    for power in (exponent, exponent + 1):
        for step in _STEPS:
            rounded = step * 10.0**power
            if rounded >= excess * (1.0 - 1e-9):
                return 1.0 + rounded if factor < 2.0 else rounded
    raise AssertionError("a step of the next power of ten is always large enough")


@dataclass(frozen=True, slots=True)
class Scale:
    """A scale from 1 / factor over 1 to factor, with `steps` steps on each side.

    neutral: weights from 1 / neutral to neutral are at level 0. low, high: the range of the
    weights; beyond the ends the strongest step is used. fitted: the factor that just holds the
    weights, 1 where all are 1; what numbers need to be told from 1 follows it. fit: whether the
    scale is the one fitted to the weights.
    """

    factor: float
    neutral: float
    steps: int
    low: float
    high: float
    fitted: float
    fit: bool

    @classmethod
    def of(cls, weights: Sequence[float], *, steps: int, fit: bool = False) -> Scale:
        """The fixed scale, or the one that fits these weights.

        A few weights near 0 must not flatten the rest: a fitted scale reaches as far down as the
        largest weight is up, or to 1/5, whichever is further, and never further than needed.
        """
        finite = [weight for weight in weights if math.isfinite(weight)] or [1.0]
        low, high = min(finite), max(finite)
        upper = max(log_weight(high), math.log(_LEAST_CLIP))
        reach = min(spread(finite), upper)
        fitted = 1.0 if reach < EQUAL else _nice_factor(math.exp(reach))
        factor, neutral = (fitted, fitted ** (0.5 / steps)) if fit else (FACTOR, NEUTRAL)
        return cls(factor, neutral, steps, low, high, fitted, fit)

    @property
    def is_uniform(self) -> bool:
        """Whether every token has GRPO's weight."""
        return self.fitted == 1.0

    @property
    def is_nearly_uniform(self) -> bool:
        return max(abs(log_weight(self.low)), abs(log_weight(self.high))) < NEARLY_UNIFORM

    @property
    def clips_low(self) -> bool:
        """Whether some weights lie below the scale's lower end."""
        return log_weight(self.low) < -math.log(self.factor) - EQUAL

    @property
    def clips_high(self) -> bool:
        """Whether some weights lie above the scale's upper end."""
        return log_weight(self.high) > math.log(self.factor) + EQUAL

    def share(self, weight: float) -> float:
        """Where a weight lies between the ends: -1 and 1 are the ends, 0 is a weight of 1."""
        if self.is_uniform:
            return 0.0
        return max(-1.0, min(1.0, log_weight(weight) / math.log(self.factor)))

    def level(self, weight: float) -> int:
        """The step of a weight, in [-steps, steps]; 0 is about 1, positive is above."""
        if self.is_uniform:
            return 0
        size = abs(log_weight(weight))
        room = math.log(self.factor / self.neutral)
        excess = (size - math.log(self.neutral)) / room
        if excess <= EQUAL:
            return 0
        step = min(self.steps, 1 + math.floor(min(excess, 1.0) * self.steps))
        return step if weight > 1.0 else -step

    def start_of(self, level: int) -> float:
        """The weight nearest to 1 that is at `level`."""
        part = (abs(level) - 1) / self.steps
        size = self.neutral * math.exp(part * math.log(self.factor / self.neutral))
        return size if level > 0 else 1.0 / size

    def number(self, weight: float, *, short: bool = False) -> str:
        """A weight with the digits that these weights need to be told from 1.

        short: without zeros at the end, for the numbers of the scale itself.
        """
        if abs(weight) >= 100.0 or not math.isfinite(weight):
            return f"{weight:.0f}"
        digits = 2
        if not self.is_uniform and self.fitted < 2.0:
            digits = min(7, max(2, 1 - math.floor(math.log10(self.fitted - 1.0))))
        elif 0.0 < abs(weight) < 0.1:
            return f"{weight:.1e}" if abs(weight) < 0.001 else f"{weight:.3f}"
        text = f"{weight:.{digits}f}"
        return text.rstrip("0").rstrip(".") if short else text
