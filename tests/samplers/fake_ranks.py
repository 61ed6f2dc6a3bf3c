"""Ranks that are threads of this process; what they send is pickled, as between processes."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from dgpo_cli.parallel.ranks import Call, Ranks
from dgpo_cli.samplers.ranked import RankedSampler

T = TypeVar("T")

LIMIT_S = 30.0


class Hub:
    """What the ranks share: a box for each message, a counter for each name."""

    def __init__(self) -> None:
        self.boxes: dict[Any, SimpleQueue[bytes]] = {}
        self.counters: dict[str, Iterator[int]] = {}
        self.lock = threading.Lock()

    def box(self, *key: Any) -> SimpleQueue[bytes]:
        with self.lock:
            return self.boxes.setdefault(key, SimpleQueue())

    def next(self, name: str) -> int:
        with self.lock:
            return next(self.counters.setdefault(name, count()))


class FakeRanks(Ranks):
    """One of `count` ranks."""

    local = 0
    sequence = 1

    def __init__(self, hub: Hub, *, number: int, count: int, collective: bool) -> None:
        self.number, self.count, self.collective = number, count, collective
        self._hub = hub
        self._channels = 0
        self._control = self.channel()

    @contextmanager
    def call(self, name: str, *args: Any) -> Iterator[None]:
        self._control.send((name, args))
        yield

    def calls(self) -> Iterator[Call]:
        while (call := self._control.receive()) is not None:
            yield call

    def channel(self) -> FakeChannel:
        self._channels += 1
        return FakeChannel(self, self._hub, self._channels)

    def counter(self, name: str) -> Callable[[], int]:
        return lambda: self._hub.next(name)

    def close(self) -> None:
        self._control.send(None)


class FakeChannel:
    """A queue to each follower, and one back."""

    def __init__(self, ranks: FakeRanks, hub: Hub, number: int) -> None:
        self._ranks, self._hub, self._number = ranks, hub, number

    def send(self, value: object) -> None:
        for rank in range(1, self._ranks.count):
            self._hub.box(self._number, "to", rank).put(pickle.dumps(value))

    def receive(self) -> Any:
        return self._taken("to", self._ranks.number)

    def gather(self, value: T) -> list[T] | None:
        if not self._ranks.leads:
            self._hub.box(self._number, "from", self._ranks.number).put(pickle.dumps(value))
            return None
        return [value, *(self._taken("from", rank) for rank in range(1, self._ranks.count))]

    def _taken(self, way: str, rank: int) -> Any:
        try:
            return pickle.loads(self._hub.box(self._number, way, rank).get(timeout=LIMIT_S))
        except Empty as error:  # as from torch, when a process is gone
            raise RuntimeError(f"rank {rank} is gone") from error


def led(
    work: Callable[[Any], T],
    *,
    count: int,
    make: Callable[[FakeRanks], RankedSampler],
    collective: bool = False,
) -> T:
    """Return work(the leader's sampler) while the others follow; all must end."""
    hub = Hub()
    before = set(threading.enumerate())
    ranks = [FakeRanks(hub, number=n, count=count, collective=collective) for n in range(count)]

    def follow(own: FakeRanks) -> None:
        sampler = make(own)
        for name, args in own.calls():
            sampler.calls()[name](*args)

    for own in ranks[1:]:
        threading.Thread(target=follow, args=(own,), name="follower", daemon=True).start()
    sampler = make(ranks[0])
    try:
        return work(sampler)
    finally:
        sampler.close()
        ranks[0].close()
        own_threads = ("follower", "dgpo-sampling", "dgpo-words")
        for thread in set(threading.enumerate()) - before:
            if thread.name in own_threads:
                thread.join(LIMIT_S)
                assert not thread.is_alive(), f"{thread.name} did not end"
