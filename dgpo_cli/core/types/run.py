"""Findings, diagnoses, glimpses, and the contents of a run folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from dgpo_cli.core.types.inspection import Inspection, SettingChange
from dgpo_cli.core.types.rollout import Outcome


@dataclass(frozen=True, slots=True)
class Finding:
    """A check of `dgpo doctor`. fix: what to do; empty if it is fine."""

    name: str
    state: Literal["ok", "warn", "fail"]
    found: str
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """A fault of a run that its metrics show.

    key: its stable name, such as "no_signal". step: the last step that shows it. headline: one
    line. evidence: the numbers; it may contain text of a model. advice: what to change first.
    """

    key: str
    step: int
    headline: str
    evidence: str
    advice: str


@dataclass(frozen=True, slots=True)
class Shown:
    """A completion as a live view shows it; `prompt` and `text` are as they were drawn.

    credit: its last tokens with their weights; empty before they are known.
    """

    prompt: str
    text: str
    outcome: Outcome
    reward: float
    credit: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Glimpse:
    """A summary of what a training step drew, with a few of the completions."""

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
    """A setting of a run folder, written as after --set.

    source: its layer, such as "preset tiny"; empty for a default. default: None if this version
    has none.
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
    """The contents of a run folder, for `dgpo report`; texts are untrusted.

    metrics: the lines of metrics.jsonl, each with its step; evals: those of evals.jsonl.
    settings: those of the newest steps; changes: earlier ones, oldest first. total: steps of the
    whole run; None if unknown. state: "running" while a process has locked the folder.
    diagnosed_from: steps that a diagnosis needs. bad_batches: steps whose loss or gradient was not
    finite. notes: what could not be read, a line each.
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
