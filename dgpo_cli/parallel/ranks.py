"""Ranks: the processes that train one policy together, one a device.

Rank 0 leads: it runs the loop and has the run folder, the prompts, the grader and the console. The
others follow: each holds the same engine and runs every call that the leader announces. With one
device there is `OneRank`, for which all of this is nothing.
"""

from __future__ import annotations

import datetime
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.distributed import ProcessGroup, Store  # type: ignore[attr-defined]

T = TypeVar("T")
Call = tuple[str, tuple[Any, ...]]

_FOREVER = datetime.timedelta(days=365)  # of channels, which the leader may leave idle
_BUCKET = 1 << 26  # numbers that are summed at a time


class Channel(Protocol):
    """A conversation of the leader with its followers; each belongs to one thread of a rank.

    group: of all ranks, for other exchanges of that thread.
    """

    @property
    def group(self) -> ProcessGroup: ...

    def send(self, value: object) -> None:
        """Send to every follower; only the leader does."""
        ...

    def receive(self) -> Any:
        """Wait for what the leader sends next."""
        ...

    def gather(self, value: T) -> list[T] | None:
        """Return the values of all ranks, in their order, to the leader, None to the others."""
        ...


class Stoppable(Protocol):
    """A run that other ranks, or what started them, can ask to stop."""

    def ask(self, number: int, times: int) -> None:
        """Stop as if the signal `number` had come so many times. Any thread may call this."""
        ...

    def fail(self, error: Exception) -> None:
        """Raise this in the main thread, where it is. Any thread may call this."""
        ...

    def tell(self, text: str) -> None:
        """Tell the user about the ranks. Any thread may call this."""
        ...


class Watcher:
    """Watches over the ranks while they talk, as watch.py does; this one does not."""

    echo_s = 0.0

    def begin(self, store: Store) -> None:
        """The ranks have a store: look for the others there."""

    def met(self) -> None:
        """All ranks have begun."""

    def doing(self, name: str) -> None:
        """This rank begins a call."""

    def over(self) -> None:
        """The leader has made its last call."""

    def dealt(self, parts: int) -> None:
        """This rank runs so many micro-batches."""

    def waiting(self) -> AbstractContextManager[None]:
        """This rank waits for the others while the context is open."""
        return nullcontext()

    def check(self) -> None:
        """Raise RankError if another rank has failed."""

    def heed(self, run: Stoppable | None) -> None:
        """From now on this run can be asked to stop; None: no longer."""


class Ranks(Protocol):
    """All ranks, as one of them sees them.

    number, count: of this rank, from 0, and of all. local: its number on this machine.
    sequence: consecutive ranks that share each micro-batch: a lane.
    collective: whether a forward pass needs all ranks, as that of a sharded model does.
    echo_s: within that time, what started the ranks repeats a signal that they have got already.
    """

    number: int
    count: int
    local: int
    sequence: int
    collective: bool
    echo_s: float

    @property
    def lanes(self) -> int:
        return self.count // self.sequence

    @property
    def lane(self) -> int:
        return self.number // self.sequence

    @property
    def leads(self) -> bool:
        return self.number == 0

    def call(self, name: str, *args: Any) -> AbstractContextManager[None]:
        """Announce a call, which every follower runs; the leader runs it inside the context."""
        ...

    def calls(self) -> Iterator[Call]:
        """Yield what the leader announces until it ends; a follower runs each."""
        ...

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors of one dtype by their sums over the ranks."""
        ...

    def gather(self, value: T) -> list[T]:
        """Return a small object of every rank, in their order."""
        ...

    def share(self, value: T | None) -> T:
        """Return the leader's value."""
        ...

    def deal(self, parts: Sequence[T]) -> list[tuple[T, bool]]:
        """Return the micro-batches of this lane, and whether each counts.

        Where passes are collective every lane gets equally many: some are repeats, which do not
        count.
        """
        ...

    def channel(self) -> Channel:
        """Open a conversation for another thread. Every rank does it, in the same order."""
        ...

    def counter(self, name: str) -> Callable[[], int]:
        """Return a function that counts 0, 1, 2 ... over all ranks; a name counts once."""
        ...

    def heed(self, run: Stoppable | None) -> None:
        """Let other ranks ask this run to stop; None: no longer."""
        ...

    def lane_group(self) -> ProcessGroup:
        """Open a process group of the ranks of this lane. Every rank does it."""
        ...

    def close(self) -> None:
        """End: the followers' calls are over. Every rank does it, a follower after its last call.

        After an error inside a call they cannot hear it: they end when this process does.
        """
        ...


