"""Size and CPU time of a report: `python benchmarks/report.py [STEPS]`.

The goals for a run of 10,000 steps: a page below 3 MB, less than 2 s of CPU, imports not counted.
For a study of 13 variants, 10 seeds and 200 steps: below 3 MB, less than 4 s.
"""

from __future__ import annotations

import json
import math
import random
import sys
import tempfile
import time
from pathlib import Path

from dgpo_cli.algo.group_split import PARTS
from dgpo_cli.core.types import OUTCOMES
from dgpo_cli.report import report
from dgpo_cli.report.run_page import report_page
from dgpo_cli.report.study_page import study_page
from dgpo_cli.study.read import read_study
from dgpo_cli.study.summary import summarise

QUANTILES = ("p50", "p90", "p99", "max")


def line(step: int, draw: random.Random) -> dict[str, float]:
    """The metrics of a step, as many as a run has and as long in digits."""
    right = 0.3 + 0.5 * (1 - math.exp(-step / 2000)) + draw.gauss(0, 0.05)
    found = {"step": float(step), "reward/mean": right, "reward/std": draw.random()}
    found |= {f"outcome/{name}": draw.random() / 10 for name in OUTCOMES}
    found |= {f"split/{name}": draw.random() / 10 for name in PARTS}
    found |= {"outcome/correct": right, "split/signal": draw.random()}
    for name in ("sample", "score", "statistics", "update", "step"):
        found[f"time/{name}_s"] = draw.expovariate(0.1)
    for name in ("credit/weight", "credit/score", "policy/gate", "policy/hellinger_sq"):
        found |= {f"{name}_{each}": draw.lognormvariate(-6, 2) for each in QUANTILES}
    for name in ("length_min", "length_mean", "length_max", "tokens", "cut"):
        found[f"completion/{name}"] = draw.uniform(100, 8000)
    for name in (
        "policy/hellinger_sq_mean",
        "policy/entropy",
        "credit/effective_fraction",
        "loss/value",
        "loss/clip_frac",
        "loss/ratio_min",
        "loss/ratio_max",
        "optim/grad_norm",
        "optim/lr",
        "sampler/logprob_gap_mean",
        "sampler/logprob_gap_max",
        "sampler/k3",
        "throughput/tokens_per_s",
        *(f"other/metric_{at}" for at in range(12)),
    ):
        found[name] = draw.lognormvariate(0, 1)
    return found


def make_run(folder: Path, steps: int, *, seed: int = 0) -> Path:
    """Write the metrics of a long run."""
    draw = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "metrics.jsonl").open("w", encoding="utf-8") as file:
        for step in range(1, steps + 1):
            file.write(json.dumps(line(step, draw)) + "\n")
    settings = f"[train]\nsteps = {steps}\n"
    (folder / "settings.toml").write_text(settings, encoding="utf-8")
    return folder


def make_study(folder: Path, *, variants: int, seeds: int, steps: int) -> Path:
    """Write a finished study."""
    folder.mkdir()
    tables = [f'[variants.v{at}]\n"credit.tau" = {1 + at}.0' for at in range(variants)]
    text = f'preset = "tiny"\nseeds = {seeds}\n[set]\n"train.steps" = {steps}\n'
    (folder / "study.toml").write_text(text + "\n".join(tables), encoding="utf-8")
    (folder / "settings").mkdir()
    for variant in (f"v{at}" for at in range(variants)):
        settings = folder / "settings" / f"{variant}.toml"
        settings.write_text(f"[train]\nsteps = {steps}\n", encoding="utf-8")
        for seed in range(seeds):
            run = folder / "runs" / variant / f"seed-{seed}"
            (run / "checkpoints" / f"step-{steps:06d}").mkdir(parents=True)
            make_run(run, steps, seed=seed)
    return folder


def report_study(folder: Path) -> None:
    """Print size and CPU seconds for a study."""
    start = time.process_time()
    record = read_study(folder)
    read = time.process_time() - start
    page = study_page(record, summarise(record), at=folder)
    spent = time.process_time() - start
    print(
        f"study of {len(record.runs)} runs x {len(record.runs[0].steps)} steps, "
        f"{len(record.runs[0].steps[0])} metrics: {len(page.encode()) / 1e6:.2f} MB, "
        f"{spent:.2f} s CPU ({read:.2f} s of it reading)"
    )


def main() -> None:
    """Print size and CPU seconds for one run and for four over each other."""
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    with tempfile.TemporaryDirectory() as folder:
        runs = [make_run(Path(folder, f"run-{at}"), steps, seed=at) for at in range(4)]
        report_page(report.run([make_run(Path(folder, "warm"), 3)]))  # what is imported late
        for count in (1, 4):
            start = time.process_time()
            records = report.run(runs[:count])
            read = time.process_time() - start
            page = report_page(records)
            spent = time.process_time() - start
            print(
                f"{count} x {steps} steps, {len(records[0].metrics[0])} metrics: "
                f"{len(page.encode()) / 1e6:.2f} MB, {spent:.2f} s CPU ({read:.2f} s of it reading)"
            )
        report_study(make_study(Path(folder, "study"), variants=13, seeds=10, steps=200))


if __name__ == "__main__":
    main()
