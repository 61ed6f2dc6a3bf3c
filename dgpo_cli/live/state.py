"""What the live panel shows: the state of a run at one moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from dgpo_cli.core.types import Diagnosis, Glimpse, Interval
from dgpo_cli.ui.textplot import Point

Doing = Literal[
    "starting", "training", "evaluating", "pausing", "paused", "done", "stopped", "failed"
]
NOTHING: Mapping[str, float] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Phase:
    """A phase that is going on: `done` of `total` units in `seconds`."""

    name: str
    done: int
    total: int
    unit: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes; None is unknown. `device` is None where the model is on the CPU.

    device_total: what the device has.
    """

    now: int | None = None
    peak: int | None = None
    device: int | None = None
    device_peak: int | None = None
    device_total: int | None = None


@dataclass(frozen=True, slots=True)
class Score:
    """An evaluation during training; shares, NaN is unknown."""

    step: int
    bench: str
    k: int
    avg_at_k: float
    rerun_95: Interval
    problems_95: Interval


@dataclass(frozen=True, slots=True)
class PanelState:
    """A run at one moment.

    name: of its settings. metrics: of the last finished step, which drew so many `completions` in
    so many `groups` (None: unknown). recent: step and metrics of the last steps, oldest first.
    glimpse: of the step that goes on. reward, entropy, effective, distance: their course, as points
    of step and value. floor: of the distance's noise. scores: oldest first. left_s: seconds to the
    end, None where there is no ground for an estimate; ends_at: the same as a time of day. help:
    whether the keys are explained.
    """

    name: str
    folder: str
    total: int
    doing: Doing = "starting"
    step: int = 0
    metrics: Mapping[str, float] = field(default_factory=lambda: NOTHING)
    completions: int | None = None
    groups: int | None = None
    reward: tuple[Point, ...] = ()
    entropy: tuple[Point, ...] = ()
    effective: tuple[Point, ...] = ()
    distance: tuple[Point, ...] = ()
    floor: float | None = None
    recent: tuple[tuple[int, Mapping[str, float]], ...] = ()
    help: bool = False
    scores: tuple[Score, ...] = ()
    glimpse: Glimpse | None = None
    diagnoses: tuple[Diagnosis, ...] = ()
    phases: tuple[Phase, ...] = ()
    memory: Memory = Memory()
    left_s: float | None = None
    ends_at: str = ""
