"""Requests in flight, in a thread of their own; their answers are taken as they come."""

from __future__ import annotations

import asyncio
import queue
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from dgpo_cli.core.events import Requests
from dgpo_cli.core.types import Reply
from dgpo_cli.samplers.endpoint.budget import Budget
from dgpo_cli.samplers.endpoint.client import Answer, Client, Failed
from dgpo_cli.samplers.endpoint.pace import Pace, Slot, Unaffordable
from dgpo_cli.samplers.endpoint.wire import NotAnAnswer

LONGEST_WAIT_S = 900.0  # an endpoint that asks for more has run out for now
_BACKOFF_S = (1.0, 60.0)  # the first and the longest pause before a request is sent again
_TOLD_FROM_S = 10.0  # a shorter wait is not worth a note
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Job(Generic[T]):
    """One request: `key` tells whose it is.

    read: makes a reply of an answer; raises NotAnAnswer. reply_to: makes one of a refusal, if the
    refusal itself is an answer. worst, cost: what it costs at most, and what an answer has cost.
    """

    key: T
    body: Mapping[str, Any]
    read: Callable[[Answer], Reply]
    reply_to: Callable[[Failed], Reply | None]
    worst: float = 0.0
    cost: Callable[[Reply], float] = lambda reply: 0.0


@dataclass(frozen=True, slots=True)
class Landed(Generic[T]):
    """A request that is over: with a reply, with the error that ends all, or not paid for."""

    key: T
    reply: Reply | None = None
    error: Failed | None = None


class Fleet(Generic[T]):
    """Sends jobs to one path of an endpoint. Its methods are for one thread.

    client: from now on its thread's. limit: the most requests in flight. window: how many at
    first; None for all. tell: takes notes.
    """

    def __init__(
        self,
        client: Client,
        path: str,
        *,
        limit: int,
        window: float | None = None,
        retries: int,
        budget: Budget | None = None,
        tell: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._client, self._path, self._tell = client, path, tell
        self._retries = retries
        self._pace = Pace(limit, budget, window=float(limit) if window is None else window)
        self._landed: queue.SimpleQueue[Landed[T]] = queue.SimpleQueue()
        self._answers = self._again = 0
        self._told_wait = 0.0
        self._tasks: set[asyncio.Task[None]] = set()
        self._resting: set[asyncio.Task[Any]] = set()  # those that wait to be sent again
        self._stop = asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="endpoint", daemon=True)
        self.outstanding = 0
        self._thread.start()

    @property
    def window(self) -> float:
        """How many requests the endpoint takes at a time, as far as it has shown."""
        return self._pace.window

    @property
    def room(self) -> int:
        """How many more jobs to submit so that no slot waits for one."""
        width = int(self._pace.window)
        return width + max(2, width // 16) - self.outstanding

    @property
    def state(self) -> Requests:
        """How the endpoint is asked at this moment."""
        pace = self._pace
        return Requests(in_flight=pace.in_flight, limit=int(pace.window), again=self._again)

    def submit(self, job: Job[T]) -> None:
        """Send a request as soon as it may be in flight."""
        self.outstanding += 1
        self._loop.call_soon_threadsafe(self._begin, job)

    def take(self, *, timeout_s: float | None = None) -> list[Landed[T]]:
        """Wait for the next request that is over; return all that are. Empty after the timeout."""
        found: list[Landed[T]] = []
        try:
            found.append(self._landed.get(timeout=timeout_s))
            while True:
                found.append(self._landed.get_nowait())
        except queue.Empty:
            pass
        self.outstanding -= len(found)
        return found

    def land(self, *, grace_s: float) -> list[Landed[T]]:
        """Begin no more; return what comes within the grace time of what is in flight."""
        self._loop.call_soon_threadsafe(self._begin_no_more)
        end = time.monotonic() + grace_s
        found: list[Landed[T]] = []
        while self.outstanding and (rest := end - time.monotonic()) > 0:
            found += self.take(timeout_s=rest)
        return found

    def close(self) -> None:
        """Cancel what is in flight and end the thread."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        await self._stop.wait()
        self._pace.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._client.close()

    def _begin_no_more(self) -> None:
        self._pace.close()
        for task in self._resting:
            task.cancel()

    def _begin(self, job: Job[T]) -> None:
        task = self._loop.create_task(self._work(job))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _work(self, job: Job[T]) -> None:
        landed = Landed(job.key)
        try:
            landed = Landed(job.key, reply=await self._answered(job))
        except Failed as error:
            landed = Landed(job.key, error=error)
        except (Unaffordable, asyncio.CancelledError):
            pass
        except Exception as error:  # a fault of ours must not leave the reader waiting
            landed = Landed(job.key, error=Failed(f"{type(error).__name__}", may_pass=False))
            landed.error.__cause__ = error  # type: ignore[union-attr]
        finally:
            self._landed.put(landed)

    async def _answered(self, job: Job[T]) -> Reply:
        """Send a job until it is answered. Raises Failed, Unaffordable."""
        tries = 0
        before = -1  # answers of all jobs when this one failed last
        while True:
            slot = await self._pace.enter(job.worst, again=tries > 0)
            outcome = await self._tried(job, slot)
            if isinstance(outcome, Reply):
                return outcome
            # An endpoint that turns some away while it answers others will have its turn for all.
            if not (outcome.busy and not outcome.billed and self._answers > before >= 0):
                tries += 1
            before = self._answers
            if (outcome.wait_s or 0.0) > LONGEST_WAIT_S:
                self._begin_no_more()
                raise Failed(f"{outcome}; it asks to wait {_hours(outcome)}", may_pass=False)
            if tries > self._retries:
                self._begin_no_more()
                raise Failed(f"{outcome}, after {tries} tries", may_pass=False)
            self._again += 1
            await self._rest(tries)

    async def _rest(self, tries: int) -> None:
        first, most = _BACKOFF_S
        task = asyncio.current_task()
        assert task is not None
        self._resting.add(task)
        try:
            await asyncio.sleep(random.uniform(0.5, 1.0) * min(most, first * 2.0 ** (tries - 1)))
        finally:
            self._resting.discard(task)

    async def _tried(self, job: Job[T], slot: Slot) -> Reply | Failed:
        """Send a job once; return why it has to be sent again. Raises Failed if it has not."""
        cost = job.worst
        try:
            try:
                answer = await self._client.post(self._path, job.body)
                reply = job.read(answer)
            except NotAnAnswer as error:
                raise Failed(str(error), may_pass=True, billed=True) from None
            except Failed as error:
                found = job.reply_to(error)
                if found is None:
                    raise
                reply = found
            cost = job.cost(reply)
            self._answers += 1
            self._pace.succeeded()
            return reply
        except Failed as error:
            cost = job.worst if error.billed else 0.0
            if not error.may_pass:  # it ends all: begin nothing that would be paid in vain
                self._begin_no_more()
            if error.busy:
                self._pace.busy(slot, wait_s=self._wait(error))
            if not error.may_pass:
                raise
            return error
        finally:
            self._pace.leave(slot, cost=cost)

    def _wait(self, error: Failed) -> float | None:
        wait = error.wait_s
        if wait is not None and _TOLD_FROM_S <= wait <= LONGEST_WAIT_S:
            now = time.monotonic()
            if now + wait > self._told_wait + _TOLD_FROM_S:
                self._told_wait = now + wait
                self._tell(f"the endpoint asks to wait {wait:.0f} s ({error}); waiting")
        return wait


def _hours(error: Failed) -> str:
    return f"{(error.wait_s or 0.0) / 3600:.1f} h"
