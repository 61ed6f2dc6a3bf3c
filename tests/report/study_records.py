"""Studies as their page reads them, with planted effects."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence

from dgpo_cli.core.types import StudyRecord, StudyRun, Variant


def study_run(
    variant: str, seed: int, *, effect: float = 0.0, steps: int = 40, total: int = 40
) -> StudyRun:
    """A run whose reward is above that of the same seed by `effect`, and a little noise."""
    shared, own = random.Random(seed), random.Random(f"{variant} {seed}")
    lines = []
    for step in range(1, steps + 1):
        reward = 0.8 - 0.5 * math.exp(-step / 15) + shared.gauss(0, 0.03) + own.gauss(0, 0.005)
        lines.append(
            {
                "step": float(step),
                "reward/mean": reward + effect,
                "split/signal": own.random(),
                "policy/entropy": 1.0 / step + own.random() / 10,
                "policy/hellinger_sq_mean": 1e-6 * step**3 * (1 + own.random()),
                "optim/grad_norm": own.lognormvariate(0, 0.3),
                "completion/length_mean": 20.0 + own.random(),
                "completion/tokens": 1000.0 + 100 * own.random(),
                "time/step_s": 1.0 + own.random(),
                "my/own_metric": float(step % 4),
                "my/constant": 2.0,
            }
        )
    return StudyRun(
        variant=variant,
        seed=seed,
        folder=f"runs/{variant}/seed-{seed}",
        state="finished" if steps == total else "stopped" if steps else "missing",
        total=total,
        steps=tuple(lines),
        before=None,
        after=None,
    )


def study(
    effects: Mapping[str, float],
    *,
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    steps: int = 40,
    notes: tuple[str, ...] = (),
    extra: Sequence[StudyRun] = (),
) -> StudyRecord:
    """A study of these variants by their effect on the reward; the first is the baseline.

    extra: runs in place of those of the same variant and seed.
    """
    names = list(effects)
    others = {(run.variant, run.seed): run for run in extra}
    runs = tuple(
        others.get((name, seed))
        or study_run(name, seed, effect=effects[name], steps=steps, total=steps)
        for name in names
        for seed in seeds
    )
    return StudyRecord(
        name="credit",
        path="studies/credit",
        description="Rules of credit on sums.",
        baseline=names[0],
        seeds=tuple(seeds),
        variants=tuple(Variant(name, {"credit.rule": name}, {}) for name in names),
        runs=runs,
        notes=notes,
    )


FEW = {"uniform": 0.0, "surprisal": 0.01, "rule=dgpo,tau=0.02": -0.03}
MANY = {
    "uniform": 0.0,
    "rule=dgpo,tau=0.5": 0.0,
    "rule=dgpo,tau=0.02": -0.012,
    "rule=dgpo,target_ess=0.9": -0.007,
    "rule=dgpo,target_ess=0.6": -0.015,
    "entropy": -0.013,
    "top-entropy": -0.004,
    "proportional": -0.02,
    "surprisal": 0.004,
    "sign-right": -0.0036,
    "sign-wrong": 0.0001,
    "value": 0.02,
    "rule=dgpo,tau=0.005": -0.04,
}
