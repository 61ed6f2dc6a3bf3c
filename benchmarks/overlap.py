"""What rollout.overlap saves: whole training steps with a real vLLM, with 0 and with 1.

    python benchmarks/overlap.py --model DIR [--rounds 2] [--steps 6] [--json FILE] [--set K=V ...]

DIR is a chat model that vLLM can serve on this machine, SmolLM2-135M-Instruct, say. Both settings
do the same work: prompts, seeds and, because the learning rate is too small to move a weight,
completions are equal. Runs go 0, 1, 1, 0, ...; the first step of each (it starts the engine, and
with overlap nothing was sampled ahead of it) and the last (nothing is sampled beside it) are left
out. The trainer has one thread, and so has the engine (OMP_NUM_THREADS).

On a CPU the two share cores, caches and memory's bandwidth: what is gained is what one of them
left idle, less the pass for old_logprobs. Wall seconds say that only on a machine with nothing
else to do; CPU seconds of trainer and engine hold on a busy one as well, and their sum and maximum
bound what a step can take, apart and at once. On devices of their own a step should take
max(sampling, training + that pass) in place of sampling + training; the last lines compute both.
"""

from __future__ import annotations

import os

from dgpo_cli.core.events import Event, StepDone

os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from dgpo_cli.config.load import resolve
from dgpo_cli.parallel.guard import descendants
from dgpo_cli.train import train

SETTINGS = (
    "model.device=cpu",
    "rollout.prompts_per_step=4",
    "rollout.group_size=4",
    "prompts.template=Explain in many words how to compute {problem}",
    "rollout.max_completion_tokens=64",
    "rollout.backend.max_num_seqs=16",
    "optim.lr=1e-30",
    "optim.weight_decay=0",
    "optim.micro_batch_size=8",
    "reward.workers=1",
    "train.threads=1",
    "train.checkpoint_every=1000",
    "train.rollouts_every=1000",
    "eval.every=0",
)
OWN_ENGINE = ("rollout.backend.cache_gib=0.5", "rollout.backend.enforce_eager=true")
PHASES = ("step", "sample", "score", "statistics", "update", "sync", "wait")
Figures = dict[str, float]


def run_once(overlap: int, *, options: argparse.Namespace, out: Path) -> list[Figures]:
    """Train a few steps; return the seconds of those in the middle, by phase."""
    own = OWN_ENGINE if options.backend == "vllm" else ()
    resolved = resolve(
        preset="smollm2-lora",
        overrides=[
            f"model.path={options.model}",
            f"rollout.backend.kind={options.backend}",
            *SETTINGS,
            *own,
            f"train.steps={options.steps}",
            *options.set,
            f"rollout.overlap={overlap}",
        ],
    )
    lines: list[Figures] = []
    before = [time.process_time(), 0.0]

    class Watch:
        def on(self, event: Event) -> None:
            if isinstance(event, StepDone):
                on_step(event.step, event.metrics)

    def on_step(step: int, metrics: Figures) -> None:
        now = [time.process_time(), cpu_below()]
        trainer, engine = (b - a for a, b in zip(before, now, strict=True))
        before[:] = now
        lines.append(metrics | {"trainer CPU": trainer, "engine CPU": engine})
        shown = ", ".join(f"{n} {metrics.get(f'time/{n}_s', 0.0):.2f}" for n in PHASES)
        shown += f"; CPU {trainer:.2f} + {engine:.2f}"
        print(f"  overlap {overlap} step {step}: {shown}", file=sys.stderr, flush=True)

    train.run(
        resolved,
        out=out,
        resume="never",
        observer=Watch(),
    )
    return [
        {n: line.get(f"time/{n}_s", 0.0) for n in PHASES}
        | {n: line[n] for n in ("trainer CPU", "engine CPU")}
        | {"tokens": line["completion/tokens"], "load": os.getloadavg()[0]}
        for line in lines[1:-1]
    ]


def cpu_below() -> float:
    """Return the CPU seconds of everything that this process has started and that lives."""
    ticks = 0
    for pid in descendants(os.getpid()):
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def medians(steps: list[Figures]) -> Figures:
    return {name: statistics.median(step[name] for step in steps) for name in steps[0]}


def table(apart: Figures, ahead: Figures) -> list[str]:
    lines = [f"{'median seconds':<18}{'overlap 0':>11}{'overlap 1':>11}"]
    for name in PHASES:
        first = "" if name == "wait" else f"{apart[name]:.2f}"
        lines.append(f"{name:<18}{first:>11}{ahead[name]:>11.2f}")
    saved = 1 - ahead["step"] / apart["step"]
    for name in ("trainer CPU", "engine CPU"):
        lines.append(f"{name:<18}{apart[name]:>11.2f}{ahead[name]:>11.2f}")
    lines.append(f"{'tokens a step':<18}{apart['tokens']:>11.0f}{ahead['tokens']:>11.0f}")
    lines.append(
        f"a step takes {ahead['step'] / apart['step']:.2f} of the time: {saved:+.0%} saved"
    )
    sampling = apart["sample"] + apart["score"]
    training = apart["statistics"] + apart["update"] + apart["sync"]
    # A forward pass is between none and a third of a step: the reference, the checkpointed layers
    # and the gradients are the rest.
    low, high = max(sampling, training), max(sampling, 4 / 3 * training)
    whole = sampling + training
    bound = max(ahead["trainer CPU"], ahead["engine CPU"])
    both = apart["trainer CPU"] + apart["engine CPU"]
    lines.append(f"by CPU seconds on two free cores: {bound / both:.2f} of the time at best")
    lines.append(
        f"on devices of their own, each as fast as here without overlap: {low:.2f} to {high:.2f} s "
        f"a step, {low / whole:.2f} to {high / whole:.2f} of the sum"
    )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", required=True, help="folder of a chat model")
    parser.add_argument("--rounds", type=int, default=2, help="runs of each setting")
    parser.add_argument("--steps", type=int, default=6, help="steps of a run, at least 3")
    parser.add_argument("--backend", choices=["vllm", "vllm-server"], default="vllm")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--json", type=Path, help="write every step's figures here")
    options = parser.parse_args()
    found: dict[int, list[Figures]] = {0: [], 1: []}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.rounds):
            for overlap in (0, 1) if number % 2 == 0 else (1, 0):
                out = Path(folder) / f"{number}-{overlap}"
                found[overlap] += run_once(overlap, options=options, out=out)
    apart, ahead = medians(found[0]), medians(found[1])
    print("\n".join(table(apart, ahead)))
    if options.json is not None:
        result: dict[str, Any] = {"apart": found[0], "ahead": found[1]}
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
