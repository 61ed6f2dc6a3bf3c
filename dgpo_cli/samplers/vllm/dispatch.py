"""Sends many requests to several servers, some to each at a time, and retries failed ones.

A failed request goes back into the queue a limited number of times. A server that is gone gets no
requests until the main thread has brought it back.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue

from dgpo_cli.core.errors import BackendError
from dgpo_cli.samplers.http_json import Connection, ServerGone, ServerSaysNo, ServerSlow
from dgpo_cli.samplers.vllm.client import ServerCompletion, VllmClient

_BACKOFF_S = 0.5
_LONGEST_BACKOFF_S = 10.0
_POLL_S = 0.5  # how soon Ctrl-C is noticed


@dataclass(slots=True)
class Request:
    """One completion to draw: index in the caller's order, prompt, seed, failures so far."""

    index: int
    prompt: Sequence[int]
    seed: int
    failures: int = 0


Draw = Callable[[VllmClient, Connection, Request], ServerCompletion]


@dataclass(frozen=True, slots=True)
class _Done:
    index: int
    drawn: ServerCompletion


@dataclass(frozen=True, slots=True)
class _More:
    """So many further requests were taken; none: there are no more."""

    count: int


@dataclass(frozen=True, slots=True)
class _Gone:
    client: VllmClient
    error: Exception


@dataclass(slots=True)
class _Lane:
    """A server, its queue of requests, and the threads that send them."""

    client: VllmClient
    requests: deque[Request]
    threads: list[threading.Thread] = field(default_factory=list)
    connections: list[Connection] = field(default_factory=list)
    down: bool = False


