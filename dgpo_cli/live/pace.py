"""When a run will be over: from the steps and evaluations of late, whatever one of them took."""

from __future__ import annotations

import statistics
from collections import deque

_LATE = 20  # steps that are looked at


class Pace:
    """Takes the times at which steps and evaluations ended; all times in seconds.

    The estimate is a median over the last steps, so that one that paged or compiled does not move
    it. Evaluations are counted apart, by their number that is left; what else lies between steps
    (checkpoints) is spread over all steps.
    """

    def __init__(self, *, total: int, eval_every: int) -> None:
        self._total, self._every = total, eval_every
        self._steps: deque[float] = deque(maxlen=_LATE)
        self._evals: deque[float] = deque(maxlen=_LATE)
        self._other = 0.0
        self._count = 0
        self._step: int | None = None
        self._evaluated: int | None = None
        self._last: float | None = None

    def step(self, step: int, *, seconds: float, now: float) -> None:
        """Take the end of a step that took `seconds`."""
        if self._last is not None:
            self._other += max(0.0, now - self._last - seconds)
        self._steps.append(seconds)
        self._step, self._last = step, now
        self._count += 1

    def evaluation(self, step: int, *, since: float | None, now: float) -> None:
        """Take the end of an evaluation. since: when it began, if it is known."""
        start = self._last if self._last is not None else since
        if start is not None:
            self._evals.append(max(0.0, now - start))
        if self._last is not None:
            self._last = now
        self._evaluated = step

    def evaluated(self, step: int) -> None:
        """Take that the weights after `step` steps were evaluated before this part of the run."""
        self._evaluated = step

    def skip(self, seconds: float) -> None:
        """Do not count the last `seconds`: the user paused the run."""
        if self._last is not None:
            self._last += seconds

    def due(self, step: int) -> bool:
        """Whether the weights after `step` steps are evaluated and have not been."""
        wanted = bool(self._every) and (step % self._every == 0 or step == self._total)
        return wanted and self._evaluated != step

    def left(self, *, now: float) -> float | None:
        """Return the seconds to the end; None before the first step ended."""
        if self._step is None or self._last is None:
            return None
        remaining = self._total - self._step
        each = statistics.median(self._steps) + self._other / self._count
        cost = statistics.median(self._evals) if self._evals else 0.0
        passed = min(now - self._last, each if remaining else cost)
        return max(0.0, remaining * each + self._evals_left(self._step) * cost - passed)

    def _evals_left(self, step: int) -> int:
        if not self._every:
            return 0
        later = self._total // self._every - step // self._every
        at_the_end = self._total % self._every != 0 and step < self._total
        return later + at_the_end + self.due(step)
