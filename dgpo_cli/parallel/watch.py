"""Watches over the ranks of a run, in a thread of each, so that no rank waits for one that is gone.

Every second each rank writes its heartbeat into the store that rank 0 keeps, and looks there: the
leader for the heartbeats of all, a follower for that of the leader, everybody for a failure. A
rank that fails says so there first. Once a failure is known, it is raised in the main thread of
every rank; a main thread that hangs in an exchange is not waited for long.
"""

from __future__ import annotations

import datetime
import json
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from dgpo_cli.core.errors import RankError, in_one_line
from dgpo_cli.core.text import visible
from dgpo_cli.parallel.heartbeat import Failure, Heartbeat, of_exchange
from dgpo_cli.parallel.pace import Pace, Paces, names
from dgpo_cli.parallel.place import DGPO, Place
from dgpo_cli.parallel.ranks import Stoppable, Watcher

if TYPE_CHECKING:
    from torch.distributed import Store  # type: ignore[attr-defined]

INTERVAL_S = 1.0  # between two heartbeats
# In heartbeats: the silence after which a rank counts as gone (a call may hold the interpreter, a
# machine may swap); after a failure, the time for a main thread to end by itself and to leave its
# exchange; the time for the store to come back, and of waiting until a note names the rank; the
# time for the threads here to end.
_SILENT, _GRACE, _LEAVE, _LOST, _NOTE, _END = 20, 6, 2, 5, 60, 2
_ANSWER_S = 5.0  # for one question to the store
_ECHO_S = 0.5
_MANY = 4096  # bytes that are read at once
_WAKE = b"\0"  # among the numbers of signals, no signal
_SILENCE = "no sign of life for {:g} s"
_FAILED, _ENDED = "failed", "ended"


