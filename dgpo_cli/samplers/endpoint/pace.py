"""How many requests are in flight: more as they succeed, half as many when the endpoint is busy.

Additive increase, multiplicative decrease, as in TCP: an endpoint tells what it takes only by
refusing. A budget holds back requests whose worst case it cannot pay.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from dgpo_cli.samplers.endpoint.budget import Budget


class Unaffordable(Exception):
    """What is left of the budget does not pay the worst case of the next request."""


@dataclass(slots=True)
class Slot:
    """The leave to have one request in flight. worst: what it costs at most."""

    worst: float
    begun: int


@dataclass(slots=True)
class Pace:
    """Gives out slots, in one event loop, first come, first served.

    limit: the most slots at a time. window: how many now. clock: seconds, of the loop.
    """

    limit: int
    budget: Budget | None = None
    clock: Callable[[], float] = field(default=lambda: asyncio.get_running_loop().time())
    window: float = 1.0
    in_flight: int = 0
    closed: bool = False
    _until: float = 0.0
    _begun: int = 0
    _halved_at: int = 0
    _waiting: deque[tuple[asyncio.Future[Slot], float]] = field(default_factory=deque)
    _timer: asyncio.TimerHandle | None = None

    async def enter(self, worst: float, *, again: bool = False) -> Slot:
        """Wait for a slot; a request that was sent before goes first.

        Raises:
            Unaffordable: the budget does not pay it, and nothing in flight can free some.
        """
        if self.closed:
            raise asyncio.CancelledError
        future: asyncio.Future[Slot] = asyncio.get_running_loop().create_future()
        (self._waiting.appendleft if again else self._waiting.append)((future, worst))
        self._serve()
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                self.leave(future.result(), cost=0.0)
            raise

    def leave(self, slot: Slot, *, cost: float) -> None:
        """Give a slot back; cost: what the request has cost, or may have."""
        self.in_flight -= 1
        if self.budget is not None:
            self.budget.held -= slot.worst
            self.budget.spent += cost
        self._serve()

    def succeeded(self) -> None:
        """Widen the window by one slot for each window of answers."""
        self.window = min(float(self.limit), self.window + 1 / self.window)

    def busy(self, slot: Slot, *, wait_s: float | None) -> None:
        """Halve the window, once for all requests that were in flight; all wait if asked to."""
        if slot.begun > self._halved_at:
            self.window = max(1.0, self.window / 2)
            self._halved_at = self._begun
        if wait_s:
            self._until = max(self._until, self.clock() + wait_s)

    def close(self) -> None:
        """Give out no more slots: requests that wait for one are cancelled."""
        self.closed = True
        while self._waiting:
            self._waiting.popleft()[0].cancel()

    def _serve(self) -> None:
        self._waiting = deque(pair for pair in self._waiting if not pair[0].done())
        while self._waiting and self.in_flight < int(self.window) and not self.closed:
            if (rest := self._until - self.clock()) > 0:
                self._call_again(rest)
                return
            future, worst = self._waiting[0]
            if self.budget is not None and not self.budget.fits(worst):
                if self.in_flight:
                    return
                self._waiting.popleft()
                future.set_exception(Unaffordable())
                continue
            self._waiting.popleft()
            self.in_flight += 1
            self._begun += 1
            if self.budget is not None:
                self.budget.held += worst
            future.set_result(Slot(worst, self._begun))

    def _call_again(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(seconds, self._serve)
