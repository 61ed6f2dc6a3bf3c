"""What a command tells of itself while it works, and who listens.

A workflow is given one observer and tells it everything: there are no other callbacks. What must
not be lost (metrics, checkpoints, samples) is written by the workflow itself, because a run that
cannot write them has to end; an observer may fail, and the run goes on without it.
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from dgpo_cli.core.errors import without_logins

if TYPE_CHECKING:
    from dgpo_cli.core.types import Diagnosis, Evaluation, ScoredGroup, StepMetrics


@dataclass(frozen=True, slots=True)
class Note:
    """Something the user should know, in one line. It may hold text of a model."""

    text: str


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a phase has come: its first event has done == 0, its last one is `over`.

    key: tells two phases of one name apart that go on at the same time.
    """

    key: int
    name: str
    total: int
    unit: str
    done: int = 0
    over: bool = False


@dataclass(frozen=True, slots=True)
class Sampled:
    """Step `step` (from 1) has drawn and scored these groups; it has not been trained on."""

    step: int
    groups: tuple[ScoredGroup, ...]


@dataclass(frozen=True, slots=True)
class StepDone:
    """Step `step` is finished and its line is in metrics.jsonl."""

    step: int
    metrics: StepMetrics


@dataclass(frozen=True, slots=True)
class Evaluated:
    """The weights after `step` steps were evaluated. curve: the lines of evals.jsonl so far."""

    step: int
    evaluation: Evaluation
    curve: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Diagnosed:
    """What is wrong with the run after `step`, the most important first; told after every step.

    Only what has appeared or gone is a Note too.
    """

    step: int
    diagnoses: tuple[Diagnosis, ...]


@dataclass(frozen=True, slots=True)
class Checkpointed:
    """The checkpoint after `step` steps is complete in the folder `path`."""

    step: int
    path: Path


EndState = Literal["done", "stopped", "failed"]


@dataclass(frozen=True, slots=True)
class Ended:
    """A training run is over: its last event, whatever ended it."""

    state: EndState


Event = Note | Progress | Sampled | StepDone | Evaluated | Diagnosed | Checkpointed | Ended


class Observer(Protocol):
    """Listens to events. It may be called from several threads, one at a time, and while a signal
    is handled."""

    def on(self, event: Event) -> None:
        """Take one event; those of no interest are passed over."""
        ...


class Observers:
    """Tells every member of each event. One that raises is dropped, and the others get a Note.

    Events go one after the other, whichever thread they come from. What is told while a member is
    being told (by that member, or by a signal's handler in between) comes after it.
    """

    def __init__(self, members: Iterable[Observer] = ()) -> None:
        self._members = list(members)
        self._waiting: deque[Event] = deque()
        self._lock = threading.RLock()
        self._telling = False

    def add(self, member: Observer) -> None:
        """Tell this one too from now on, after the others."""
        self._members.append(member)

    def on(self, event: Event) -> None:
        """Tell the members, in their order."""
        self._waiting.append(event)
        with self._lock:
            if self._telling:
                return
            self._telling = True
            try:
                while self._waiting:
                    self._tell(self._waiting.popleft())
            finally:
                self._telling = False

    def _tell(self, event: Event) -> None:
        for member in tuple(self._members):
            try:
                member.on(event)
            except Exception as error:
                self._members = [each for each in self._members if each is not member]
                reason = without_logins(" ".join(f"{type(error).__name__}: {error}".split()))[:300]
                self._waiting.append(
                    Note(f"{type(member).__name__} failed and is off from here on: {reason}")
                )


NOBODY: Observer = Observers()

_keys = itertools.count()


def tell(observer: Observer, text: str) -> None:
    """Tell a Note."""
    observer.on(Note(text))


@contextmanager
def phase(
    observer: Observer, name: str, *, total: int, unit: str
) -> Iterator[Callable[[int], None]]:
    """Tell of a phase of `total` units while the context is open; call what it gives with the
    number of units that are newly done."""
    key, done = next(_keys), 0

    def advance(amount: int) -> None:
        nonlocal done
        done += amount
        observer.on(Progress(key, name, total, unit, done))

    observer.on(Progress(key, name, total, unit))
    try:
        yield advance
    finally:
        observer.on(Progress(key, name, total, unit, done, over=True))
