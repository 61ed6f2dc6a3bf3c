"""What training costs on a GPU, and whether its numbers are right there, in one call.

    python benchmarks/gpu.py [--json FILE] [--only SECTION ...]
    python benchmarks/gpu.py --device cpu --small        # the same script on a CPU, in a minute

Random weights of real shapes: nothing is downloaded, and neither vLLM nor bitsandbytes is needed.
gpu-requirements.txt has what it needs besides torch, transformers, peft, typer and rich.

Each section is a process of its own, so that a fault of the device ends one section and no other,
and one that takes longer than its limit is ended. Rows are printed and written as they come; the
file is complete at any time. At the end: what each section took, and which goals were reached.
Sections start in order of value until the time is up (--minutes).

MFU counts 2 operations a weight and token for each forward pass, for the gradient of activations
and, in full training, for that of weights; attention is left out. `hfu` counts what checkpointing
computes again as well.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the benchmark.

    function: MODULE:NAME, called with a Bench in a process of its own.
    limit_s: after that it is ended. beside: it runs at the same time as neighbours that do so too,
    because it measures no time.
    """

    function: str
    limit_s: float
    about: str
    beside: bool = False


SECTIONS = {
    "machine": Section("gpu_bench:machine", 60, "card, driver, packages"),
    "pass": Section("gpu_numbers:token_pass_errors", 60, "the token pass against float64"),
    "lora": Section("gpu_training:lora", 90, "an update of 7B shapes with LoRA, 3 x 9,216 tokens"),
    "trl": Section("gpu_trl:updates", 90, "the same update in TRL"),
    "phases": Section("gpu_training:phases", 60, "where the time of that update goes"),
    "policy": Section("gpu_numbers:policy", 150, "equal models, the sampler", beside=True),
    "compile": Section("gpu_training:compile_layers", 180, "what compilation takes", beside=True),
    "tests": Section("gpu_numbers:tests", 150, "tests of policy and algo", beside=True),
    "resume": Section("gpu_runs:resume", 150, "a killed run resumed; snapshots", beside=True),
    "learn": Section("gpu_runs:learn", 150, "the embedded model learns", beside=True),
    "ipc": Section("gpu_runs:ipc", 90, "memory shared with another process", beside=True),
    "choices": Section("gpu_training:choices", 120, "compiled layers, kinds of checkpointing"),
    "kernels": Section("gpu_training:kernels", 40, "which attention kernels run"),
    "tiles": Section("gpu_training:tiles", 40, "the token pass alone, by size of its tiles"),
    "memory": Section("gpu_runs:memory", 80, "updates of varied lengths: reserved, allocated"),
    "full": Section("gpu_training:full", 60, "full training, 8 layers of 7B; sharded on one rank"),
    "long": Section("gpu_training:long", 40, "a row of 20,480 tokens, 4 layers of 32B"),
    "sample": Section("gpu_sample:sample", 60, "the sampler hf, beside barer loops"),
    "smollm2": Section("gpu_runs:smollm2", 90, "a run of the preset: speed, by phase"),
}
# Imported once; each section is a copy of this process. None of them wakes the device.
PRELOADED = (
    "gpu_bench",
    "transformers.models.qwen2.modeling_qwen2",
    "peft",
    "dgpo_cli.engine.learn",
    "dgpo_cli.policy.load_policy",
    "dgpo_cli.planning.plan",
)


@dataclass(slots=True)
class Result:
    """The end of a section."""

    section: str
    seconds: float
    outcome: str  # ok, failed, too slow, or skipped and why
    goals: list[dict[str, Any]] = field(default_factory=list)

    @property
    def bad(self) -> bool:
        return self.outcome in ("failed", "too slow")


