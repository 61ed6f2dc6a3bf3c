"""Says, once and not at every step, that a step's credit is no other than GRPO's."""

from __future__ import annotations

import math

from dgpo_cli.types import StepMetrics

# From this effective fraction on weights are called even: they are 3 % from 1 on the average.
EVEN = 0.999
# Below this they are uneven again, so that a run on the edge does not say it again and again.
UNEVEN = 0.998

_HOLDS = {
    "noise": "the noise of d holds",
    "cap": "credit.max_weight holds",
    "ties": "equal scores hold",
}


class CreditHealth:
    """Watches the metrics of one run, step by step."""

    def __init__(self) -> None:
        self._even = False

    def line(self, metrics: StepMetrics, *, noise_floor: float | None) -> str | None:
        """Return what to say of a step, None where nothing has changed or nothing is known.

        As long as policy and reference are equal (d = 0 at every token) there is nothing to say:
        that is how every run begins.
        """
        fraction = metrics.get("credit/effective_fraction", math.nan)
        largest = metrics.get("policy/hellinger_sq_max", math.nan)
        if math.isnan(fraction) or not largest > 0:
            return None
        was, self._even = self._even, fraction >= (UNEVEN if self._even else EVEN)
        if was or not self._even:
            return None
        head = f"credit is GRPO's at this step: effective fraction {_shown(fraction)}"
        distance = metrics["policy/hellinger_sq_p99"]
        if noise_floor is not None and distance <= noise_floor:
            most = f"99 % below {distance:.0e}" if distance else "0 at 99 % of the tokens"
            return (
                f"{head}; d ({most}) is within its noise ({noise_floor:.0e}): "
                "the policy has hardly moved"
            )
        held = {name: metrics.get(f"credit/held_by_{name}", 0.0) for name in _HOLDS}
        most = max(held, key=lambda name: held[name])
        if held[most] > 0:
            return f"{head}; {_HOLDS[most]} tau up in {held[most]:.0%} of the completions"
        return f"{head}; see credit.target_ess"


def _shown(fraction: float) -> str:
    """Write a fraction near 1 with the digits that tell it from 1."""
    return next((f"{fraction:.{n}f}" for n in range(4, 8) if float(f"{fraction:.{n}f}") < 1), "1")
