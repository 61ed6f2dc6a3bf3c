"""Checks that a sampler has the trainer's weights: both score the same fixed tokens.

Without a trainer, what a server scores first takes its place: no server may have other weights
than the first one, or other weights later.

Two tests, because short types are rough. First, the sampler's log-probabilities equal the
trainer's up to the rounding of the types. Second, they do not equal bit for bit those of other
weights, if the trainer's have moved since: an update below the rounding still changes some last
bits, and a skipped one changes none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from dgpo_cli.core.errors import BackendError

# Mean gap in nats that rounding may cause. Measured on sampled tokens: 1e-5 (float32) and 0.04
# (bfloat16). A base in 4 bits against one that is not is another model, and differs more.
TOLERANCES = {"float32": 2e-4, "float16": 0.03, "bfloat16": 0.12, "nf4": 0.6}
# Least change of the trainer, as a share of the tolerance, for which equal bits are an error.
_MOVED = 0.02


@dataclass(frozen=True, slots=True)
class _Seen:
    """The measurements for one version of the weights."""

    what: str
    sampler: tuple[float, ...]
    trainer: tuple[float, ...]


class Canary:
    """The checks of one server, which remember its earlier weights."""

    def __init__(self, *, tolerance: float, dtype: str, witness: str = "the trainer's") -> None:
        """witness: whose log-probabilities those of the trainer are."""
        self._tolerance = tolerance
        self._dtype = dtype
        self._witness = witness
        self._seen: list[_Seen] = []

    def check(
        self, sampler: Sequence[float], trainer: Sequence[float], *, what: str, where: str
    ) -> None:
        """Accept the weights `what` of the server `where`.

        Args:
            sampler, trainer: log-probabilities in nats of the same tokens.

        Raises:
            BackendError: the two differ, or the sampler still has earlier weights.
        """
        gap = mean_gap(sampler, trainer)
        if not gap <= self._tolerance:  # NaN fails too
            raise BackendError(
                f"{where}: after the sync its canary log-probabilities differ by {gap:.3g} nats "
                f"from {self._witness}, more than {self._tolerance:g} for {self._dtype}: it does "
                f"not have the weights of {what}{self._likeness(sampler, trainer)}"
            )
        now = _Seen(what, tuple(sampler), tuple(trainer))
        for other in self._seen:
            moved = mean_gap(other.trainer, trainer)
            if now.sampler == other.sampler and moved > _MOVED * self._tolerance:
                raise BackendError(
                    f"{where}: its canary log-probabilities equal those of {other.what} bit for "
                    f"bit, while the trainer's moved by {moved:.3g} nats: the sync of {what} did "
                    "not reach it"
                )
        # The first (the base) and the last: weights can get lost, or stay as they were.
        self._seen = [*self._seen[:1], now]

    def holds(self, sampler: Sequence[float]) -> bool:
        """Whether a server still scores as after its last sync, up to a tenth of the tolerance."""
        return bool(self._seen) and (
            mean_gap(sampler, self._seen[-1].sampler) <= 0.1 * self._tolerance
        )

    def _likeness(self, sampler: Sequence[float], trainer: Sequence[float]) -> str:
        """Name the older weights that fit the sampler's numbers better, if any do."""
        best = min(self._seen, key=lambda seen: mean_gap(sampler, seen.trainer), default=None)
        if best is None or mean_gap(sampler, best.trainer) >= mean_gap(sampler, trainer):
            return "; check its model, revision and dtype, and that no other run updates it"
        return f"; its numbers fit {best.what}"


def mean_gap(left: Sequence[float], right: Sequence[float]) -> float:
    """Return the mean absolute difference; infinite if there is nothing to compare."""
    if not left or len(left) != len(right):
        return math.inf
    return math.fsum(abs(a - b) for a, b in zip(left, right, strict=True)) / len(left)
