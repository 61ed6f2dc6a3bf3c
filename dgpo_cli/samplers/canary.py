"""Proves that a sampler has the trainer's weights: both score the same fixed tokens.

Two tests, because numbers of a short type are rough. First, the sampler's log-probabilities are
the trainer's up to the rounding of the types. Second, they are not to the bit what they were for
other weights, if the trainer's have moved since: an update that is small against the rounding
still moves some last bits, and one that was skipped moves none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from dgpo_cli.core.errors import BackendError

# Mean distance in nats that rounding may cause. Seen on the sampled tokens: 1e-5 (float32) and
# 0.04 (bfloat16). A base in 4 bits beside one that is not is another model, and differs more.
TOLERANCES = {"float32": 2e-4, "float16": 0.03, "bfloat16": 0.12, "nf4": 0.6}
# The trainer's own movement, as a share of the tolerance, from which equal bits are no accident.
_MOVED = 0.02


@dataclass(frozen=True, slots=True)
class _Seen:
    """What was measured for one version of the weights."""

    what: str
    sampler: tuple[float, ...]
    trainer: tuple[float, ...]


class Canary:
    """Remembers what one server said of the weights that it has had."""

    def __init__(self, *, tolerance: float, dtype: str) -> None:
        self._tolerance = tolerance
        self._dtype = dtype
        self._seen: list[_Seen] = []

    def check(
        self, sampler: Sequence[float], trainer: Sequence[float], *, what: str, where: str
    ) -> None:
        """Accept the weights `what` of the server `where`.

        Args:
            sampler, trainer: log-probabilities in nats of the same tokens.

        Raises:
            BackendError: the two differ, or the sampler still has what it had before.
        """
        gap = mean_gap(sampler, trainer)
        if not gap <= self._tolerance:  # NaN is no proof either
            raise BackendError(
                f"{where}: after the sync its log-probabilities of the canary differ by {gap:.3g} "
                f"nats from the trainer's, more than {self._tolerance:g} for {self._dtype}: it "
                f"does not have the weights of {what}{self._likeness(sampler, trainer)}"
            )
        now = _Seen(what, tuple(sampler), tuple(trainer))
        for other in self._seen:
            moved = mean_gap(other.trainer, trainer)
            if now.sampler == other.sampler and moved > _MOVED * self._tolerance:
                raise BackendError(
                    f"{where}: its log-probabilities of the canary are to the bit those of "
                    f"{other.what}, while the trainer's have moved by {moved:.3g} nats: the sync "
                    f"of {what} has not reached it"
                )
        # The first (the base) and the last: weights can be lost, or left as they were.
        self._seen = [*self._seen[:1], now]

    def holds(self, sampler: Sequence[float]) -> bool:
        """Whether a server says what it said after its last sync, up to a tenth of the rounding."""
        return bool(self._seen) and (
            mean_gap(sampler, self._seen[-1].sampler) <= 0.1 * self._tolerance
        )

    def _likeness(self, sampler: Sequence[float], trainer: Sequence[float]) -> str:
        """Say which older weights the sampler's numbers fit better, if any do."""
        best = min(self._seen, key=lambda seen: mean_gap(sampler, seen.trainer), default=None)
        if best is None or mean_gap(sampler, best.trainer) >= mean_gap(sampler, trainer):
            return "; is it the same model, revision and dtype, and no weights of another run?"
        return f", its numbers fit {best.what}"


def mean_gap(left: Sequence[float], right: Sequence[float]) -> float:
    """Return the mean absolute difference; infinite if there is nothing to compare."""
    if not left or len(left) != len(right):
        return math.inf
    return math.fsum(abs(a - b) for a, b in zip(left, right, strict=True)) / len(left)
