"""The peak memory that `dgpo plan` predicts, against the one that a training process reaches.

    python benchmarks/plan.py [--smollm2 DIR] [--only NAME] [--json FILE]

Each case is a process of its own on the CPU: it loads the model and takes three steps of sampling
and training with prompts and completions of exactly the longest length that the settings allow,
right and wrong answers in turn, so that every completion has an advantage. Measured is the largest
resident set of the whole process (VmHWM), libraries and all. The workers that check answers are
left out on both sides.

Every case runs twice. `returned`: with MALLOC_MMAP_THRESHOLD_=65536, where freed blocks go back to
the system, so that the peak is what the program holds. `heap`: glibc as it is, whose holes the plan
only estimates.

Without --smollm2 only the embedded model is measured; DIR is a folder of SmolLM2-135M-Instruct
(benchmarks/smollm2.py writes one).
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dgpo_cli.config.load import Resolved, resolve
from dgpo_cli.config.settings import needs_reference
from dgpo_cli.core.types import Message, Prompt, StepMetrics, Verdict
from dgpo_cli.planning.memory import MALLOC, MIB

STEPS = 3
ALLOCATORS = {"returned": "65536", "heap": None}
LENGTHS = (
    "rollout.prompts_per_step=2",
    "prompts.max_prompt_tokens=64",
    "rollout.max_completion_tokens=16",
)
Case = tuple[str, tuple[str, ...]]  # a preset, and what is changed of it
CASES: dict[str, Case] = {
    "embedded, all weights": ("tiny", ()),
    "SmolLM2 LoRA": ("smollm2-lora", LENGTHS),
    "SmolLM2 LoRA, checkpointing": (
        "smollm2-lora",
        (*LENGTHS, "model.gradient_checkpointing=true"),
    ),
}


class Alternating:
    """Every second answer is right."""

    def grade(self, items: Sequence[object]) -> list[Verdict]:
        return [
            Verdict("correct" if i % 2 else "wrong", "", float(i % 2)) for i in range(len(items))
        ]


def peak() -> int:
    """Return the largest resident set that this process has had, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("this system does not tell a process its peak memory")


def steps_of(resolved: Resolved, *, steps: int) -> Iterator[StepMetrics]:
    """Take the steps; yield the seconds of each by phase."""
    import torch

    from dgpo_cli.engine import engine as engine_module
    from dgpo_cli.engine.engine import Engine
    from dgpo_cli.engine.optimizers import build_adamw
    from dgpo_cli.engine.setup import make_sampler
    from dgpo_cli.policy.load_policy import load_policy
    from dgpo_cli.policy.policy import Policy

    settings = resolved.settings
    policy = load_policy(
        settings.model,
        adapter=settings.adapter,
        seed=settings.seed,
        with_reference=needs_reference(settings),
    )
    # Nothing ends a completion, and prompts are random ids: every row has the longest length.
    Policy.stop_ids = property(lambda self: frozenset())  # type: ignore[method-assign,assignment]
    generator = torch.Generator().manual_seed(0)
    length = settings.prompts.max_prompt_tokens

    def encode(tokenizer: object, prompt: Prompt) -> tuple[int, ...]:
        ids = torch.randint(3, policy.vocab_size, (length,), generator=generator)
        return tuple(ids.tolist())

    vars(engine_module)["encode_prompt"] = encode
    grader: Any = Alternating()
    engine = Engine(
        settings,
        policy=policy,
        sampler=make_sampler(settings, policy=policy),
        grader=grader,
        optimizer=build_adamw(policy, lr=1e-9, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.0),
    )
    rollout = settings.rollout
    prompts = [
        Prompt(str(i), (Message("user", str(i)),), "1", "benchmark")
        for i in range(rollout.prompts_per_step)
    ]
    for step in range(steps):
        seeds = [[1000 * i + j for j in range(rollout.group_size)] for i in range(len(prompts))]
        batch = engine.make_batch(engine.score(engine.sample(prompts, seeds=seeds)))
        engine.update(batch, step=step)
        engine.sync()
        yield engine.take_times()


def train(resolved: Resolved) -> int:
    """Take the steps; return the peak of the process in bytes."""
    for _ in steps_of(resolved, steps=STEPS):
        pass
    return peak()


def settings_of(case: Case, *, smollm2: str | None) -> Resolved:
    preset, changes = case
    overrides = [*changes, "model.device=cpu"]
    if preset == "smollm2-lora":
        overrides.append(f"model.path={smollm2}")
    return resolve(preset=preset, overrides=overrides)


def predict(resolved: Resolved) -> int:
    """Return the peak that the plan gives for the process alone, in bytes."""
    from dgpo_cli.planning import devices, plan

    found = plan.run(
        lambda changes: resolved,
        device=devices.cpu(measure=False),
        typical=plan.Typical(),
        repair=False,
    )
    return found.memory.peak - found.memory.part("answer workers")


def in_child(name: str, *, allocator: str, smollm2: str | None) -> dict[str, int]:
    environment = {key: value for key, value in os.environ.items() if key != MALLOC}
    threshold = ALLOCATORS[allocator]
    if threshold is not None:
        environment[MALLOC] = threshold
    command = [sys.executable, __file__, "--child", name]
    if smollm2 is not None:
        command += ["--smollm2", smollm2]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    figures: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--smollm2", metavar="DIR", help="folder of SmolLM2-135M-Instruct")
    parser.add_argument("--only", metavar="NAME", choices=[*CASES], help="one case")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures down")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        resolved = settings_of(CASES[arguments.child], smollm2=arguments.smollm2)
        print(json.dumps({"predicted": predict(resolved), "measured": train(resolved)}))
        return
    names = [arguments.only] if arguments.only else list(CASES)
    rows = []
    print(
        f"{'peak of the process, MiB':30}{'allocator':>10}{'predicted':>11}{'measured':>10}  ratio"
    )
    for name in names:
        if CASES[name][0] == "smollm2-lora" and arguments.smollm2 is None:
            continue
        for allocator in ALLOCATORS:
            found = in_child(name, allocator=allocator, smollm2=arguments.smollm2)
            predicted, measured = found["predicted"], found["measured"]
            rows.append({"case": name, "allocator": allocator, **found})
            print(
                f"{name:30}{allocator:>10}{predicted / MIB:11.0f}{measured / MIB:10.0f}"
                f"{predicted / measured:7.2f}",
                flush=True,
            )
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
