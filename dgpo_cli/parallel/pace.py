"""How long a rank takes for its work, and which one is slow again and again."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence

_WINDOW_S = 60.0
_LEAST = 4  # micro-batches of each rank in a window
_SLOW = 1.5  # times the median
_AGAIN = 3  # windows in a row
_FEW = 3  # ranks that are named

Work = tuple[float, int]  # seconds, micro-batches


class Pace:
    """The time that one rank has worked, without its waits for the others."""

    def __init__(self) -> None:
        self.busy_s, self.parts = 0.0, 0
        self._since: float | None = None
        self._dealt = False

    def begin(self) -> None:
        """The rank works from now on."""
        self._since, self._dealt = time.monotonic(), False

    def deal(self, parts: int) -> None:
        """It runs so many micro-batches; without any, its time does not count."""
        self.parts += parts
        self._dealt = self._dealt or parts > 0

    def pause(self) -> None:
        """It waits from now on."""
        if self._since is not None and self._dealt:
            self.busy_s += time.monotonic() - self._since
        self._since = None


class Paces:
    """Compares the ranks over windows of a minute or more."""

    def __init__(self) -> None:
        self._began: float | None = None
        self._first: Mapping[int, Work] = {}
        self._slow: dict[int, int] = {}  # windows in a row
        self._named: set[int] = set()

    def slow_one(
        self, work: Mapping[int, Work], hosts: Mapping[int, str], *, now: float
    ) -> str | None:
        """Return a note on a rank that has been slow in several windows, once a rank.

        work: of each rank since its start.
        """
        if self._began is None:
            self._began, self._first = now, dict(work)
            return None
        new = {
            number: (busy_s - self._first[number][0], parts - self._first[number][1])
            for number, (busy_s, parts) in work.items()
            if number in self._first
        }
        if now - self._began < _WINDOW_S or min(parts for _, parts in new.values()) < _LEAST:
            return None
        self._began, self._first = now, dict(work)
        each = {number: busy_s / parts for number, (busy_s, parts) in new.items()}
        usual = statistics.median_low(each.values())
        self._slow = {n: self._slow.get(n, 0) + 1 for n, s in each.items() if s > _SLOW * usual}
        for number, windows in self._slow.items():
            if windows >= _AGAIN and number not in self._named:
                self._named.add(number)
                return (
                    f"{names([number], hosts)} is slow: {each[number]:.2g} s for a micro-batch, "
                    f"the median rank {usual:.2g} s; all others wait for it"
                )
        return None


def names(numbers: Sequence[int], hosts: Mapping[int, str]) -> str:
    """Name ranks with their machines: ranks 3 (gpu7), 5 (gpu8)."""
    each = [f"{n} ({hosts[n]})" if n in hosts else str(n) for n in numbers[:_FEW]]
    more = f" and {len(numbers) - _FEW} more" if len(numbers) > _FEW else ""
    return f"rank{'s' if len(numbers) > 1 else ''} {', '.join(each)}{more}" if numbers else ""
