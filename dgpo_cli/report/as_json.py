"""The report as JSON, version 1: what the page says, without its curves' drawings.

A run has name, path, state, steps, total, seconds, reward (first, last: mean and stderr, and the
number of steps of an end), metrics (name to first, last, min, max), evals, diagnoses, changes (what
changed within it: step, setting, old, new), settings, checkpoints, bad_batches and notes. The
whole curves are in metrics.jsonl.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from dgpo_cli.core.types import RunRecord
from dgpo_cli.report.facts import reward_ends
from dgpo_cli.ui.jsonable import jsonable

VERSION = 1


def to_json(records: Sequence[RunRecord]) -> dict[str, Any]:
    """The report of these runs; numbers that are unknown are null."""
    found: dict[str, Any] = jsonable(
        {"version": VERSION, "runs": [_run(record) for record in records]}
    )
    return found


def _run(record: RunRecord) -> dict[str, Any]:
    first, last, width = reward_ends(record)
    timed = [line.get("time/step_s") for line in record.metrics]
    return {
        "name": record.name,
        "path": record.path,
        "state": record.state,
        "steps": int(record.metrics[-1]["step"] or 0) if record.metrics else 0,
        "total": record.total,
        "seconds": sum(each for each in timed if each is not None) if any(timed) else None,
        "reward": {
            "first": first and {"mean": first[0], "stderr": first[1]},
            "last": last and {"mean": last[0], "stderr": last[1]},
            "steps": width,
        },
        "metrics": _metrics(record),
        "evals": [dict(line) for line in record.evals],
        "diagnoses": [asdict(each) for each in record.diagnoses],
        "changes": [asdict(each) for each in record.changes],
        "settings": {each.key: asdict(each) for each in record.settings},
        "checkpoints": [asdict(each) for each in record.checkpoints],
        "bad_batches": list(record.bad_batches),
        "notes": list(record.notes),
    }


def _metrics(record: RunRecord) -> dict[str, dict[str, float]]:
    found = {}
    for name in sorted({name for line in record.metrics for name in line} - {"step"}):
        values = [value for line in record.metrics if (value := line.get(name)) is not None]
        if values:
            ends = {"first": values[0], "last": values[-1]}
            found[name] = {**ends, "min": min(values), "max": max(values)}
    return found
