"""What SmolLM2 learns with vLLM as its sampler, beside the HF sampler: the same reward curve?

    python benchmarks/reward_curves.py --model DIR [--seeds 0 1 2] [--steps 40] [--prompts 4]

Runs that are finished in --out are not done again: what was stopped goes on there.

Every run is `dgpo train --preset smollm2-lora`, in a process of its own, on one thread; prompts of
a seed are the same for both samplers, the draws are not. Printed: the mean reward of the first and
the last five steps, and how far the two samplers' curves are apart, beside how far runs of one
sampler are apart that differ in nothing but the seed. That is what "within noise" means here.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

BACKENDS = ("hf", "vllm")
ENDS = 5  # steps


def train(args: argparse.Namespace, backend: str, seed: int) -> list[dict[str, float]]:
    """Run one training; return its metrics, a line a step."""
    out = Path(args.out) / f"{backend}-{seed}"
    settings = [
        f"model.path={args.model}",
        f"rollout.backend.kind={backend}",
        f"rollout.prompts_per_step={args.prompts}",
        "train.threads=1",
        "reward.workers=1",
        *args.set,
    ]
    metrics = out / "metrics.jsonl"
    if metrics.exists() and len(metrics.read_text().splitlines()) == args.steps:
        return [json.loads(line) for line in metrics.read_text().splitlines()]
    command = [
        *(sys.executable, "-m", "dgpo_cli", "train", "--preset", "smollm2-lora"),
        *("--steps", str(args.steps), "--seed", str(seed), "--out", str(out)),
        *(part for each in settings for part in ("--set", each)),
    ]
    with (Path(args.out) / f"{backend}-{seed}.log").open("w") as log:
        subprocess.run(command, check=True, stdout=log, stderr=log)
    return [json.loads(line) for line in metrics.read_text().splitlines()]


def rewards(run: list[dict[str, float]]) -> list[float]:
    return [line["reward/mean"] for line in run]


def distance(one: list[float], other: list[float]) -> float:
    """Mean distance of two curves after each is averaged over blocks of five steps."""
    blocks = [
        [statistics.fmean(curve[at : at + ENDS]) for at in range(0, len(curve), ENDS)]
        for curve in (one, other)
    ]
    return statistics.fmean(abs(a - b) for a, b in zip(*blocks, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="folder of SmolLM2-135M-Instruct")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=list(BACKENDS))
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--prompts", type=int, default=4, help="prompts a step, of 8 samples each")
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side")
    parser.add_argument("--out", default=tempfile.mkdtemp(prefix="reward-curves-"))
    parser.add_argument("--set", action="append", default=[], help="a setting of all runs")
    args = parser.parse_args()
    Path(args.out).mkdir(parents=True, exist_ok=True)
    cases = [(backend, seed) for seed in args.seeds for backend in args.backends]
    with ThreadPoolExecutor(args.jobs) as pool:
        found = list(pool.map(lambda case: train(args, *case), cases))
    runs = dict(zip(cases, found, strict=True))
    print(f"{'sampler':8} {'seed':>4} {'first 5':>8} {'last 5':>8} {'ratio':>6} {'gap max':>9}")
    for (backend, seed), run in runs.items():
        curve = rewards(run)
        first, last = statistics.fmean(curve[:ENDS]), statistics.fmean(curve[-ENDS:])
        gap = max(line["sampler/logprob_gap_max"] for line in run)
        print(f"{backend:8} {seed:4} {first:8.3f} {last:8.3f} {last / first:6.2f} {gap:9.1e}")
    within = [
        distance(rewards(runs[b, s]), rewards(runs[b, t]))
        for b in args.backends
        for s, t in itertools.combinations(args.seeds, 2)
    ]
    if len(args.backends) == len(BACKENDS):
        across = [distance(*(rewards(runs[b, s]) for b in BACKENDS)) for s in args.seeds]
        print(f"mean distance of the curves of two samplers: {statistics.fmean(across):.3f}")
    if within:
        print(f"of two seeds of one sampler:                 {statistics.fmean(within):.3f}")
    means = {
        b: statistics.fmean(x for s in args.seeds for x in rewards(runs[b, s]))
        for b in args.backends
    }
    print("mean reward of all steps: " + ", ".join(f"{b} {means[b]:.3f}" for b in args.backends))


if __name__ == "__main__":
    main()
