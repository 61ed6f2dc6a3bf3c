"""What one training step costs after sampling, phase by phase, against GRPO and against TRL.

    python benchmarks/step.py [--smollm2 DIR] [--rounds 5] [--only grpo|trl] [--json FILE]

Prompts and completions are fixed random tokens: what a step costs does not depend on what they say.
Times are CPU time on one thread; every round runs all methods in turn, ratios are medians over the
rounds' own ratios. Two comparisons:

    grpo  our DGPO step beside two steps made of the same parts: GRPO with the k3 estimate of the KL
          divergence (log-probabilities of policy and reference, and the term in the loss), and GRPO
          without a reference. On the embedded model, all of it trained, and SmolLM2-135M with LoRA.
    trl   the update of TRL's GRPOTrainer on SmolLM2-135M with LoRA, in several of its settings,
          beside ours: `TRL x8` sees the 8 completions at once, `TRL x2` accumulates over pairs,
          `ckpt` is gradient checkpointing, which is TRL's default. TRL takes the sampling policy's
          log-probabilities from the forward pass of the update when each batch is used once, and
          so these settings do.

Memory is what a fresh process adds, at most, to its resident set during one step, over what is
there after a small first step (weights, optimiser, code). Blocks of 64 KiB and more go back to the
system when they are freed, for all methods; glibc's heap would keep some and add a part by chance.

Without --smollm2, SmolLM2 is a model of its shapes with random weights: that changes no figure.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported

import argparse
import ctypes
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from step_methods import CASES, Ours
from step_trl import Trl

SIZES = {"tiny": 64, "even": 8, "uneven": 8}
PHASES = (
    "policy forward",
    "reference forward",
    "token pass, loss",
    "backward",
    "optimiser",
)
GRPO_METHODS = ("DGPO", "GRPO+KL", "GRPO")
OUR_METHODS = {
    "DGPO x8": ("DGPO", 8),
    "DGPO x4": ("DGPO", 4),
    "DGPO x2": ("DGPO", 2),
    "GRPO x8": ("GRPO", 8),
}
TRL_METHODS: dict[str, dict[str, Any]] = {
    "TRL x8": {"beta": 0.0, "size": 8, "checkpointing": False},
    "TRL+KL x8": {"beta": 0.04, "size": 8, "checkpointing": False},
    "TRL+KL x2": {"beta": 0.04, "size": 2, "checkpointing": False},
    "TRL+KL x8 ckpt": {"beta": 0.04, "size": 8, "checkpointing": True},
}
Figures = dict[str, Any]


def take(subject: Ours | Trl, method: str) -> float:
    """Take a step by one of the methods; return the gradient's norm."""
    if isinstance(subject, Trl):
        return subject.step()
    name, size = OUR_METHODS.get(method, (method, SIZES[subject.case]))
    return subject.step(name, size=size)


def measure(subjects: Mapping[str, Ours | Trl], rounds: int) -> Figures:
    """Run all methods in turn, in another order each round; the first round warms up."""
    methods = list(subjects)
    norms: dict[str, float] = {}
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    phases: dict[str, list[dict[str, float]]] = {name: [] for name in methods}
    for number in range(rounds + 1):
        shift = number % len(methods)
        for name in methods[shift:] + methods[:shift]:
            subject = subjects[name]
            subject.clock.take()
            start = time.process_time()
            norm = take(subject, name)
            spent = time.process_time() - start
            norms.setdefault(name, norm)
            if number:
                seconds[name].append(spent)
                phases[name].append(subject.clock.take())
    return {
        "seconds": seconds,
        "median_s": {name: statistics.median(values) for name, values in seconds.items()},
        "phases_s": {
            name: {p: statistics.median(each.get(p, 0.0) for each in runs) for p in PHASES}
            for name, runs in phases.items()
        },
        "first_grad_norm": norms,
    }


def ratio(figures: Figures, one: str, other: str) -> float:
    pairs = zip(figures["seconds"][one], figures["seconds"][other], strict=True)
    return float(statistics.median(a / b for a, b in pairs))


def show_phases(title: str, figures: Figures) -> None:
    names = list(figures["median_s"])
    print(f"\n{title}: CPU seconds" + "\n" + f"{'':20}" + "".join(f"{n:>16}" for n in names))
    for phase in PHASES:
        cells = "".join(f"{figures['phases_s'][n][phase]:16.3f}" for n in names)
        print(f"{phase:20}{cells}")
    print(f"{'whole step':20}" + "".join(f"{figures['median_s'][n]:16.3f}" for n in names))


