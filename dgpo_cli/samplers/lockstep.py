"""What ranks do together for their samplers: start engines and hand over weights.

Weights of a sharded model can be read only by all ranks at once, but each has an engine of its own,
which may need them again, or fail. So ranks agree on every such reading: one that wants to read
waits until all others want to, or are done, and whoever wanted something else reads along in vain.
An engine on the devices of several ranks starts or wakes when all of them have freed what they can.
"""

from __future__ import annotations

import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, TypeVar

from dgpo_cli.core.errors import BackendError, DgpoError
from dgpo_cli.samplers.base import GatheredWeights

if TYPE_CHECKING:
    from dgpo_cli.parallel.ranks import Ranks
    from dgpo_cli.samplers.base import Described, Named, TrainedWeights, Weights

T = TypeVar("T")

_POLL_S = 0.5  # how soon Ctrl-C is noticed


def patiently(work: Callable[[], T]) -> T:
    """Return work(), which waits for other ranks in a thread: signals are handled meanwhile."""
    found: SimpleQueue[T | BaseException] = SimpleQueue()

    def run() -> None:
        try:
            found.put(work())
        except BaseException as error:
            found.put(error)

    threading.Thread(target=run, name="dgpo-ranks", daemon=True).start()
    while True:
        with suppress(Empty):
            value = found.get(timeout=_POLL_S)
            if isinstance(value, BaseException):
                raise value
            return value


@dataclass(frozen=True, slots=True)
class Failure:
    """An error of a rank, as the leader reports it."""

    kind: type[DgpoError]
    text: str

    @classmethod
    def of(cls, error: Exception, *, rank: int) -> Failure:
        """Name the rank, its machine and the error, in one line."""
        where = f"rank {rank} ({socket.gethostname()})"
        if isinstance(error, DgpoError):
            return cls(type(error), f"{where}: {error}")
        said = " ".join(f"{type(error).__name__}: {error}".split())
        return cls(BackendError, f"{where}: {said}")

    def error(self) -> DgpoError:
        return self.kind(self.text)


@dataclass(frozen=True, slots=True)
class _Want:
    """What a rank wants all to do: to read something, or to free memory.

    adapter: with it, for log-probabilities.
    """

    what: str
    adapter: bool = True


@dataclass(frozen=True, slots=True)
class _Done:
    """A rank wants nothing more."""

    failure: Failure | None


