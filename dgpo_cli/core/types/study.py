"""What a study folder contains, for its report; what its search tried."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from dgpo_cli.core.schema import Count, Object, Real, Text
from dgpo_cli.core.types.evaluation import Evaluation

StudyState = Literal["finished", "running", "stopped", "failed", "missing"]


@dataclass(frozen=True, slots=True)
class Variant:
    """Settings that a study compares with others.

    settings: what sets it apart, by dotted name, as TOML has it. tuned: the settings that the
    search of [tune] chose for it; empty without a search, and before its end.
    """

    name: str
    settings: Mapping[str, Any]
    tuned: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StudyRun:
    """A run of a study: a variant with a seed. folder: its run folder, which may be missing.

    total: the steps that it is to have; None if unknown. steps: the lines of metrics.jsonl.
    before, after: the evaluations of the base model and of the finished run, if there are any.
    """

    variant: str
    seed: int
    folder: str
    state: StudyState
    total: int | None
    steps: tuple[Mapping[str, float | None], ...]
    before: Evaluation | None
    after: Evaluation | None


@dataclass(frozen=True, slots=True)
class StudyRecord:
    """The contents of a study folder; texts are untrusted.

    baseline: the name of the variant that the others are compared with. variants: in the order of
    the file. runs: of every variant and seed, by variant, then seed; missing ones too.
    notes: what could not be read, and which runs failed, a line each.
    """

    name: str
    path: str
    description: str
    baseline: str
    seeds: tuple[int, ...]
    variants: tuple[Variant, ...]
    runs: tuple[StudyRun, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Trial:
    """Settings that the search of a study tried, and how they did.

    steps: of its runs, over which the reward was averaged. scores: that mean by seed; null where
    the run failed. score: the mean over the seeds; null if a run failed.
    """

    settings: Object
    steps: Count
    scores: dict[Text, Real]
    score: Real


@dataclass(frozen=True, slots=True)
class Tuned:
    """The end of a search: the settings chosen for a variant, and all that were tried.

    search: [tune] of the study's file.
    """

    variant: Text
    search: Object
    chosen: Object
    trials: tuple[Trial, ...]
