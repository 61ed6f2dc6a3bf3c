"""The interface of trackers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol


@dataclass(frozen=True, slots=True)
class TrackedRun:
    """The run that a tracker records.

    folder: the run folder. id: unique, and kept when the run resumes.
    resumes: whether the tracker has recorded this run before.
    step: finished steps at the start; later ones recorded before are void.
    config: the settings by their dotted names; text: the same as TOML.
    """

    folder: Path
    project: str
    name: str
    id: str
    resumes: bool
    step: int
    mode: Literal["auto", "online", "offline"]
    config: Mapping[str, Any]
    text: str


class Tracker(Protocol):
    """An open tracker. Any of its methods may raise anything: the run then continues without it."""

    replaces_steps: bool
    """Whether a step recorded again, after a resume, replaces the first record."""

    place: str
    """Where the user finds the run."""

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        """Record numbers by name after `step` steps."""
        ...

    def words(self, step: int, name: str, text: str) -> None:
        """Record a text after `step` steps."""
        ...

    def close(self, *, failed: bool) -> None:
        """Flush and close. failed: the run ended with an error."""
        ...
