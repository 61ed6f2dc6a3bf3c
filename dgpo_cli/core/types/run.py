"""What is told and kept of a run: findings, diagnoses, glimpses, and what its folder holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from dgpo_cli.core.types.inspection import Inspection, SettingChange
from dgpo_cli.core.types.rollout import Outcome


@dataclass(frozen=True, slots=True)
class Finding:
    """What `dgpo doctor` found of one thing. fix: what to do about it; empty where it is fine."""

    name: str
    state: Literal["ok", "warn", "fail"]
    found: str
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """One thing that is wrong with a run, as its metrics show it.

    key: its stable name, such as "no_signal". step: the step at which it was seen last.
    headline: one line. evidence: the numbers behind it; it may hold text of a model, which is
    made visible where it is shown. advice: the first thing to change.
    """

    key: str
    step: int
    headline: str
    evidence: str
    advice: str


@dataclass(frozen=True, slots=True)
class Shown:
    """A completion as a live view shows it; `prompt` and `text` are as they were drawn."""

    prompt: str
    text: str
    outcome: Outcome
    reward: float


@dataclass(frozen=True, slots=True)
class Glimpse:
    """What a training step drew, in short: how much, and a few of the completions."""

    step: int
    completions: int
    groups: int
    shown: tuple[Shown, ...]


@dataclass(frozen=True, slots=True)
class StoredCheckpoint:
    """A complete checkpoint of a run. written: Unix time, seconds."""

    step: int
    size: int
    written: float


@dataclass(frozen=True, slots=True)
class StoredSetting:
    """A setting as the run folder holds it, and as it would be typed after --set.

    source: the layer it came from, such as "preset tiny"; empty for a default. default: what it
    would be otherwise; None where this version has none.
    """

    key: str
    value: str
    source: str
    default: str | None


@dataclass(frozen=True, slots=True)
class StoredSamples:
    """Some completions of the newest rollouts. step: that of the rollouts.

    lengths: tokens of each completion; those shown may be fewer.
    """

    step: int
    inspection: Inspection
    lengths: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RunRecord:
    """All that a run folder holds, as `dgpo report` shows it; texts are untrusted.

    metrics: the lines of metrics.jsonl, each with its step; evals: those of evals.jsonl.
    settings: those of the newest steps; changes: what was otherwise before, oldest first.
    total: steps that the run is to have; None if unknown. state: "running" while a process holds
    the folder. diagnosed_from: steps that a diagnosis takes. bad_batches: steps whose loss
    or gradient was not finite. notes: what could not be read, a line each.
    """

    name: str
    path: str
    state: Literal["finished", "running", "stopped"]
    total: int | None
    metrics: tuple[Mapping[str, float | None], ...]
    evals: tuple[Mapping[str, Any], ...]
    settings: tuple[StoredSetting, ...]
    changes: tuple[SettingChange, ...]
    checkpoints: tuple[StoredCheckpoint, ...]
    samples: StoredSamples | None
    diagnoses: tuple[Diagnosis, ...]
    diagnosed_from: int
    bad_batches: tuple[int, ...]
    notes: tuple[str, ...]
