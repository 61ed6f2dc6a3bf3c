"""Observers for tests: what a command told, as lists."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from dgpo_cli.core.events import Event, Note, Progress, StepDone
from dgpo_cli.core.types import StepMetrics

_E = TypeVar("_E")


@dataclass
class Notes:
    """Keeps the text of every note, in a list of the test's own if it has one."""

    texts: list[str] = field(default_factory=list)

    def on(self, event: Event) -> None:
        if isinstance(event, Note):
            self.texts.append(event.text)


class Recorder:
    """Keeps every event."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def on(self, event: Event) -> None:
        self.events.append(event)

    def of(self, kind: type[_E]) -> list[_E]:
        """Return the events of one kind, in order."""
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def notes(self) -> list[str]:
        return [note.text for note in self.of(Note)]

    @property
    def lines(self) -> list[StepMetrics]:
        """The metrics of every step, with its number."""
        return [{"step": done.step, **done.metrics} for done in self.of(StepDone)]

    @property
    def phases(self) -> list[tuple[str, int, str, int]]:
        """Name, total, unit and what was done in the end of every phase that is over."""
        return [(p.name, p.total, p.unit, p.done) for p in self.of(Progress) if p.over]


@dataclass
class AtStep:
    """Does something when a step is done. What a test raises there to end the run is no Exception,
    which would only drop the observer."""

    do: Callable[[int], object]

    def on(self, event: Event) -> None:
        if isinstance(event, StepDone):
            self.do(event.step)


class Killed(BaseException):
    """Ends a run as a kill would: nothing of ours catches it."""
