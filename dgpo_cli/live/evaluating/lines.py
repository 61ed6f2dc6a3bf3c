"""How far an evaluation has come, in a line now and then: for pipes and narrow terminals."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from rich.cells import cell_len

from dgpo_cli.core.events import Judged
from dgpo_cli.core.numbers import (
    cost,
    duration,
    ends,
    interval_known,
    percent,
    rate,
    whole_percent,
)
from dgpo_cli.core.text import elide, visible

EVERY_S = 10.0  # between two lines at least


@dataclass(frozen=True, slots=True)
class Pace:
    """The speed of an evaluation. began: when it was first heard of; at: when of last; seconds."""

    began: float
    at: float

    def left(self, judged: Judged, *, now: float) -> float | None:
        """Return the seconds to the end; None if unknown.

        As fast as so far: the tokens of a sample and the tokens a second both cancel to the time
        that a sample took. When that has passed without an end, nothing is known.
        """
        if judged.done >= judged.total:
            return 0.0
        if not judged.drawn or self.at <= self.began:
            return None
        each = (self.at - self.began) / judged.drawn
        left = (judged.total - judged.done) * each - (now - self.at)
        return left if left > 0.0 else None


def status_line(judged: Judged, *, left: float | None, width: int) -> str:
    """Write how far an evaluation is, dropping what matters least until it fits `width`."""
    head = visible(" ".join(part for part in (judged.bench, judged.model) if part))
    fields = [
        (0, f"{judged.done:,}/{judged.total:,}"),
        (1, score(judged)),
        (2, "" if left is None or not judged.drawn else f"{duration(left, whole=True)} left"),
        (3, spent(judged)),
        (4, f"truncated {whole_percent(share(judged, 'truncated'))}" if judged.done else ""),
        (5, rate(judged.tokens / judged.seconds, "tokens") if judged.seconds else ""),
    ]
    kept = [(rank, text) for rank, text in fields if text]
    while True:
        line = "  ".join([head, *(text for _, text in kept)])
        if cell_len(line) <= width or len(kept) == 1:
            return elide(line, width)
        kept.remove(max(kept))


def score(judged: Judged) -> str:
    """The score over whole rounds with its interval, the share of correct samples before one."""
    if not judged.rounds:
        return f"{percent(share(judged, 'correct'))} correct" if judged.done else ""
    text = f"Avg@{judged.rounds} {percent(judged.avg)}"
    return f"{text}, {ends(judged.rerun_95)}" if interval_known(judged.rerun_95) else text


def spent(judged: Judged) -> str:
    """The cost so far, and the budget; empty if neither is known."""
    if judged.cost is None and judged.max_cost is None:
        return ""
    so_far = "unknown" if judged.cost is None else cost(judged.cost)
    return f"cost {so_far}" + ("" if judged.max_cost is None else f" of {cost(judged.max_cost)}")


def share(judged: Judged, outcome: str) -> float:
    """Return the share of the judged samples with this outcome."""
    found = {str(name): count for name, count in judged.outcomes.items()}
    return found.get(outcome, 0) / judged.done if judged.done else math.nan


class StatusLines:
    """Decides which events of an evaluation get a line: one in EVERY_S, and none twice."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._of: tuple[str, str] | None = None
        self._pace = Pace(0.0, 0.0)
        self._last = self._next = 0.0
        self._written = ""

    def take(self, judged: Judged, *, width: int) -> str | None:
        """Return the line to print now, if any."""
        now = self._clock()
        if self._of != (judged.bench, judged.model) or not judged.drawn:
            self._of = judged.bench, judged.model
            self._pace = Pace(now, now)
            self._next = max(self._next, now + EVERY_S)
        self._pace = Pace(self._pace.began, now)
        if not judged.drawn or now < self._next or judged.done == judged.total:
            return None
        line = status_line(judged, left=self._pace.left(judged, now=now), width=width)
        if line == self._written:
            return None
        self._written, self._next = line, now + EVERY_S
        return line
