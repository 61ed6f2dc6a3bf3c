"""Notes, once, that the credit equals GRPO's or is rounding, and that rewards fail.

The distance d of a token is known to about the noise floor, the 99% quantile of d that rounding
alone makes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dgpo_cli.algo.credit import DgpoCredit
from dgpo_cli.algo.credit.target import NOISE_SHARE
from dgpo_cli.core.numbers import fraction as written
from dgpo_cli.core.numbers import scientific, whole_percent
from dgpo_cli.core.text import cut, visible
from dgpo_cli.core.types import ScoredGroup, StepMetrics

if TYPE_CHECKING:
    from dgpo_cli.algo.credit import CreditRule

# Effective token fraction from which the credit is GRPO's: weights are 3% from 1 on average.
EVEN = 0.999
# Fraction below which it no longer is, so that a run near the edge does not repeat the note.
UNEVEN = 0.998

# Share of a step's completions above which it is told that their reward failed.
UNSCORED = 0.05
_REASON_CHARS = 200

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
        """Return the note on a step; None if nothing is new or known.

        Every run starts with policy and reference equal (d = 0 at every token): no note on that.
        """
        fraction = metrics.get("credit/effective_fraction", math.nan)
        largest = metrics.get("policy/hellinger_sq_max", math.nan)
        if math.isnan(fraction) or not largest > 0:
            return None
        was, self._even = self._even, fraction >= (UNEVEN if self._even else EVEN)
        if was or not self._even:
            return None
        head = f"credit is GRPO's at this step: effective token fraction {written(fraction)}"
        distance = metrics["policy/hellinger_sq_p99"]
        if noise_floor is not None and distance <= noise_floor:
            most = f"99% below {scientific(distance)}" if distance else "0 at 99% of the tokens"
            return (
                f"{head}; d ({most}) is within its noise ({scientific(noise_floor)}): "
                "the policy has hardly moved"
            )
        held = {name: metrics.get(f"credit/held_by_{name}", 0.0) for name in _HOLDS}
        most = max(held, key=lambda name: held[name])
        if held[most] > 0:
            return (
                f"{head}; {_HOLDS[most]} tau up in {whole_percent(held[most])} of the completions"
            )
        looked_for = any(f"credit/held_by_{name}" in metrics for name in _HOLDS)
        return f"{head}; a smaller credit.{'target_ess' if looked_for else 'tau'} moves it"


class RewardHealth:
    """Notes once that the reward of many completions failed, with the most frequent reason."""

    def __init__(self) -> None:
        self._noted = False

    def line(self, groups: Sequence[ScoredGroup]) -> str | None:
        """Return the note on the groups of a step; None if few failed, or it was noted before."""
        verdicts = [verdict for group in groups for verdict in group.verdicts]
        failed = [verdict for verdict in verdicts if not verdict.is_scored]
        if self._noted or len(failed) <= UNSCORED * len(verdicts):
            return None
        self._noted = True
        ((reason, _),) = Counter(verdict.note for verdict in failed).most_common(1)
        return (
            f"{len(failed)} of {len(verdicts)} completions are unscored and do not train, most "
            f"often: {cut(visible(reason or 'no reason given'), _REASON_CHARS)}"
        )


class TauHealth:
    """Notes once that a fixed tau is so small that rounding alone moves the weights.

    d is known to the noise floor e, the score d h^kappa to h^kappa e, and log w to h^kappa e / tau,
    which must not exceed NOISE_SHARE, as with target_ess.
    """

    def __init__(self, rule: CreditRule) -> None:
        self._rule = rule
        self._noted = False

    def line(self, metrics: StepMetrics, *, noise_floor: float | None) -> str | None:
        """Return the note on a step; None if nothing is wrong or known, or it was noted before."""
        rule = self._rule
        gate = metrics.get("policy/gate_p99", math.nan)
        if self._noted or noise_floor is None or not isinstance(rule, DgpoCredit):
            return None
        if rule.target_ess is not None:
            return None
        score = noise_floor * gate**rule.kappa
        if not score > NOISE_SHARE * rule.tau:
            return None
        self._noted = True
        return (
            f"credit.tau={rule.tau:g} acts on rounding: d has an error of "
            f"{scientific(noise_floor)}, which moves weights by a factor of up to "
            f"{_factor(score / rule.tau)}; set credit.tau to "
            f"{2 * score / NOISE_SHARE:.1g} or more, or credit.target_ess, which keeps tau above "
            "the noise"
        )


def _factor(exponent: float) -> str:
    """Return exp(exponent) for people: 1.2, 30, 1e+05."""
    return f"{math.exp(exponent):.2g}" if exponent < 100 else "1e+43 and more"
