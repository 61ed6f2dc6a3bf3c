"""The seconds of a step that `dgpo plan` estimates, against those of real steps.

    python benchmarks/plan_time.py [--smollm2 DIR] [--only NAME] [--threads 1] [--json FILE]

The steps are those of benchmarks/plan.py: on the CPU, every prompt and completion of exactly the
length that the settings allow, every completion with an advantage. Each case is a process of its
own; a step is the median of those after the first. The CPU's speed, which the estimate starts
from, is measured in that same process before the first step and after the last, as `dgpo plan`
measures it, and the two estimates are averaged: another program on the cores slows both.

`training` is everything but sampling: statistics, backward, optimiser. DIR is a folder of
SmolLM2-135M-Instruct (benchmarks/smollm2.py writes one).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from plan import Case, settings_of, steps_of

from dgpo_cli.config.load import Resolved

STEPS = 4
SHORT = (
    "rollout.prompts_per_step=2",
    "prompts.max_prompt_tokens=64",
    "rollout.max_completion_tokens=32",
)
LONG = (
    "rollout.prompts_per_step=1",
    "prompts.max_prompt_tokens=128",
    "rollout.max_completion_tokens=256",
)
CASES: dict[str, Case] = {
    "embedded, all weights": ("tiny", ()),
    "SmolLM2 LoRA": ("smollm2-lora", SHORT),
    "SmolLM2 LoRA, long": ("smollm2-lora", LONG),
    "SmolLM2 LoRA, checkpointing": (
        "smollm2-lora",
        (*SHORT, "model.gradient_checkpointing=true"),
    ),
    "SmolLM2, all weights": ("smollm2-lora", (*SHORT, "adapter.kind=none")),
    "SmolLM2 LoRA, GRPO": ("smollm2-lora", (*SHORT, "credit.rule=uniform")),
    "SmolLM2 LoRA, two updates": ("smollm2-lora", (*SHORT, "optim.updates_per_step=2")),
}
Seconds = dict[str, float]


def estimate(resolved: Resolved) -> Seconds:
    from dgpo_cli.planning import devices, plan

    settings = resolved.settings
    lengths = plan.Typical(
        prompt=settings.prompts.max_prompt_tokens,
        completion=settings.rollout.max_completion_tokens,
    )
    found = plan.run(lambda changes: resolved, device=devices.cpu(), typical=lengths, repair=False)
    sampling = sum(phase.seconds for phase in found.times if phase.name == "sampling")
    return {"sampling": sampling, "training": found.step_seconds - sampling}


def measure(resolved: Resolved) -> Seconds:
    steps = list(steps_of(resolved, steps=STEPS))[1:]
    sampling = statistics.median(step["time/sample_s"] for step in steps)
    whole = statistics.median(sum(step.values()) for step in steps)
    return {"sampling": sampling, "training": whole - sampling}


def case(name: str, *, smollm2: str | None) -> dict[str, Seconds]:
    resolved = settings_of(CASES[name], smollm2=smollm2)
    before = estimate(resolved)
    measured = measure(resolved)
    after = estimate(resolved)
    both = {phase: (before[phase] + after[phase]) / 2 for phase in before}
    return {"estimated": both, "measured": measured}


def in_child(name: str, *, threads: int, smollm2: str | None) -> dict[str, Seconds]:
    command = [sys.executable, __file__, "--child", name]
    if smollm2 is not None:
        command += ["--smollm2", smollm2]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, Seconds] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--smollm2", metavar="DIR", help="folder of SmolLM2-135M-Instruct")
    parser.add_argument("--only", metavar="NAME", choices=[*CASES], help="one case")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures down")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(case(args.child, smollm2=args.smollm2)))
        return
    print(f"{'seconds of a step':28}{'phase':>10}{'estimated':>11}{'measured':>10}  ratio")
    rows = []
    for name in [args.only] if args.only else list(CASES):
        if CASES[name][0] == "smollm2-lora" and args.smollm2 is None:
            continue
        found = in_child(name, threads=args.threads, smollm2=args.smollm2)
        rows.append({"case": name, **found})
        for sums in found.values():
            sums["step"] = sum(sums.values())
        for phase, measured in found["measured"].items():
            estimated = found["estimated"][phase]
            ratio = estimated / measured
            print(f"{name:28}{phase:>10}{estimated:11.3f}{measured:10.3f}{ratio:7.2f}", flush=True)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