@dataclass
class OneRank(Ranks):
    """The only rank: one device."""

    number = 0
    count = 1
    local = 0
    sequence = 1
    collective = False
    echo_s = 0.0

    def call(self, name: str, *args: Any) -> AbstractContextManager[None]:
        """See Ranks.call: nobody follows."""
        return nullcontext()

    def calls(self) -> Iterator[Call]:
        """See Ranks.calls: nobody leads."""
        return iter(())

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """See Ranks.sum_: they are the sums."""

    def gather(self, value: T) -> list[T]:
        return [value]

    def share(self, value: T | None) -> T:
        assert value is not None
        return value

    def deal(self, parts: Sequence[T]) -> list[tuple[T, bool]]:
        return [(part, True) for part in parts]

    def channel(self) -> Channel:
        raise NotImplementedError("one rank has nobody to talk to")

    def counter(self, name: str) -> Callable[[], int]:
        raise NotImplementedError("one rank shares no work")

    def lane_group(self) -> ProcessGroup:
        raise NotImplementedError("a lane has several ranks")

    def heed(self, run: Stoppable | None) -> None:
        """See Ranks.heed: there is nobody else."""

    def close(self) -> None:
        """See Ranks.close."""


ALONE = OneRank()


@dataclass(frozen=True, slots=True)
class Seat:
    """The number of a process among all, and where they meet.

    hosts: whether it opens the store at address:port; else it connects to it. listener: a socket
        that listens there already. attempt: how often the ranks were started anew before.
    """

    number: int
    count: int
    local: int
    address: str
    port: int
    hosts: bool
    listener: int | None = None
    attempt: int = 0