class Dispatch:
    """One round of requests."""

    def __init__(
        self,
        clients: Sequence[VllmClient],
        *,
        draw: Draw,
        max_in_flight: int,
        retries: int,
        bring_back: Callable[[VllmClient, Exception], None],
        backoff_s: float = _BACKOFF_S,
    ) -> None:
        """bring_back: makes a server that is gone usable again; raises BackendError."""
        self._lanes = [_Lane(client, deque()) for client in clients]
        self._draw = draw
        self._max_in_flight = max_in_flight
        self._retries = retries
        self._bring_back = bring_back
        self._backoff_s = backoff_s
        self._changed = threading.Condition()
        self._ended = threading.Event()
        self._told: SimpleQueue[_Done | _More | _Gone | BaseException] = SimpleQueue()
        self._more: Callable[[], Sequence[Request]] | None = None

    def run(
        self,
        requests: Sequence[Sequence[Request]] = (),
        *,
        more: Callable[[], Sequence[Request]] | None = None,
        on_done: Callable[[int, ServerCompletion], None],
    ) -> None:
        """Draw all completions. An inner sequence shares a prompt and starts on one server.

        more: returns further requests of one prompt for a server that has room, none at the end.

        Raises:
            BackendError: a request failed too often, or a server is gone for good.
        """
        for number, group in enumerate(requests):
            self._lanes[number % len(self._lanes)].requests.extend(group)
        missing = sum(map(len, requests))
        self._more = more
        try:
            for lane in self._lanes:
                self._open(lane, count=self._max_in_flight if more else missing)
            while missing or more:
                match self._next():
                    case _Done(index, drawn):
                        missing -= 1
                        on_done(index, drawn)
                    case _More(0):
                        more = None
                    case _More(count):
                        missing += count
                    case _Gone(client, error):
                        self._reopen(client, error, count=self._max_in_flight if more else missing)
                    case BaseException() as error:
                        raise error
        finally:
            self._end()

    def cancel(self) -> None:
        """Make `run`, in another thread, raise BackendError."""
        self._told.put(BackendError("sampling was cancelled"))

    def _next(self) -> _Done | _More | _Gone | BaseException:
        while True:  # an endless wait is not interruptible on every platform
            try:
                return self._told.get(timeout=_POLL_S)
            except Empty:
                continue

    def _open(self, lane: _Lane, *, count: int) -> None:
        lane.down = False
        lane.connections = [lane.client.connect() for _ in range(min(self._max_in_flight, count))]
        # Daemons, so that an interrupted process does not wait for answers.
        lane.threads = [
            threading.Thread(target=self._work, args=(lane, connection), daemon=True)
            for connection in lane.connections
        ]
        for thread in lane.threads:
            thread.start()

    def _reopen(self, client: VllmClient, error: Exception, *, count: int) -> None:
        """Bring back a server that a thread found gone, with all its threads."""
        (lane,) = [lane for lane in self._lanes if lane.client is client]
        if not lane.down:
            return  # reported by several threads, brought back already
        self._close(lane)
        self._bring_back(client, error)
        self._open(lane, count=count)

    def _close(self, lane: _Lane) -> None:
        with self._changed:
            self._changed.notify_all()
        for connection in lane.connections:
            connection.abandon()
        for thread in lane.threads:
            thread.join()

    def _end(self) -> None:
        self._ended.set()
        with self._changed:
            self._changed.notify_all()
        for lane in self._lanes:
            for connection in lane.connections:
                connection.abandon()

    def _work(self, lane: _Lane, connection: Connection) -> None:
        while (request := self._next_of(lane)) is not None:
            try:
                drawn = self._draw(lane.client, connection, request)
            except Exception as error:
                if self._ended.is_set():
                    return
                self._failed(lane, request, error)
            else:
                self._told.put(_Done(request.index, drawn))

    def _next_of(self, lane: _Lane) -> Request | None:
        try:
            return self._take(lane)
        except Exception as error:  # `more` fails: the ranks are cut off
            self._give_up(error)
            return None

    def _take(self, lane: _Lane) -> Request | None:
        """Return the lane's next request, or one of the fullest lane, or of `more`; None at the
        end."""
        with self._changed:
            while not self._ended.is_set() and not lane.down:
                if lane.requests:
                    return lane.requests.popleft()
                fullest = max(self._lanes, key=lambda other: len(other.requests))
                if fullest.requests:
                    return fullest.requests.pop()
                if self._more is None:
                    self._changed.wait()
                else:
                    self._take_more(lane, self._more())
            return None

    def _take_more(self, lane: _Lane, requests: Sequence[Request]) -> None:
        lane.requests.extend(requests)
        if not requests:
            self._more = None
        self._told.put(_More(len(requests)))  # before what becomes of them

    def _put_back(self, lane: _Lane, request: Request) -> None:
        with self._changed:
            lane.requests.appendleft(request)
            self._changed.notify()

    def _failed(self, lane: _Lane, request: Request, error: Exception) -> None:
        if lane.down:  # the connection was closed: not a failure of the request
            self._put_back(lane, request)
            return
        gone = self._is_gone(lane.client, error)
        no = error if isinstance(error, ServerSaysNo) else None
        if not gone and not (isinstance(error, ServerSlow) or (no and no.may_pass)):
            self._give_up(BackendError(f"{lane.client}: {no}") if no else error)
            return
        request.failures += 1
        if request.failures > self._retries:
            self._give_up(
                BackendError(
                    f"{lane.client}: a request failed {request.failures} times (last: {error}); "
                    "raise rollout.backend.retries, or request_timeout_s if it is slow"
                )
            )
            return
        if gone:
            with self._changed:
                first, lane.down = not lane.down, True
            self._put_back(lane, request)
            if first:
                self._told.put(_Gone(lane.client, error))
            return
        wait = min(self._backoff_s * 2 ** (request.failures - 1), _LONGEST_BACKOFF_S)
        self._ended.wait(wait)
        self._put_back(lane, request)

    def _give_up(self, error: BaseException) -> None:
        self._told.put(error)
        self._ended.set()  # no thread takes another request
        with self._changed:
            self._changed.notify_all()

    def _is_gone(self, client: VllmClient, error: Exception) -> bool:
        """Whether the server or its adapter is gone, whatever the request."""
        if isinstance(error, ServerGone):
            return True
        if not isinstance(error, ServerSaysNo):
            return False
        if error.status == 404:  # the adapter is unknown: the server was restarted
            return True
        if error.status < 500:
            return False
        return not client.is_ready()  # vLLM's front end outlives its engine for a while
