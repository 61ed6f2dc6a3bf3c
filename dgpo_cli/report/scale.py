"""The diverging logarithmic scale of credit weights: from a weight to a step of a ramp.

It is centred on w = 1, what GRPO gives every token, reaches equally far to both sides, and its
ends follow the completion, so that small differences have contrast. The legend prints the ends.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

EQUAL = 1e-6  # |log w| below this is the rounding of float32
NEARLY_UNIFORM = 0.01  # max |log w| below this: credit is close to GRPO's
_STEPS = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)
_LEAST_CLIP = 5.0  # weights far below 1 do not stretch the scale beyond 1/5 to 5 by themselves


def log_weight(weight: float) -> float:
    """log w; -inf for a weight that underflowed to 0, 0 for one that is not finite."""
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

    low, high: the range of the weights; beyond the ends the strongest step is used.
    """

    factor: float
    steps: int
    low: float
    high: float

    @classmethod
    def of(cls, weights: Sequence[float], *, steps: int) -> Scale:
        """The scale for these weights.

        A few weights near 0 must not flatten the rest: the scale reaches as far down as the
        largest weight is up, or to 1/5, whichever is further, and never further than needed.
        """
        finite = [weight for weight in weights if math.isfinite(weight)] or [1.0]
        low, high = min(finite), max(finite)
        upper = max(log_weight(high), math.log(_LEAST_CLIP))
        reach = min(spread(finite), upper)
        factor = 1.0 if reach < EQUAL else _nice_factor(math.exp(reach))
        return cls(factor=factor, steps=steps, low=low, high=high)

    @property
    def is_uniform(self) -> bool:
        """Whether every token has GRPO's weight."""
        return self.factor == 1.0

    @property
    def is_nearly_uniform(self) -> bool:
        return max(abs(log_weight(self.low)), abs(log_weight(self.high))) < NEARLY_UNIFORM

    @property
    def clips_low(self) -> bool:
        """Whether some weights lie below the scale's lower end."""
        return log_weight(self.low) < -math.log(self.factor) - EQUAL

    def share(self, weight: float) -> float:
        """Where a weight lies between the ends: -1 and 1 are the ends, 0 is a weight of 1."""
        if self.is_uniform:
            return 0.0
        return max(-1.0, min(1.0, log_weight(weight) / math.log(self.factor)))

    def level(self, weight: float) -> int:
        """The step of a weight, in [-steps, steps]; 0 is about 1, positive is above."""
        return round(self.share(weight) * self.steps)

    def start_of(self, level: int) -> float:
        """The weight nearest to 1 that is at `level`."""
        towards_one = abs(level) - 0.5
        return math.exp(math.copysign(math.log(self.factor), level) * towards_one / self.steps)

    def number(self, weight: float, *, short: bool = False) -> str:
        """A weight with the digits that this scale needs to tell it from 1.

        short: without zeros at the end, for the numbers of the scale itself.
        """
        if weight >= 100.0 or not math.isfinite(weight):
            return f"{weight:.0f}"
        digits = 2
        if not self.is_uniform and self.factor < 2.0:
            digits = min(7, max(2, 1 - math.floor(math.log10(self.factor - 1.0))))
        elif 0.0 < weight < 0.1:
            return f"{weight:.1e}" if weight < 0.001 else f"{weight:.3f}"
        text = f"{weight:.{digits}f}"
        return text.rstrip("0").rstrip(".") if short else text