@dataclass(slots=True)
class Running:
    """A section at work."""

    name: str
    process: Any
    pipe: Any
    start: float
    limit_s: float
    outcome: str = "failed"
    goals: list[dict[str, Any]] = field(default_factory=list)

    def end(self) -> None:
        """End it, and all that it has started."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):  # it has ended, or not yet become a leader
            self.process.kill()
        self.process.join()


class Runner:
    """Runs sections, prints their rows and keeps them."""

    def __init__(
        self, *, device: str, small: bool, out: Path | None, deadline: float, method: str
    ) -> None:
        self._device, self._small, self._out = device, small, out
        self._deadline = deadline
        self._context: Any = multiprocessing.get_context(method)
        self._rows: list[dict[str, Any]] = []
        self.results: list[Result] = []

    def run(self, names: Sequence[str]) -> None:
        """Run sections in this order."""
        for group in groups_of(names):
            left = self._deadline - time.monotonic()
            if left < 10:
                for name in group:
                    self._finished(Result(name, 0.0, "skipped: no time left"))
                continue
            running = [self._start(name, left=left) for name in group]
            try:
                while running:
                    running = self._wait(running)
            finally:
                for each in running:
                    each.end()

    def compare(self) -> None:
        """Judge the fastest update of this package against TRL's, both with a reference."""
        rates: dict[str, float] = {}
        for row in self._rows:
            rival = row["section"] == "trl" and "without" not in row["case"]
            own = row["section"] in ("lora", "choices") and row["case"] in (
                "DGPO",
                "DGPO, compiled",
            )
            if "tokens_per_s" in row and (rival or own):
                side = "trl" if rival else "own"
                rates[side] = max(rates.get(side, 0.0), row["tokens_per_s"])
        if len(rates) == 2:
            ratio = rates["own"] / rates["trl"]
            judged = self._device.startswith("cuda") and not self._small
            goal = {"case": "update over TRL's", "value": ratio, "goal": "at least 2"}
            goal["reached"] = ratio >= 2 if judged else None
            self._say("compare", goal)
            self.results.append(Result("compare", 0.0, "ok", [goal]))

    def _start(self, name: str, *, left: float) -> Running:
        section = SECTIONS[name]
        here, there = self._context.Pipe(duplex=False)
        method: Literal["fork", "spawn"] = self._context.get_start_method()
        arguments = (section.function, self._device, self._small, there, method)
        process = self._context.Process(target=work, args=arguments)
        process.start()
        there.close()
        return Running(name, process, here, time.monotonic(), min(section.limit_s, left))

    def _wait(self, running: list[Running]) -> list[Running]:
        """Take what the sections send until one of them ends; return the others."""
        now = time.monotonic()
        first = min(each.start + each.limit_s for each in running)
        ready = wait([each.pipe for each in running], timeout=max(0.0, first - now))
        still = []
        for each in running:
            said = each.pipe in ready
            in_time = time.monotonic() < each.start + each.limit_s
            if self._receive(each) if said else in_time:
                still.append(each)
            else:
                self._end(each, late=not said)
        return still

    def _receive(self, each: Running) -> bool:
        """Take one message; return whether the section goes on."""
        try:
            kind, value = each.pipe.recv()
        except EOFError:  # it has crashed
            return False
        if kind == "row":
            self._say(each.name, value)
            if "goal" in value:
                each.goals.append(value)
            return True
        if kind == "failed":
            print(value, file=sys.stderr, flush=True)
        elif kind == "spawn":
            self._context = multiprocessing.get_context("spawn")
            each.outcome = "skipped: forked from a process that had woken the device"
        else:
            each.outcome = "ok" if kind == "done" else f"skipped: {value}"
        return False

    def _end(self, each: Running, *, late: bool) -> None:
        each.end()
        outcome = "too slow" if late else each.outcome
        self._finished(Result(each.name, time.monotonic() - each.start, outcome, each.goals))

    def _finished(self, result: Result) -> None:
        self.results.append(result)
        self._say(result.section, {"case": "section", "s": result.seconds, "end": result.outcome})

    def _say(self, section: str, row: dict[str, Any]) -> None:
        self._rows.append({"section": section, **row})
        values = {k: v for k, v in row.items() if k != "case"}
        shown = (f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in values.items())
        print(f"{section:8s} {row['case']:44s}", *shown, flush=True)
        if self._out is not None:
            part = self._out.with_name(self._out.name + ".part")
            part.write_text(json.dumps(self._rows, indent=1) + "\n", encoding="utf-8")
            os.replace(part, self._out)


def groups_of(names: Sequence[str]) -> list[list[str]]:
    """Return sections that follow each other: alone, or together with all that run beside."""
    groups: list[list[str]] = []
    for name in names:
        beside = groups and SECTIONS[name].beside and SECTIONS[groups[-1][-1]].beside
        if beside:
            groups[-1].append(name)
        else:
            groups.append([name])
    return groups


def work(function: str, device: str, small: bool, pipe: Any, method: str) -> None:
    """Run a section here, and send its rows and how it ended."""
    os.setsid()  # what it starts ends with it
    from gpu_bench import Bench, Skipped, forked_too_late

    module, _, name = function.partition(":")
    try:
        if forked_too_late(device):
            pipe.send(("spawn", ""))
            return
        getattr(importlib.import_module(module), name)(
            Bench(device, small=small, pipe=pipe, method=method)
        )
    except Skipped as reason:
        pipe.send(("skipped", str(reason)))
    except BaseException:
        pipe.send(("failed", traceback.format_exc(limit=-8)))
    else:
        pipe.send(("done", ""))


def print_summary(results: Sequence[Result]) -> None:
    print(f"\n{'section':10s} {'s':>6s}  end; goals")
    for each in results:
        print(f"{each.section:10s} {each.seconds:6.1f}  {each.outcome}")
        for goal in each.goals:
            word = {True: "reached", False: "MISSED", None: "not judged"}[goal["reached"]]
            print(f"{'':18s} {word}: {goal['case']}: {goal['value']:.4g}, {goal['goal']}")
    print(f"{'all':10s} {sum(each.seconds for each in results):6.1f}")


def main() -> None:
    about = "\n".join(f"  {name:9s} {each.about}" for name, each in SECTIONS.items())
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog=f"sections:\n{about}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--device", default="cuda", choices=("cuda", "cpu"), help="cuda unless given"
    )
    parser.add_argument("--small", action="store_true", help="tiny shapes, to try the script")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, metavar="SECTION", default=SECTIONS)
    parser.add_argument("--minutes", type=float, default=7.8, help="for all sections (7.8)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows here")
    arguments = parser.parse_args()
    if arguments.json is not None and not arguments.json.absolute().parent.is_dir():
        parser.error(f"--json={arguments.json}: no such folder")
    if arguments.small:  # many processes on few cores; torch reads it when it is imported
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    # torch asks the driver's library, not CUDA, whether there is a device: the sections can fork.
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    deadline = time.monotonic() + 60 * arguments.minutes
    for name in PRELOADED:
        importlib.import_module(name)
    runner = Runner(
        device=arguments.device,
        small=arguments.small,
        out=arguments.json,
        deadline=deadline,
        method="fork",
    )
    try:
        runner.run(["machine"])
        if not runner.results[0].bad:  # else there is no such device
            runner.run([n for n in SECTIONS if n in arguments.only and n != "machine"])
            runner.compare()
    finally:
        print_summary(runner.results)
    bad = [each.section for each in runner.results if each.bad]
    if bad:
        raise SystemExit(f"failed: {', '.join(bad)}")


if __name__ == "__main__":
    main()