class TorchRanks(Ranks):
    """Ranks over torch.distributed: NCCL between GPUs, gloo between CPUs and for objects."""

    def __init__(
        self,
        seat: Seat,
        *,
        device: torch.device,
        sequence: int = 1,
        collective: bool = False,
        timeout_s: float = 1800.0,
        watch: Watcher | None = None,
    ) -> None:
        """Meet the other ranks.

        timeout_s: that a collective, or the meeting, may wait.

        Raises:
            torch.distributed.DistError: not all came.
        """
        import torch.distributed as dist

        self.number, self.count, self.local = seat.number, seat.count, seat.local
        self.sequence, self.collective = sequence, collective
        self.device, self.host = device, socket.gethostname()
        self._limit = limit = datetime.timedelta(seconds=timeout_s)
        opened = dist.TCPStore(  # type: ignore[attr-defined]
            seat.address,
            seat.port,
            is_master=seat.hosts,
            timeout=limit,
            wait_for_workers=False,
            master_listen_fd=seat.listener,
        )
        self.store: Store = dist.PrefixStore(f"dgpo/{seat.attempt}", opened)  # type: ignore[attr-defined]
        self._watch = watch or Watcher()
        self.echo_s = self._watch.echo_s
        self._watch.begin(self.store)
        cuda = device.type == "cuda"
        with self._watch.waiting():
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if cuda else "gloo",
                store=dist.PrefixStore("group", self.store),  # type: ignore[attr-defined]
                rank=seat.number,
                world_size=seat.count,
                timeout=limit,
                device_id=device if cuda else None,
            )
            self._watch.met()
        self._calling, self._over = 0, False
        self._control = self.channel()
        self._objects = dist.new_group(backend="gloo", timeout=limit)

    @contextmanager
    def call(self, name: str, *args: Any) -> Iterator[None]:
        """See Ranks.call. In a follower, which is in that call already, it does nothing."""
        if not self.leads:
            yield
            return
        self._watch.check()
        self._watch.doing(name)
        self._control.send((name, args))
        self._calling += 1
        yield
        self._calling -= 1  # not after an error: the followers are still in the call

    def calls(self) -> Iterator[Call]:
        """See Ranks.calls."""
        while (call := self._next_call()) is not None:
            self._watch.doing(call[0])
            yield call
        self._over = True
        self._watch.over()

    def _next_call(self) -> Call | None:
        with self._watch.waiting():
            call: Call | None = self._control.receive()
        return call

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """See Ranks.sum_. They are moved to the device in buckets."""
        import torch.distributed as dist

        for bucket in _buckets(tensors):
            flat = _flat(bucket).to(self.device)
            with self._watch.waiting():
                dist.all_reduce(flat)
            start = 0
            for tensor in bucket:
                tensor.copy_(flat[start : start + tensor.numel()].view_as(tensor))
                start += tensor.numel()

    def gather(self, value: T) -> list[T]:
        """See Ranks.gather."""
        import torch.distributed as dist

        found: list[Any] = [None] * self.count
        with self._watch.waiting():
            dist.all_gather_object(found, value, group=self._objects)
        return found

    def share(self, value: T | None) -> T:
        """See Ranks.share."""
        import torch.distributed as dist

        box: list[Any] = [value]
        with self._watch.waiting():
            dist.broadcast_object_list(box, src=0, group=self._objects)
        shared: T = box[0]
        return shared

    def deal(self, parts: Sequence[T]) -> list[tuple[T, bool]]:
        """See Ranks.deal."""
        dealt = [(part, True) for part in parts[self.lane :: self.lanes]]
        most = -(-len(parts) // self.lanes)
        if self.collective and len(dealt) < most:
            dealt.append((parts[0], False))
        self._watch.dealt(len(dealt))
        return dealt

    def channel(self) -> Channel:
        """See Ranks.channel."""
        import torch.distributed as dist

        return _GlooChannel(self, dist.new_group(backend="gloo", timeout=_FOREVER))

    def counter(self, name: str) -> Callable[[], int]:
        """See Ranks.counter."""
        return lambda: int(self.store.add(f"counter/{name}", 1)) - 1

    def heed(self, run: Stoppable | None) -> None:
        """See Ranks.heed."""
        self._watch.heed(run)

    def lane_group(self) -> ProcessGroup:
        """See Ranks.lane_group."""
        import torch.distributed as dist

        lanes = [list(range(n, n + self.sequence)) for n in range(0, self.count, self.sequence)]
        group: ProcessGroup
        group, _ = dist.new_subgroups_by_enumeration(lanes, timeout=self._limit)
        return group

    def close(self) -> None:
        """See Ranks.close."""
        import torch.distributed as dist

        if self.leads and not self._calling:
            self._control.send(None)
            self._over = True
        if self._over:
            dist.destroy_process_group()


class _GlooChannel:
    """A channel in a process group of its own."""

    def __init__(self, ranks: Ranks, group: ProcessGroup) -> None:
        self._ranks, self.group = ranks, group

    def send(self, value: object) -> None:
        import torch.distributed as dist

        dist.broadcast_object_list([value], src=0, group=self.group)

    def receive(self) -> Any:
        import torch.distributed as dist

        box: list[Any] = [None]
        dist.broadcast_object_list(box, src=0, group=self.group)
        return box[0]

    def gather(self, value: T) -> list[T] | None:
        import torch.distributed as dist

        found: list[Any] | None = [None] * self._ranks.count if self._ranks.leads else None
        dist.gather_object(value, found, dst=0, group=self.group)
        return found


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Yield tensors of about _BUCKET numbers together; a larger one in slices."""
    bucket: list[Tensor] = []
    size = 0
    for tensor in tensors:
        flat = tensor.view(-1) if tensor.is_contiguous() else tensor
        pieces = flat.split(_BUCKET) if flat.ndim == 1 else (flat,)
        for piece in pieces:
            if bucket and size + piece.numel() > _BUCKET:
                yield bucket
                bucket, size = [], 0
            bucket.append(piece)
            size += piece.numel()
    if bucket:
        yield bucket


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    import torch

    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
