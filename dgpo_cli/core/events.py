"""Events of a command while it works, and their observers.

A workflow gets one observer and reports everything to it: there are no other callbacks. What must
not be lost (metrics, checkpoints, samples) is written by the workflow itself, because a run that
cannot write them has to end; an observer may fail, and the run continues without it.
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
    from dgpo_cli.core.types import (
        Diagnosis,
        Evaluation,
        Interval,
        Outcome,
        ScoredGroup,
        StepMetrics,
    )


@dataclass(frozen=True, slots=True)
class Note:
    """A line that the user should see. It may contain text of a model."""

    text: str


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the command's account of what it does, such as a finished run of a study."""

    text: str


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of a phase: its first event has done == 0, its last one is `over`.

    key: distinguishes phases of one name that run at the same time.
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
class Credited:
    """The credit of the completions of step `step` is known; they are not trained on yet.

    tokens: returns the texts of the last tokens of a completion and their weights, given its
        number (group by group, from 0) and how many tokens. Only valid until the event is handled.
    """

    step: int
    groups: tuple[ScoredGroup, ...]
    tokens: Callable[[int, int], tuple[tuple[str, float], ...]]


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
class Judged:
    """More samples of an evaluation are judged and stored.

    done, total: samples, the stored ones included; total is expected where the error
    decides when to stop. problems: by id, in order, the correct samples and all judged ones.
    outcomes: how often each was found.
    rounds: samples that every problem has; avg, rerun_95: of those, NaN before there are any.
    tokens, seconds: completion tokens drawn by this command so far, and the time it took.
    drawn: samples drawn by this command. cost: of all stored samples; None if unknown.
    """

    bench: str
    model: str
    k: int
    done: int
    total: int
    problems: Mapping[str, tuple[int, int]]
    outcomes: Mapping[Outcome, int]
    rounds: int
    avg: float
    rerun_95: Interval
    drawn: int
    tokens: int
    seconds: float
    cost: float | None = None
    max_cost: float | None = None


@dataclass(frozen=True, slots=True)
class Requests:
    """How an endpoint is asked. limit: requests at a time, as many as it takes now.

    again: how often a request had to be sent again so far.
    """

    in_flight: int
    limit: int
    again: int


@dataclass(frozen=True, slots=True)
class Diagnosed:
    """The diagnoses after `step`, the most important first; sent after every step.

    Those that appear or disappear are Notes too.
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
    """The end of a training run, however it ended: its last event."""

    state: EndState


Event = (
    Note
    | Line
    | Progress
    | Sampled
    | Credited
    | StepDone
    | Evaluated
    | Judged
    | Requests
    | Diagnosed
    | Checkpointed
    | Ended
)


class Observer(Protocol):
    """Handles events. Called from several threads, one at a time, and from signal handlers."""

    def on(self, event: Event) -> None:
        """Handle an event, or ignore it."""
        ...


class Observers:
    """Sends each event to every member. One that raises is dropped, and the others get a Note.

    Events are sent one after the other, from whichever thread they come. Those that a member or a
    signal handler sends while a member handles one come after it.
    """

    def __init__(self, members: Iterable[Observer] = ()) -> None:
        self._members = list(members)
        self._waiting: deque[Event] = deque()
        self._lock = threading.RLock()
        self._telling = False

    def add(self, member: Observer) -> None:
        """Add a member, after the others."""
        self._members.append(member)

    def on(self, event: Event) -> None:
        """Send an event to the members, in order."""
        self._waiting.append(event)
        with self._lock:
            if self._telling:
                return
            while self._waiting:  # again: a signal may come between the last look and the end
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
                self._waiting.append(Note(failed(type(member).__name__, error)))


def failed(who: str, error: Exception) -> str:
    """Return the note on an observer that failed and is not used again."""
    reason = without_logins(" ".join(f"{type(error).__name__}: {error}".split()))[:300]
    return f"{who} failed and is off from here on: {reason}"


NOBODY: Observer = Observers()

_keys = itertools.count()


def tell(observer: Observer, text: str) -> None:
    """Send a Note."""
    observer.on(Note(text))


@contextmanager
def phase(
    observer: Observer, name: str, *, total: int, unit: str
) -> Iterator[Callable[[int], None]]:
    """Report a phase of `total` units while the context is open.

    Yields a function to call with the number of newly done units.
    """
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
