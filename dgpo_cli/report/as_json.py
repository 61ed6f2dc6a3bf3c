"""The report as JSON: the contents of the page, without curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from dgpo_cli.core.codec import Format, filled
from dgpo_cli.core.schema import Count, Real, Text, Whole
from dgpo_cli.core.types import Diagnosis, RunRecord, SettingChange, StoredCheckpoint, StoredSetting
from dgpo_cli.report.facts import reward_ends


@dataclass(frozen=True, slots=True)
class EndJson:
    """Reward over some steps."""

    mean: Real
    stderr: Real


@dataclass(frozen=True, slots=True)
class RewardJson:
    """Reward at the two ends of a run. steps: of each end."""

    first: EndJson | None
    last: EndJson | None
    steps: Count


@dataclass(frozen=True, slots=True)
class MetricJson:
    """A metric over the steps that have it."""

    first: Real
    last: Real
    min: Real
    max: Real


@dataclass(frozen=True, slots=True, kw_only=True)
class RunJson:
    """A run. total: steps it is set to train; evals: the lines of evals.jsonl.

    changes: settings changed during it. bad_batches: steps whose loss or gradient was not finite.
    """

    name: Text
    path: Text
    state: Literal["finished", "running", "stopped"]
    steps: Count
    total: Whole | None
    seconds: Real | None
    reward: RewardJson
    metrics: dict[str, MetricJson]
    evals: tuple[dict[str, Any], ...]
    diagnoses: tuple[Diagnosis, ...]
    changes: tuple[SettingChange, ...]
    settings: dict[str, StoredSetting]
    checkpoints: tuple[StoredCheckpoint, ...]
    bad_batches: tuple[Count, ...]
    notes: tuple[Text, ...]


@dataclass(frozen=True, slots=True)
class ReportJson:
    """The contents of the page of runs. Whole curves are in metrics.jsonl."""

    runs: tuple[RunJson, ...]


REPORT = Format(ReportJson, name="report", what="dgpo report --json", stamp="version")


def to_json(records: Sequence[RunRecord]) -> dict[str, Any]:
    """Return the report of these runs; unknown numbers are null."""
    return REPORT.to_json(ReportJson(tuple(map(_run, records))))


def _run(record: RunRecord) -> RunJson:
    first, last, width = reward_ends(record)
    timed = [line.get("time/step_s") for line in record.metrics]
    return filled(
        RunJson,
        record,
        steps=int(record.metrics[-1]["step"] or 0) if record.metrics else 0,
        seconds=sum(each for each in timed if each is not None) if any(timed) else None,
        reward=RewardJson(first and EndJson(*first), last and EndJson(*last), width),
        metrics=_metrics(record),
        evals=tuple(map(dict, record.evals)),
        settings={each.key: each for each in record.settings},
    )


def _metrics(record: RunRecord) -> dict[str, MetricJson]:
    found = {}
    for name in sorted({name for line in record.metrics for name in line} - {"step"}):
        values = [value for line in record.metrics if (value := line.get(name)) is not None]
        if values:
            found[name] = MetricJson(values[0], values[-1], min(values), max(values))
    return found