class Watch(Watcher):
    """Watches for one rank; use `guarding` around all that the rank does."""

    def __init__(
        self,
        place: Place,
        *,
        tell: Callable[[str], None],
        log: Path | None = None,
        stop_signal: str = "none",
        interval_s: float = INTERVAL_S,
        leave: Callable[[int], None] = os._exit,
    ) -> None:
        """tell: shows a note while no run is heeded. leave: ends a process that hangs."""
        self.number, self.count = place.seat.number, place.seat.count
        self.echo_s = _ECHO_S if place.by in ("torchrun", "mpirun") else 0.0
        self.failure: RankError | None = None
        self._tell, self._leave, self._interval_s = tell, leave, interval_s
        self._warning = None if stop_signal == "none" else signal.Signals[stop_signal]
        self._control = place.control if place.by == DGPO else None
        self._wakeup = os.pipe()  # what it gets wakes the thread
        self._store: Store | None = None
        self._run: Stoppable | None = None
        self._asked: tuple[int, int] | None = None  # before a run was heeded
        self._own = Heartbeat(0, socket.gethostname(), log=None if log is None else str(log))
        self._last_signal: float | None = None
        self._pace, self._paces = Pace(), Paces()
        self._others: dict[int, Heartbeat] = {}
        self._missed: dict[int, int] = {}
        self._waits_since: float | None = None
        self._noted: float | None = None  # the wait that was noted
        self._lost_since: float | None = None  # no answer of the store
        self._unanswered = 0  # times that the heart should have beaten since it last did
        self._deadline: float | None = None  # for the main thread to end by itself
        self._failed_at: float | None = None
        self._code = 1
        self._calls_over = self._told = False
        self._failed, self._closed = threading.Event(), threading.Event()
        self._due = threading.Event()
        self._lock = threading.Lock()
        self._before: dict[int, Any] = {}
        self._thread = threading.Thread(target=self._watch, name="watch", daemon=True)
        self._heart = threading.Thread(target=self._beat_when_due, name="heart", daemon=True)

    @property
    def leads(self) -> bool:
        return self.number == 0

    # What the main thread does.

    @contextmanager
    def guarding(self) -> Iterator[None]:
        """Watch while the context is open; an error in it is told to all ranks.

        Raises:
            RankError: another rank failed first.
        """
        self._catch_signals()
        self._thread.start()
        self._heart.start()
        try:
            yield
        except Exception as error:
            cause = self._cause(error)
            if cause is error:
                raise
            raise cause from error
        finally:
            self._close()

    def begin(self, store: Store) -> None:
        """See Watcher.begin."""
        mine = store.clone()  # type: ignore[attr-defined]
        mine.set_timeout(datetime.timedelta(seconds=_ANSWER_S))
        self._store = mine
        self._beat()  # a rank that is gone within a second is missed too, and named

    def met(self) -> None:
        """See Watcher.met."""
        if not self.leads:
            self._look_at_leader()

    def doing(self, name: str) -> None:
        """See Watcher.doing."""
        self._own.call = name
        self._pace.begin()

    def over(self) -> None:
        """See Watcher.over."""
        self._calls_over = True

    def dealt(self, parts: int) -> None:
        """See Watcher.dealt."""
        self._pace.deal(parts)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """See Watcher.waiting."""
        self._pace.pause()
        self._waits_since = time.monotonic()
        try:
            yield
        finally:
            self._waits_since = None
            self._pace.begin()

    def check(self) -> None:
        """See Watcher.check."""
        if self.failure is not None:
            raise self.failure

    def heed(self, run: Stoppable | None) -> None:
        """See Watcher.heed."""
        self._run = run
        if run is not None and self._asked is not None:
            run.ask(*self._asked)

    def _cause(self, error: Exception) -> Exception:
        """Return the error that came first on any rank; tell the others of this one if it did."""
        if isinstance(error, RankError):
            return error
        if of_exchange(error):
            self._failed.wait((_SILENT + 3) * self._interval_s)
            if self.failure is not None:
                return self.failure
            late = names(self._behind(), {n: each.host for n, each in self._others.items()})
            if late:
                return RankError(
                    f"an exchange failed while waiting for {late}: {in_one_line(error)}; raise "
                    "parallel.timeout_s if it is only slow"
                )
        if self.failure is not None:
            return self.failure
        mine = Failure(self.number, self._own.host, in_one_line(error), self._own.log)
        first = self._publish(mine)
        return error if first == mine else RankError(str(first))

    def _publish(self, failure: Failure) -> Failure:
        """Write a failure into the store; return the one that was there first."""
        if self._store is None or self._unanswered > _SILENT:
            return failure
        try:
            found = self._store.compare_set(_FAILED, "", json.dumps(asdict(failure)))
            return Failure(**json.loads(found))
        except Exception:  # the store is gone with rank 0, or has something else there
            return failure

    def _close(self) -> None:
        if self.leads and self._store is not None:
            with suppress(Exception):  # nobody is left to read it
                self._store.set(_ENDED, "1")
        self._told = True
        self._closed.set()
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._before and not self.leads:
            signal.set_wakeup_fd(-1)
        self._join()

    def _join(self) -> None:
        """Wait for the threads to end, but not for long: the store may be gone.

        After a failure the watch goes on: the main thread may hang on its way out.
        """
        self._due.set()
        os.write(self._wakeup[1], _WAKE)
        until = time.monotonic() + _END * self._interval_s
        for thread in (self._heart, *([self._thread] if self._deadline is None else ())):
            thread.join(max(0.0, until - time.monotonic()))

    # Signals.

    def _catch_signals(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        numbers = [signal.SIGINT, signal.SIGTERM]
        if self._warning is not None:
            numbers.append(self._warning)
        if not self.leads:
            # Read by the thread, for the main thread may hang in an exchange.
            os.set_blocking(self._wakeup[1], False)
            signal.set_wakeup_fd(self._wakeup[1], warn_on_full_buffer=False)
        handle = self._handle_early if self.leads else self._handle_nothing
        self._before = {number: signal.signal(number, handle) for number in numbers}

    def _handle_nothing(self, number: int, frame: FrameType | None) -> None:
        """A follower's: the thread tells the leader."""
        if not self._closed.is_set():
            self.check()

    def _handle_early(self, number: int, frame: FrameType | None) -> None:
        """The leader's, before it has anything to keep: as without ranks."""
        self.check()
        if number == self._warning:
            self._asked = self._asked or (number, 0)
            return
        self._asked = number, 1
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    def _ask(self, number: int, times: int) -> None:
        """Another rank, or what started the ranks, got a signal so many times."""
        if not self.leads:
            before = self._own.stop or (number, 0)
            self._own.stop = number, max(times, before[1])
        elif self._run is not None:
            self._run.ask(number, times)
        elif times == 0:
            self._asked = self._asked or (number, 0)
        elif self._asked is None or self._asked[1] < times:
            self._code = 128 + number
            self._deadline = time.monotonic() + _GRACE * self._interval_s  # it may hang in torch
            os.kill(os.getpid(), number)

    def _take_signals(self, came: bytes) -> None:
        """Count the signals of a follower, and pass them on; the second ends it."""
        for number in came:
            now, last = time.monotonic(), self._last_signal
            if self.failure is not None or number not in self._before:
                continue
            if last is not None and now - last < self.echo_s:
                continue
            self._last_signal = now
            times = (self._own.stop or (number, 0))[1] + (number != self._warning)
            self._own.stop = number, times
            if times > 1:
                self._beat()
                self._leave(128 + number)

    # What the thread does.

    def _watch(self) -> None:
        due = time.monotonic()
        while not (self._closed.is_set() and self._deadline is None):
            self._listen(until=due)
            now = time.monotonic()
            if self._deadline is not None and (now > self._deadline or self._is_stuck(now)):
                self._end_hard()
            if now >= due:
                due = now + self._interval_s
                if self._closed.is_set():
                    continue
                self._unanswered += 1
                if self._unanswered > _SILENT:
                    self._leader_ended(_SILENCE.format(_SILENT * self._interval_s))
                self._due.set()

    def _beat_when_due(self) -> None:
        """The heart, a thread of its own: a store whose process is stopped never answers."""
        while not self._closed.is_set():
            if self._due.wait(self._interval_s) and not self._closed.is_set():
                self._due.clear()
                self._tick()
                self._unanswered = 0

    def _listen(self, *, until: float) -> None:
        """Take what the launcher and signals say, until it is time for a heartbeat."""
        ends = [self._wakeup[0]] + ([] if self._control is None else [self._control])
        wait_s = min(max(0.0, until - time.monotonic()), self._interval_s)
        for end in select.select(ends, [], [], wait_s)[0]:
            said = os.read(end, _MANY)
            if end != self._control:
                self._take_signals(said)
            elif said:
                self._obey(said)
            else:  # the launcher was killed: its ranks go with it
                self._control = None
                os.kill(os.getpid(), signal.SIGKILL)

    def _obey(self, said: bytes) -> None:
        for line in said.splitlines():
            match json.loads(line):
                case {"stop": [number, times]}:
                    self._ask(number, times)
                case {"failed": given}:
                    failure = Failure(**given)  # the rank may have told more of it
                    self._fail(self._publish(failure) if self.leads else failure)
                case {"ended": _}:
                    self._leader_ended()

    def _tick(self) -> None:
        """Give a heartbeat, and look for the others."""
        if self._store is None:
            self._note_wait()
            return
        try:
            self._beat()
            if self._store.check([_FAILED]):
                self._fail(Failure(**json.loads(self._store.get(_FAILED))))
            elif self.leads:
                self._look_at_all()
            else:
                self._look_at_leader()
            self._lost_since = None
        except Exception as error:
            self._miss_store(error)

    def _beat(self) -> None:
        own = self._own
        own.beat += 1
        own.waits = self._waits_since is not None
        own.busy_s, own.parts = self._pace.busy_s, self._pace.parts
        if self._store is not None:
            self._store.set(_key(self.number), json.dumps(asdict(own)))

    def _look_at_all(self) -> None:
        """The leader: take the heartbeats of all, and miss those that are silent."""
        assert self._store is not None
        keys = {n: _key(n) for n in range(1, self.count)}
        known = keys if self._store.check([*keys.values()]) else {
            n: key for n, key in keys.items() if n in self._others or self._store.check([key])
        }  # fmt: skip
        found = self._store.multi_get([*known.values()]) if known else []
        for number, raw in zip(known, found, strict=True):
            self._take(number, Heartbeat(**json.loads(raw)))
        stops = [each.stop for each in self._others.values() if each.stop is not None]
        if stops:
            self._ask(*max(stops, key=lambda stop: stop[1]))
        self._note_wait()
        hosts = {n: each.host for n, each in self._others.items()}
        work = {n: (each.busy_s, each.parts) for n, each in self._others.items()}
        work[0] = self._pace.busy_s, self._pace.parts
        slow = self._paces.slow_one(work, hosts | {0: self._own.host}, now=time.monotonic())
        if slow is not None:
            self._say(slow)

    def _look_at_leader(self) -> None:
        assert self._store is not None
        if self._store.check([_ENDED]):
            self._leader_ended()
        elif self._store.check([_key(0)]):
            self._take(0, Heartbeat(**json.loads(self._store.get(_key(0)))))

    def _take(self, number: int, new: Heartbeat) -> None:
        """Take the heartbeat of a rank. Its silence is counted in our own: both may have slept."""
        old, self._others[number] = self._others.get(number), new
        same = old is not None and old.beat == new.beat
        self._missed[number] = self._missed.get(number, 0) + 1 if same else 0
        if self._missed[number] >= _SILENT:
            silence = _SILENCE.format(_SILENT * self._interval_s)
            self._fail(
                Failure(
                    number,
                    new.host,
                    f"{silence}, in {new.call}: it was killed or stopped, or its machine is gone",
                    new.log,
                )
            )

    def _miss_store(self, error: Exception) -> None:
        """The store is with rank 0: if it does not answer for long, neither does that."""
        self._lost_since = self._lost_since or time.monotonic()
        if time.monotonic() - self._lost_since > _LOST * self._interval_s:
            self._leader_ended(f"does not answer: {in_one_line(error)[:200]}")

    def _leader_ended(self, how: str = "has ended") -> None:
        if not self.leads:
            host = self._others[0].host if 0 in self._others else "unknown"
            self._fail(Failure(0, host, how))

    def _fail(self, failure: Failure) -> None:
        """Raise a failure in the main thread; if that hangs, the process ends soon."""
        with self._lock:
            if self.failure is not None or self._closed.is_set() or self._calls_over:
                return
            self.failure = RankError(str(failure))
        self._publish(failure)
        self._failed.set()
        self._code = 1
        self._failed_at = time.monotonic()
        self._deadline = self._failed_at + _GRACE * self._interval_s
        if self._run is not None:
            self._run.fail(self.failure)
        elif self._before:
            os.kill(os.getpid(), signal.SIGTERM)

    def _is_stuck(self, now: float) -> bool:
        """Whether the main thread is still in the exchange in which the failure met it."""
        since, failed_at = self._waits_since, self._failed_at
        if since is None or failed_at is None:
            return False
        return since < failed_at and now > failed_at + _LEAVE * self._interval_s

    def _end_hard(self) -> None:
        self._deadline = None
        words = "interrupted" if self.failure is None else f"error: {visible(str(self.failure))}"
        if not self._told:
            with suppress(OSError):
                os.write(2, f"\n{words}\n".encode())
        self._leave(self._code)

    def _behind(self) -> list[int]:
        """Return the ranks that do not wait, while others wait for them."""
        there = [n for n, each in self._others.items() if not each.waits]
        absent = range(1, self.count) if self.leads else ()
        return sorted({*there, *(n for n in absent if n not in self._others)})

    def _note_wait(self) -> None:
        """The leader: note whom it has been waiting for, once a wait."""
        since = self._waits_since
        if not self.leads or since is None or since == self._noted:
            return
        waited_s = time.monotonic() - since
        late = self._behind()
        if waited_s < _NOTE * self._interval_s or not late:
            return
        self._noted = since
        who = names(late, {n: each.host for n, each in self._others.items()})
        calls = {self._others[n].call if n in self._others else "" for n in late}
        where = f", which is in {calls.pop()}" if len(late) == 1 and calls != {""} else ""
        missing = ", not started yet" if calls == {""} else ""
        self._say(f"waiting {waited_s:.0f} s for {who}{where or missing}")

    def _say(self, text: str) -> None:
        if self._run is not None:
            self._run.tell(text)
        else:
            self._tell(text)


def _key(number: int) -> str:
    return f"beat/{number}"