def grpo(case: str, folder: str | None, rounds: int) -> Figures:
    ours = Ours(case, folder)
    figures = measure(dict.fromkeys(GRPO_METHODS, ours), rounds)
    seconds, phases = figures["seconds"], figures["phases_s"]["DGPO"]
    more = statistics.median(a - b for a, b in zip(seconds["DGPO"], seconds["GRPO"], strict=True))
    figures["dgpo_over_kl"] = ratio(figures, "DGPO", "GRPO+KL")
    figures["dgpo_over_grpo"] = ratio(figures, "DGPO", "GRPO")
    figures["dgpo_less_grpo_s"] = more
    show_phases(case, figures)
    print(f"DGPO / GRPO+KL  {figures['dgpo_over_kl']:.3f}  (bar 1.02)")
    print(
        f"DGPO / GRPO     {figures['dgpo_over_grpo']:.3f}: {more:.3f} s more; the reference's "
        f"forward is {phases['reference forward']:.3f} s of it, its half of the token pass "
        f"{phases['token pass, loss'] - figures['phases_s']['GRPO']['token pass, loss']:.3f} s"
    )
    return figures


def trl(case: str, folder: str | None, rounds: int) -> Figures:
    subjects: dict[str, Ours | Trl] = dict.fromkeys(OUR_METHODS, Ours(case, folder))
    subjects |= {name: Trl(case, folder, **how) for name, how in TRL_METHODS.items()}
    figures = measure(subjects, rounds)
    figures["peak_mib"] = {name: peak_mib(case, name, folder) for name in subjects}
    show_phases(f"{case}, beside TRL", figures)
    peaks = figures["peak_mib"]
    print(f"{'peak MiB':20}" + "".join(f"{peaks[n]:16.0f}" for n in subjects))
    for title, compare in (
        ("TRL's time / ours (bar 1.5)", lambda one, other: ratio(figures, other, one)),
        ("our peak / TRL's (bar 0.6)", lambda one, other: peaks[one] / peaks[other]),
    ):
        show_matrix(title, compare, into=figures)
    return figures


def show_matrix(title: str, compare: Callable[[str, str], float], *, into: Figures) -> None:
    table = {one: {other: compare(one, other) for other in TRL_METHODS} for one in OUR_METHODS}
    into[title] = table
    print(f"\n{title:30}" + "".join(f"{other:>16}" for other in TRL_METHODS))
    for one, row in table.items():
        print(f"{one:30}" + "".join(f"{value:16.2f}" for value in row.values()))


def resident(key: str) -> float:
    """Return a line of /proc/self/status in MiB; VmRSS is now, VmHWM the most."""
    found = re.search(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def own_peak(case: str, method: str, folder: str | None) -> float:
    """Return the MiB that one step adds at most; call it in a fresh process, on Linux."""
    subject: Ours | Trl
    if method in TRL_METHODS:
        subject = Trl(case, folder, **TRL_METHODS[method])
    else:
        subject = Ours(case, folder)
    rows, advantages = subject.rows, subject.advantages
    subject.rows, subject.advantages = rows.take(torch.arange(2)), advantages[:2]
    take(subject, method)
    subject.rows, subject.advantages = rows, advantages
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew
    before = resident("VmRSS")
    take(subject, method)
    return resident("VmHWM") - before


def peak_mib(case: str, method: str, folder: str | None) -> float:
    command = [sys.executable, __file__, "--peak", case, method]
    command += ["--smollm2", folder] if folder else []
    env = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(1 << 16)}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=env)
    return float(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--smollm2", metavar="DIR", help="a folder with SmolLM2-135M")
    parser.add_argument("--tiny", metavar="DIR", help="the embedded model, if it is elsewhere")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=("grpo", "trl"))
    parser.add_argument("--cases", nargs="+", choices=tuple(CASES), default=list(CASES))
    parser.add_argument("--json", help="also write the figures to this file")
    parser.add_argument("--peak", nargs=2, metavar=("CASE", "METHOD"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.peak:
        case, method = args.peak
        print(own_peak(case, method, args.smollm2))
        return
    found: Figures = {"torch": torch.__version__, "grpo": {}, "trl": {}}
    for case in args.cases:
        folder = args.tiny if case == "tiny" else args.smollm2
        if args.only != "trl":
            found["grpo"][case] = grpo(case, folder, args.rounds)
        if args.only != "grpo" and case != "tiny":
            found["trl"][case] = trl(case, folder, args.rounds)
    if args.json:
        Path(args.json).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
