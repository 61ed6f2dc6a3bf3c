"""What the embedded model learns: `dgpo train --preset tiny` for several seeds, before and after.

    python benchmarks/tiny_bar.py [--preset tiny-hard] [--seeds 0 1 2] [--rule dgpo] [--json FILE]

Every run is the command that a user types, in a process of its own. Before and after are Avg@32
on the 30 held-out problems of the preset's benchmark, `sums` or `sums-hard`; wall is that of the
training command alone.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from dgpo_cli import load_settings


def dgpo(*arguments: str) -> str:
    command = [sys.executable, "-m", "dgpo_cli", *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def evaluate(*subject: str, bench: str, out: Path) -> dict[str, Any]:
    arguments = ("eval", "--bench", bench, "--k", "32", *subject, "--out", str(out), "--json")
    report: dict[str, Any] = json.loads(dgpo(*arguments))
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="tiny", choices=["tiny", "tiny-hard"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rule", default="dgpo")
    parser.add_argument("--json", help="also write the figures to this file")
    args = parser.parse_args()
    bench = load_settings(args.preset).eval.bench
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        before = evaluate("--preset", args.preset, bench=bench, out=root / "before")
        print(f"before: Avg@32 {before['avg_at_k']:.3f}, pass@32 {before['pass_at_k']['32']:.3f}")
        print(f"{'seed':>4} {'after':>7} {'gain':>7} {'pass@32':>8} {'wall s':>7} {'cpu s':>7}")
        for seed in args.seeds:
            run = root / f"run-{seed}"
            wall = time.perf_counter()
            cpu = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
            dgpo(
                *("train", "--preset", args.preset, "--seed", str(seed), "--out", str(run)),
                *("--set", f"credit.rule={args.rule}"),
            )
            wall = time.perf_counter() - wall
            cpu = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - cpu
            after = evaluate("--run", str(run), bench=bench, out=root / f"after-{seed}")
            gain = after["avg_at_k"] - before["avg_at_k"]
            passed = after["pass_at_k"]["32"]
            print(
                f"{seed:4} {after['avg_at_k']:7.3f} {gain:+7.3f} {passed:8.3f} "
                f"{wall:7.0f} {cpu:7.0f}",
                flush=True,
            )
            rows.append({"seed": seed, "after": after, "wall_s": wall, "cpu_s": cpu})
    peak_mib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"peak memory of the largest process: {peak_mib:.0f} MiB")
    if args.json:
        figures = {"before": before, "runs": rows, "peak_mib": peak_mib}
        Path(args.json).write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
