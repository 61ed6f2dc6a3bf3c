"""The request of an inspection: which completions, which models, which credit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Origin:
    """A run folder, a rollouts file, or typed text; by default the newest run under ./runs."""

    source: Path | None = None
    rollouts: Path | None = None
    prompt: str | None = None
    completion: str | None = None


@dataclass(frozen=True, slots=True)
class Models:
    """The models that compute the statistics; by default those of training are shown.

    chat_template: arguments of their chat template, for prompts without token ids.
    """

    model: str | None = None
    reference: str | None = None
    adapter: Path | None = None
    chat_template: Mapping[str, object] | None = None


@dataclass(frozen=True, slots=True)
class Selection:
    """Which completions of the file. A group is all completions of a prompt, counted from 0.

    one: of these, only the most telling.
    pair: of these, a correct and a wrong one of one prompt, in this order.
    """

    group: int | None = None
    sample: int | None = None
    one: bool = False
    pair: bool = False


@dataclass(frozen=True, slots=True)
class WhatIf:
    """Another credit than the one that trained; None keeps a setting.

    overrides: other settings under credit, as after --set.
    """

    rule: str | None = None
    tau: float | None = None
    kappa: float | None = None
    target_ess: float | None = None
    overrides: tuple[str, ...] = ()

    @property
    def changes(self) -> dict[str, float]:
        """Return the given settings of the rule."""
        named = {"tau": self.tau, "kappa": self.kappa, "target_ess": self.target_ess}
        return {name: value for name, value in named.items() if value is not None}

    @property
    def asks(self) -> bool:
        """Return whether anything is given."""
        return self.rule is not None or bool(self.changes) or bool(self.overrides)


@dataclass(frozen=True, slots=True)
class Values:
    """Estimate the values of the completions that are shown.

    continuations: sampled from each prefix; 0: completions of the group alone.
    overrides: settings of the model, the sampler and the reward, as after --set.
    """

    continuations: int
    overrides: tuple[str, ...] = ()
