"""Runs as `dgpo report` reads them, for the tests of its page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from dgpo_cli.core.types import (
    Diagnosis,
    RunRecord,
    StoredCheckpoint,
    StoredSamples,
    StoredSetting,
)
from tests.samples import inspection, solution


def line(step: int, **changes: float | None) -> dict[str, float | None]:
    """The metrics of a step; changes name them with "_" for the slash."""
    right = 0.5 + 0.3 * math.sin(step / 3)
    found: dict[str, float | None] = {
        "step": float(step),
        "reward/mean": right,
        "outcome/correct": right,
        "outcome/wrong": 1 - right,
        "outcome/truncated": 0.0,
        "split/signal": 0.75,
        "split/all_right": 0.25,
        "completion/length_min": 10.0,
        "completion/length_mean": 20.0 + step,
        "completion/length_max": 90.0,
        "completion/tokens": 1000.0,
        "policy/hellinger_sq_mean": 1e-6 * step**3,
        "policy/hellinger_sq_p50": 1e-9 * step,
        "policy/hellinger_sq_max": 1e-2 * step,
        "policy/entropy": 1.0 / step,
        "time/sample_s": 2.0,
        "time/update_s": 1.0,
        "time/step_s": 3.5,
        "my/own_metric": float(step % 4),
    }
    return found | {name.replace("_", "/", 1): value for name, value in changes.items()}


def evaluation(step: int, score: float, **changes: Any) -> dict[str, Any]:
    return {
        "step": step,
        "bench": "sums",
        "k": 8,
        "avg_at_k": score,
        "stderr_rerun": 0.02,
        "stderr_problems": 0.03,
        "rerun_95": {"low": score - 0.04, "high": score + 0.04},
        "problems_95": {"low": score - 0.06, "high": score + 0.06},
        "pass_at_k": 0.9,
        "maj_at_k": 0.8,
        **changes,
    }


def record(steps: int | Sequence[dict[str, float | None]] = 30, **changes: Any) -> RunRecord:
    metrics = [line(at) for at in range(1, steps + 1)] if isinstance(steps, int) else steps
    found = RunRecord(
        name="run-1",
        path="runs/run-1",
        state="finished",
        total=30,
        metrics=tuple(metrics),
        evals=(evaluation(0, 0.4), evaluation(15, 0.61), evaluation(30, 0.6)),
        settings=(
            StoredSetting("model.path", "embedded:tiny", "preset tiny", "embedded:tiny"),
            StoredSetting("credit.rule", "dgpo", "--set", "dgpo"),
            StoredSetting("optim.lr", "0.0002", "preset tiny", "1e-06"),
            StoredSetting("seed", "0", "", "0"),
        ),
        changes=(),
        checkpoints=(StoredCheckpoint(30, 5_000_000, 1_700_000_000.0),),
        samples=StoredSamples(30, inspection(solution()), (len(solution().tokens),)),
        diagnoses=(),
        diagnosed_from=5,
        bad_batches=(),
        notes=(),
    )
    return replace(found, **changes)


def trouble(text: str = "No group has signal") -> Diagnosis:
    return Diagnosis("no_signal", 30, text, f"evidence of {text}", f"--set a.b=1: {text}")
