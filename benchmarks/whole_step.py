"""Whole training steps, sampling included, beside TRL's GRPOTrainer: wall time a step.

    python benchmarks/whole_step.py --model DIR [--rounds 2] [--steps 6] [--threads 1]

SmolLM2-135M-Instruct with LoRA r=16 on one-digit sums: 4 prompts with 8 completions of 32 tokens,
at most, temperature 1, one update a step. Every case is a process of its own; the rounds run all
cases in turn. A step is the median of the steps after the first, which warms up. What a model says
decides how long its completions are, so tokens a step stand beside the time.

TRL samples with transformers' `generate`, by default or with continuous batching (`paged`);
with its KL term, which like DGPO needs the reference, or without. Gradient checkpointing, its
default, is off, as that would be slower. `--cases` names those to run.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

CASES = ("dgpo hf", "dgpo vllm", "grpo hf", "trl", "trl kl", "trl kl x16", "trl paged")
GROUP, LIMIT = 8, 32
TEMPLATE = "Compute {problem} Write only the answer, as a number."


def ours(model: str, case: str, *, steps: int, prompts: int) -> dict[str, list[float]]:
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            "model.path": model,
            "credit.rule": "dgpo" if case.startswith("dgpo") else "uniform",
            "rollout.backend.kind": case.split()[1],
            "rollout.prompts_per_step": prompts,
        }
        command = [
            *(sys.executable, "-m", "dgpo_cli", "train", "--preset", "smollm2-lora"),
            *("--steps", str(steps), "--out", f"{folder}/run"),
            *(part for k, v in settings.items() for part in ("--set", f"{k}={v}")),
        ]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        lines = Path(folder, "run", "metrics.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    return {
        "seconds": [line["time/step_s"] for line in found],
        "tokens": [line["completion/tokens"] for line in found],
    }


def last_number(text: str) -> str | None:
    found = re.findall(r"\d+", text)
    return found[-1] if found else None


def trl(
    model: str, *, steps: int, prompts: int, kl: bool, size: int, paged: bool
) -> dict[str, list[float]]:
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    tokens: list[float] = []

    def reward(
        completions: list[Any], completion_ids: list[Any], answer: list[str], **_: Any
    ) -> Any:
        tokens.append(float(sum(map(len, completion_ids))))
        texts = [each[0]["content"] for each in completions]
        return [float(last_number(t) == a) for t, a in zip(texts, answer, strict=True)]

    sums = [(a, b) for a in range(10) for b in range(10)]
    rows = [
        {
            "prompt": [{"role": "user", "content": TEMPLATE.format(problem=f"{a}+{b}?")}],
            "answer": str(a + b),
        }
        for a, b in sums
    ]
    seconds: list[float] = []

    class Steps(TrainerCallback):  # type: ignore[misc]
        started = 0.0

        def on_step_begin(self, *args: Any, **others: Any) -> None:
            Steps.started = Steps.started or time.perf_counter()

        def on_step_end(self, *args: Any, **others: Any) -> None:
            now = time.perf_counter()
            seconds.append(now - Steps.started)
            Steps.started = now  # the next step's sampling comes before its on_step_begin

    config = GRPOConfig(
        output_dir=tempfile.mkdtemp(),
        max_steps=steps,
        loss_type="dapo",
        beta=0.04 if kl else 0.0,
        epsilon_high=0.28,
        learning_rate=1e-4,
        lr_scheduler_type="constant",
        num_generations=GROUP,
        per_device_train_batch_size=size,
        gradient_accumulation_steps=prompts * GROUP // size,
        max_completion_length=LIMIT,
        temperature=1.0,
        gradient_checkpointing=False,
        use_transformers_continuous_batching=paged,
        bf16=False,
        use_cpu=True,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    lora = LoraConfig(
        r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=reward,
        args=config,
        train_dataset=Dataset.from_list(rows),
        peft_config=lora,
        callbacks=[Steps()],
    )
    Steps.started = time.perf_counter()
    trainer.train()
    return {"seconds": seconds, "tokens": tokens}


def run(case: str, model: str, *, steps: int, prompts: int) -> dict[str, list[float]]:
    if not case.startswith("trl"):
        return ours(model, case, steps=steps, prompts=prompts)
    size = 16 if "x16" in case else prompts * GROUP
    kl, paged = "kl" in case, "paged" in case
    return trl(model, steps=steps, prompts=prompts, kl=kl, size=size, paged=paged)


def child(case: str, args: argparse.Namespace) -> dict[str, Any]:
    """Run a case in a process of its own."""
    command = [sys.executable, __file__, "--model", args.model, "--steps", str(args.steps)]
    command += ["--prompts", str(args.prompts)]
    environment = os.environ | {"OMP_NUM_THREADS": str(args.threads)}
    done = subprocess.run(
        [*command, "--child", case], capture_output=True, text=True, env=environment, check=False
    )
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or ["?"])[-1]}
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="folder of SmolLM2-135M-Instruct")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--prompts", type=int, default=4, help="prompts a step")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cases", nargs="+", default=list(CASES))
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(run(args.child, args.model, steps=args.steps, prompts=args.prompts)))
        return
    print(f"{'round':>5}  {'case':12} {'s a step':>9} {'tokens':>7} {'ms a token':>10}", flush=True)
    medians: dict[str, list[float]] = {case: [] for case in args.cases}
    for number in range(args.rounds):
        for case in args.cases:
            found = child(case, args)
            if "error" in found:
                print(
                    f"{number:5}  {case:12} does not run here: {found['error'][:100]}", flush=True
                )
                continue
            step = statistics.median(found["seconds"][1:])
            tokens = statistics.median(found["tokens"][1:])
            medians[case].append(step)
            print(
                f"{number:5}  {case:12} {step:9.2f} {tokens:7.0f} {1000 * step / tokens:10.1f}",
                flush=True,
            )
    rivals = {c: statistics.median(v) for c, v in medians.items() if c.startswith("trl") and v}
    for case, values in medians.items():
        for rival, seconds in rivals.items() if case not in rivals and values else ():
            print(f"{case} over {rival}: {statistics.median(values) / seconds:.2f}")


if __name__ == "__main__":
    main()
