"""What a tracker is told, and what it needs to begin or to go on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol


@dataclass(frozen=True, slots=True)
class TrackedRun:
    """A run as a tracker sees it.

    folder: the run folder. id: the same each time that the run goes on, and of no other run.
    goes_on: whether the tracker has been told of this run before.
    step: steps that are finished at the start; later ones that were told before are void.
    config: the settings by their dotted names; text: the same as TOML.
    """

    folder: Path
    project: str
    name: str
    id: str
    goes_on: bool
    step: int
    mode: Literal["auto", "online", "offline"]
    config: Mapping[str, Any]
    text: str


class Tracker(Protocol):
    """A tracker that is open. Any of its methods may raise anything: it is then left out."""

    takes_steps_again: bool
    """Whether a step that is told a second time, after a resume, takes the place of the first."""

    place: str
    """Where the user finds it."""

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        """Take numbers by name, known after `step` steps."""
        ...

    def words(self, step: int, name: str, text: str) -> None:
        """Take a text, known after `step` steps."""
        ...

    def close(self, *, failed: bool) -> None:
        """Write what is left. failed: the run did not end as it should."""
        ...
