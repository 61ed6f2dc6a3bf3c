"""What it takes to give a vLLM engine all weights anew, over TCP and through a folder.

    python benchmarks/weight_sync.py --model DIR [--rounds 5] [--dtype float32] [--json FILE]

DIR is a model that vLLM can serve on this machine. One engine, started for weights over TCP, takes
the same weights by both ways in turns (its reload from a folder works beside the other). A sync is
what a training step does: weights, cache and the canary that proves them; "weights" is that less
the canary. Wall seconds of this process and CPU seconds of it and the engine, median and range.
--dtype is the engine's; the trainer's is float32.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from dgpo_cli.config.load import resolve
from dgpo_cli.core.events import NOBODY
from dgpo_cli.engine.setup import make_sampler
from dgpo_cli.parallel.guard import descendants
from dgpo_cli.policy.load_policy import load_policy
from dgpo_cli.samplers.vllm.carriers import FullCarrier
from dgpo_cli.samplers.vllm.sampler import VllmSampler

SETTINGS = (
    "model.device=cpu",
    "adapter.kind=none",
    "rollout.backend.kind=vllm",
    "rollout.backend.cache_gib=0.5",
    "rollout.backend.max_num_seqs=4",
    "rollout.backend.enforce_eager=true",
    "prompts.max_prompt_tokens=64",
    "rollout.max_completion_tokens=32",
    "train.threads=1",
)


def cpu_s(pids: list[int]) -> float:
    """CPU seconds that some processes have used."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / 100


def spent(work: Callable[[], None], *, engine: list[int]) -> tuple[float, float]:
    """Wall seconds, and CPU seconds of this process and the engine."""
    wall, cpu, other = time.perf_counter(), time.process_time(), cpu_s(engine)
    work()
    return (
        time.perf_counter() - wall,
        time.process_time() - cpu + cpu_s(engine) - other,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    engine_dtype = f"rollout.backend.dtype={options.dtype}"
    loose = "rollout.backend.canary_tolerance=1.0"
    settings = resolve(
        overrides=[f"model.path={options.model}", *SETTINGS, engine_dtype, loose]
    ).settings
    policy = load_policy(settings.model, adapter=settings.adapter, seed=0, with_reference=False)
    sampler = make_sampler(settings, policy=policy)
    assert isinstance(sampler, VllmSampler)
    sampler.prepare(NOBODY)
    fleet: Any = sampler._fleet
    engine = list(descendants(fleet._process.pid))
    carriers = {
        way: FullCarrier(policy, fleet=fleet, folder=way == "folder") for way in ("tcp", "folder")
    }
    found: dict[str, dict[str, list[float]]] = {
        way: {"sync": [], "sync CPU": [], "weights": []} for way in carriers
    }
    version = 0
    for round_ in range(options.rounds + 1):
        for way, carrier in sorted(carriers.items(), reverse=bool(round_ % 2)):
            sampler._carrier = carrier
            version += 1
            wall, cpu = spent(partial(sampler.sync, policy_version=version), engine=engine)
            carrier.renew(first=False)
            alone, _ = spent(partial(carrier.give, fleet.clients[0]), engine=engine)
            carrier.drop_older()
            if round_:  # the first of each warms caches up
                for name, value in (("sync", wall), ("sync CPU", cpu), ("weights", alone)):
                    found[way][name].append(value)
    sampler.close()
    size = sum(t.numel() * t.element_size() for _, t in policy.tensors())
    print(f"{size / 1e6:.0f} MB of weights, engine in {options.dtype}, {options.rounds} rounds")
    for way, figures in found.items():
        for name, values in figures.items():
            middle = statistics.median(values)
            print(f"  {way:8} {name:9} {middle:6.2f} s  ({min(values):.2f} to {max(values):.2f})")
    if options.json:
        options.json.write_text(json.dumps({"bytes": size, "seconds": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
