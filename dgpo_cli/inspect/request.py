"""What a user may ask of an inspection: which completions, which models, which credit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the completions are from: a run folder, a file of rollouts, or what the user typed.

    With nothing given it is the newest run under ./runs.
    """

    source: Path | None = None
    rollouts: Path | None = None
    prompt: str | None = None
    completion: str | None = None


@dataclass(frozen=True, slots=True)
class Models:
    """What computes the statistics; with nothing given, training's own are shown."""

    model: str | None = None
    reference: str | None = None
    adapter: Path | None = None


@dataclass(frozen=True, slots=True)
class Selection:
    """Which completions of the file. A group is all completions of a prompt, counted from 0.

    one: of those that are left, only the most telling one.
    pair: of those that are left, a right and a wrong one of one prompt, in this order.
    """

    group: int | None = None
    sample: int | None = None
    one: bool = False
    pair: bool = False


@dataclass(frozen=True, slots=True)
class WhatIf:
    """Another credit than the one that trained; None leaves a setting as it was."""

    rule: str | None = None
    tau: float | None = None
    kappa: float | None = None
    target_ess: float | None = None

    @property
    def changes(self) -> dict[str, float]:
        """The settings of the rule that are given."""
        named = {"tau": self.tau, "kappa": self.kappa, "target_ess": self.target_ess}
        return {name: value for name, value in named.items() if value is not None}

    @property
    def asks(self) -> bool:
        """Whether anything is given."""
        return self.rule is not None or bool(self.changes)