class Lockstep:
    """The policy of one of several ranks, for its sampler. See TrainedWeights.

    Where the weights are whole on every rank, all of it is the policy itself.
    """

    def __init__(
        self,
        weights: TrainedWeights,
        *,
        ranks: Ranks,
        use_device: Callable[[], None] = lambda: None,
    ) -> None:
        """use_device: makes a thread use this rank's device."""
        self.weights = weights
        self._ranks = ranks
        self._channel = ranks.channel()
        self._gathers = ranks.collective
        self._use_device = use_device
        self._together = False
        self._rest: Iterator[Named] | None = None  # of a reading that was broken off

    def together(self, work: Callable[[], None]) -> Exception | None:
        """Run something on every rank, which may read the weights as often as it wants.

        Returns:
            The error of the leader or else of the first rank that failed, to the leader, who may
            need the others for a checkpoint; None to these.
        """
        self._together = True
        error = _error_of(work)
        while True:
            failure = None if error is None else Failure.of(error, rank=self._ranks.number)
            chosen, wants = self._choose(_Done(failure))
            if chosen is None:
                break
            another = _error_of(partial(self._read_along, chosen))
            error = error or another
        self._together = False
        if not self._ranks.leads:
            return None
        failed = (each.failure for each in wants if isinstance(each, _Done) and each.failure)
        return error or next((failure.error() for failure in failed), None)

    # TrainedWeights.

    @property
    def in_memory(self) -> bool:
        """See TrainedWeights.in_memory."""
        return self.weights.in_memory

    @property
    def stop_ids(self) -> frozenset[int]:
        return self.weights.stop_ids

    @property
    def has_adapter(self) -> bool:
        return self.weights.has_adapter

    @property
    def adapter_rank(self) -> int:
        """See TrainedWeights.adapter_rank."""
        return self.weights.adapter_rank

    @property
    def untouched(self) -> bool:
        """See TrainedWeights.untouched."""
        return self.weights.untouched

    def decode(self, token_ids: Sequence[int]) -> str:
        """See TrainedWeights.decode."""
        return self.weights.decode(token_ids)

    def spell(self, token_ids: Sequence[int]) -> str:
        """See TrainedWeights.spell."""
        return self.weights.spell(token_ids)

    def canary_ids(self) -> tuple[int, ...]:
        """See TrainedWeights.canary_ids."""
        return self.weights.canary_ids()

    def save(self, folder: Path) -> None:
        """See TrainedWeights.save. Raises BackendError for a sharded model without adapter."""
        if self._gathers and not self.has_adapter:
            raise BackendError(
                "a sharded model's weights cannot be sent through a folder; set "
                "rollout.backend.weight_transfer=auto, and start servers with dgpo serve"
            )
        self._await(_Want("save"))
        self.weights.save(folder)

    def tensors(self) -> Weights:
        """See TrainedWeights.tensors; sharded ones are gathered one by one while being read."""
        return _Reading(self) if self._gathers else self.weights.tensors()

    def logprobs_of(
        self, ids: Sequence[int], *, temperature: float, adapter: bool = True
    ) -> list[float]:
        """See TrainedWeights.logprobs_of."""
        self._await(_Want("logprobs", adapter))
        return self.weights.logprobs_of(ids, temperature=temperature, adapter=adapter)

    def release(self) -> None:
        """See TrainedWeights.release; of all ranks, whose devices an engine may share."""
        if not self._together:
            self.weights.release()
            return
        self._meet(_Want("release"))
        self.weights.release()
        self._meet(_Want("released"))  # nobody goes on before all have

    def read(self) -> Iterator[Named]:
        """Yield all weights once, while the other ranks take part."""
        self._use_device()  # the thread may be new
        self._await(_Want("tensors"))
        self._rest = iter(self.weights.tensors())
        while (named := next(self._rest, None)) is not None:
            yield named
        self._rest = None

    # Agreement.

    def _await(self, want: _Want) -> None:
        """Return when all ranks read what this one wants."""
        if not self._gathers:
            return
        if not self._together:
            raise BackendError(
                "a sharded model's weights cannot be sent between two syncs; run the same command "
                "to resume"
            )
        self._meet(want)

    def _meet(self, want: _Want) -> None:
        """Return when all ranks do what this one wants."""
        while (chosen := self._choose(want)[0]) != want:
            assert chosen is not None
            self._read_along(chosen)

    def _choose(self, want: _Want | _Done) -> tuple[_Want | None, Sequence[_Want | _Done]]:
        """Return what is read next, None at the end, and to the leader what each rank wants."""
        if self._rest is not None:
            deque(self._rest, maxlen=0)  # the others wait for each tensor
            self._rest = None

        def exchange() -> tuple[_Want | None, Sequence[_Want | _Done]]:
            wants = self._channel.gather(want)
            if wants is None:
                return self._channel.receive(), ()
            chosen = next((each for each in wants if isinstance(each, _Want)), None)
            self._channel.send(chosen)
            return chosen, wants

        return patiently(exchange)

    def _read_along(self, want: _Want) -> None:
        """Take part in a reading of other ranks."""
        match want.what:
            case "tensors":
                deque(self.weights.tensors(), maxlen=0)
            case "logprobs":
                ids = self.weights.canary_ids()
                self.weights.logprobs_of(ids, temperature=1.0, adapter=want.adapter)
            case "release":
                self.weights.release()
            case "released":
                pass
            case _:
                with TemporaryDirectory() as folder:
                    self.weights.save(Path(folder))


def _error_of(work: Callable[[], None]) -> Exception | None:
    try:
        work()
    except Exception as error:
        return error
    return None


class _Reading:
    """All weights of a sharded model. See GatheredWeights."""

    def __init__(self, lockstep: Lockstep) -> None:
        self._lockstep = lockstep

    def __iter__(self) -> Iterator[Named]:
        return self._lockstep.read()

    @property
    def described(self) -> Sequence[Described]:
        """See GatheredWeights.described."""
        weights = self._lockstep.weights.tensors()
        assert isinstance(weights, GatheredWeights)
        return weights.described
