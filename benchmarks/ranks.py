"""What the ranks of a run send each other, what a step costs them, and the memory they need.

    python benchmarks/ranks.py [--only CASE] [--ranks 1 2 4] [--rounds 3] [--json FILE]

A model of 7.9 million random weights takes steps on gloo ranks of this machine, each a process with
one thread: sixteen completions of random tokens are measured, learnt from, and the weights are
gathered as for a sampler with weights of its own. Policy, learner, engine and sharding are those of
a run.

Bytes are counted where torch calls a collective, whoever asks for it, FSDP included, and are those
that one rank sends in a ring, as `dgpo plan` counts them; what it predicts stands beside them. CPU
seconds are those of a rank, gloo's threads included, so that a busy machine does not matter much:
a median over the rounds, and what all ranks together spend over what one device spends. Memory is
what tensors hold at most during a step, and the peak of the resident set over what the process
takes before it loads the model; blocks of 64 KiB and more go back to the system when freed.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported
os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"  # read when a process starts

import argparse
import gc
import json
import multiprocessing
import queue
import random
import socket
import statistics
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dgpo_cli.config.load import resolve
from dgpo_cli.core.types import Completion, Message, Prompt, ScoredGroup, Verdict
from dgpo_cli.engine.engine import Engine
from dgpo_cli.engine.setup import training_engine
from dgpo_cli.parallel.gathered import Gathered
from dgpo_cli.parallel.ranks import ALONE, Ranks, Seat, TorchRanks
from dgpo_cli.parallel.sharding import is_sharded
from dgpo_cli.planning import devices, job, plan, traffic
from dgpo_cli.policy import load
from dgpo_cli.policy.config_file import find_config
from dgpo_cli.policy.settings import EMBEDDED_TINY, ModelSettings
from dgpo_cli.policy.shape import shape_of

if TYPE_CHECKING:
    from dgpo_cli.config.settings import Settings

MIB = 1 << 20
PROMPT, COMPLETION = 16, 32
MODEL: dict[str, Any] = {
    "vocab_size": 4096,
    "hidden_size": 256,
    "intermediate_size": 688,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "tie_word_embeddings": False,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": None,
}
RECIPE = {
    "model.device": "cpu",
    "rollout.prompts_per_step": 4,
    "rollout.group_size": 4,
    "rollout.max_completion_tokens": COMPLETION,
    "rollout.backend.kind": "vllm-server",  # nothing is sampled
    "prompts.max_prompt_tokens": PROMPT,
    "optim.micro_batch_size": 2,
    "train.threads": 1,
}
LORA = {"adapter.kind": "lora", "adapter.rank": 16}
CHECKPOINTING = {"model.gradient_checkpointing": "true"}
SHARD = {"parallel.kind": "shard"}
SHARED = {"parallel.sequence": 2}
NODE = 2  # ranks that are taken for one machine


@dataclass(frozen=True, slots=True)
class Case:
    """Settings, and the numbers of ranks that they make sense with."""

    changes: dict[str, Any]
    ranks: tuple[int, ...] = (1, 2, 4)


CASES = {
    "full, shard": Case(SHARD),
    "LoRA, replicate": Case({**LORA, "parallel.kind": "replicate"}),
    "full, shard, checkpointing": Case({**SHARD, **CHECKPOINTING}),
    "full, hybrid": Case({"parallel.kind": "hybrid"}, (4,)),
    "full, shard, rows shared": Case({**SHARD, **SHARED}, (2, 4)),
    "full, shard, bfloat16": Case({**SHARD, "model.compute": "bfloat16"}),
}
PRELOADED = (
    *("torch.distributed.fsdp", "transformers.models.qwen2.modeling_qwen2"),
    *("dgpo_cli.engine.setup", "dgpo_cli.engine.learn", "dgpo_cli.policy.load_sharded"),
    "dgpo_cli.parallel.gathered",
)
Figures = dict[str, Any]


class Watched(TorchDispatchMode):
    """Counts the bytes of collectives, and what tensors hold at most, in a context."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        from torch.utils.weak import WeakIdKeyDictionary

        self.sent: Counter[str] = Counter()
        self.peak = 0
        self._held: Any = WeakIdKeyDictionary()
        for found in gc.get_objects():
            if issubclass(type(found), torch.Tensor):  # isinstance wakes lazy modules
                self._hold(found)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        from torch.distributed.tensor import DTensor
        from torch.utils._pytree import tree_leaves

        if any(issubclass(each, DTensor) for each in types):
            return NotImplemented  # it comes again, for the rank's own part
        found = func(*args, **(kwargs or {}))
        if func.namespace in ("c10d", "_c10d_functional"):
            self.sent.update(sent_by(func, args))
        count = len(self._held)
        for leaf in tree_leaves(found):
            if isinstance(leaf, torch.Tensor):
                self._hold(leaf)
        if len(self._held) > count:
            self.peak = max(self.peak, self.held)
        return found

    @property
    def held(self) -> int:
        """What tensors hold now, in bytes."""
        return sum(storage.nbytes() for storage in list(self._held))

    def _hold(self, tensor: Any) -> None:
        local = getattr(tensor, "_local_tensor", tensor)
        if local.device.type == "cpu" and type(local) in (torch.Tensor, torch.nn.Parameter):
            self._held[local.untyped_storage()] = None


def sent_by(func: Any, args: Any) -> dict[str, int]:
    """Return the bytes that this rank sends in a call of a collective, by its kind."""
    from torch.utils._pytree import tree_leaves

    name = func._schema.name.partition("::")[2].strip("_")
    tensors = [leaf for leaf in tree_leaves(args) if isinstance(leaf, torch.Tensor)]

    def ring(size: int) -> int:
        count = group_size(args)
        return size * (count - 1) // count

    def size(of: list[torch.Tensor]) -> int:
        return sum(each.nbytes for each in of)

    if name in ("allgather_base", "reduce_scatter_base"):  # the larger side is whole
        kind = "all-gather" if name == "allgather_base" else "reduce-scatter"
        return {kind: ring(max(each.nbytes for each in tensors))}
    if name == "all_gather_into_tensor":
        return {"all-gather": size(tensors) * (group_size(args) - 1)}
    if name in ("allreduce", "all_reduce"):
        return {"all-reduce": 2 * ring(size(tensors))}
    if name == "alltoall_base":
        return {"all-to-all": ring(tensors[0].nbytes)}
    if name in ("broadcast", "allgather", "gather"):  # of objects
        return {"broadcast": size(tensors) if name == "broadcast" else ring(size(tensors))}
    if name in ("wait_tensor", "wrap_tensor_autograd"):
        return {}
    raise NotImplementedError(f"{name} is not counted")


def group_size(args: Any) -> int:
    """Return the ranks of the group among the arguments of a collective."""
    c10d: Any = torch.distributed.distributed_c10d
    for each in args:
        if isinstance(each, torch.ScriptObject) and "ProcessGroup" in str(each):
            return int(c10d.ProcessGroup.unbox(each).size())
        if isinstance(each, str) and each not in ("sum", "avg", "max", "min"):
            return int(c10d._resolve_process_group(each).size())
    raise AssertionError("no group")


class Clock:
    """CPU seconds by phase; what an inner phase takes is not the outer's. In place of Stopwatch."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = defaultdict(float)
        self._inner: list[float] = []

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self._inner.append(0.0)
        start = time.process_time()
        yield
        spent = time.process_time() - start
        self._seconds[name] += spent - self._inner.pop()
        if self._inner:
            self._inner[-1] += spent

    def take(self) -> dict[str, float]:
        found = dict(self._seconds)
        self._seconds.clear()
        return found


def build_model(folder: Path) -> None:
    """Write a model with random weights, and the embedded model's tokenizer."""
    from transformers import Qwen2Config, Qwen2ForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    torch.manual_seed(0)
    Qwen2ForCausalLM(Qwen2Config(**MODEL)).save_pretrained(folder)
    load.load_tokenizer(ModelSettings(path=EMBEDDED_TINY)).save_pretrained(folder)


def settings_of(case: str, *, ranks: int, folder: Path) -> Settings:
    changes = {**RECIPE, "model.path": folder, "parallel.gpus": ranks, **CASES[case].changes}
    return resolve(preset="tiny", overrides=[f"{k}={v}" for k, v in changes.items()]).settings


def groups_of(settings: Settings) -> list[ScoredGroup]:
    """Return groups of random tokens, of one length, that all have an advantage."""
    rng = random.Random(0)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(rng.randrange(3, MODEL["vocab_size"]) for _ in range(count))

    def completion(seed: int) -> Completion:
        return Completion(ids(COMPLETION), (-8.0,) * COMPLETION, "", "length", 0, seed)

    size = settings.rollout.group_size
    return [
        ScoredGroup(
            Prompt(str(number), (Message("user", ""),), "1", "random"),
            ids(PROMPT),
            tuple(completion(seed) for seed in range(size)),
            (Verdict("wrong", None, 0.0),) * size,
            tuple(rng.uniform(0.5, 1.0) * (-1) ** seed for seed in range(size)),
        )
        for number in range(settings.rollout.prompts_per_step)
    ]


def step(engine: Engine, groups: list[ScoredGroup], clock: Clock) -> None:
    """Take this rank's part in a step."""
    if engine.ranks.leads:
        batch = engine.make_batch(groups)
        engine.update(batch, step=0)
    else:
        for name, args in islice(engine.ranks.calls(), 2):
            with clock.phase("statistics" if name == "measure" else name):
                engine.calls()[name](*args)
    if is_sharded(engine.policy.model) and not engine.policy.has_adapter:
        with clock.phase("gather"):
            for _ in Gathered(engine.policy.model):
                pass


def work(case: str, ranks: Ranks, folder: Path, rounds: int) -> Figures:
    """Return what one rank finds."""
    settings = settings_of(case, ranks=ranks.count, folder=folder)
    before = resident("VmRSS")
    engine = training_engine(settings, ranks=ranks)
    clock: Any = Clock()
    engine._watch = clock
    groups = groups_of(settings)
    found: Figures = {"seconds": []}
    step(engine, groups, clock)  # the optimiser's state, and gloo's connections
    clock.take()
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    for _ in range(rounds):
        step(engine, groups, clock)
        found["seconds"].append(clock.take())
    found["resident"] = resident("VmHWM") - before
    with Watched() as watched:
        step(engine, groups, clock)
    gc.collect()
    return {**found, "sent": dict(watched.sent), "peak": watched.peak, "held": watched.held}


def resident(name: str) -> int:
    """Return a size of this process in bytes, by its name in /proc."""
    lines = Path("/proc/self/status").read_text().splitlines()
    found = next(line for line in lines if line.startswith(name + ":"))
    return int(found.split()[1]) * 1024


def rank(
    case: str, number: int, count: int, port: int, folder: Path, rounds: int, answers: Any
) -> None:
    """Be one rank."""
    torch.set_num_threads(1)
    kind = CASES[case].changes["parallel.kind"]
    name = f"machine-{number // NODE}" if kind == "hybrid" else "machine-0"
    socket.gethostname = lambda: name
    ranks: Ranks = ALONE
    if count > 1:
        changes = CASES[case].changes
        ranks = TorchRanks(
            Seat(number, count, number, "127.0.0.1", port, hosts=number == 0),
            device=torch.device("cpu"),
            sequence=changes.get("parallel.sequence", 1),
            collective=kind != "replicate",
        )
    found = work(case, ranks, folder, rounds)
    ranks.gather(None)  # nobody leaves while others still talk
    answers.put((number, found))


def measure(case: str, count: int, *, folder: Path, rounds: int) -> list[Figures]:
    """Run a case on ranks; return what each finds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*PRELOADED])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    answers: Any = context.Queue()
    processes = [
        context.Process(
            target=rank, args=(case, n, count, port, folder, rounds, answers), daemon=True
        )
        for n in range(count)
    ]
    for process in processes:
        process.start()
    found: dict[int, Figures] = {}
    try:
        while len(found) < count:
            try:
                number, figures = answers.get(timeout=1.0)
                found[number] = figures
            except queue.Empty:
                if any(p.exitcode for p in processes):
                    raise SystemExit(f"{case} on {count} ranks: a rank failed") from None
    finally:
        for process in processes:
            process.join(5 if len(found) == count else 0)
            process.kill()
    return [found[number] for number in range(count)]


def predicted(case: str, count: int, *, folder: Path) -> dict[str, int]:
    """Return the bytes that `dgpo plan` expects one rank to send in a step, by collective."""
    settings = settings_of(case, ranks=count, folder=folder)
    vars(job)["NODE"] = NODE if settings.parallel.kind == "hybrid" else 8
    found = plan.job_of(
        settings,
        shape=shape_of(find_config(settings.model).config, name="random"),
        typical=plan.Typical(PROMPT, COMPLETION),
        device=devices.cpu(measure=False),
    )
    # No sampler is there to be checked.
    exchanges = [each for each in traffic.traffic_of(found) if each.name != "sampler's check"]
    by_collective = traffic.bytes_by_collective(tuple(exchanges))
    return {str(name): size for name, size in by_collective.items()}


def summary(found: list[Figures]) -> Figures:
    """Put the figures of all ranks together."""
    rounds = list(zip(*(each["seconds"] for each in found), strict=True))
    phases = sorted({name for each in rounds for one in each for name in one})
    per_rank = {
        p: statistics.median(statistics.mean(one.get(p, 0.0) for one in each) for each in rounds)
        for p in phases
    }
    return {
        "cpu_s": {name: round(seconds, 4) for name, seconds in per_rank.items()},
        "all_cpu_s": round(
            statistics.median(sum(sum(one.values()) for one in each) for each in rounds), 4
        ),
        "sent": found[0]["sent"],
        "peak": max(each["peak"] for each in found),
        "held": max(each["held"] for each in found),
        "resident": max(each["resident"] for each in found),
    }


def show(results: dict[str, dict[int, Figures]]) -> None:
    print(f"{'MiB that a rank sends in a step':36}{'':16}{'counted':>12}{'plan':>12}{'ratio':>8}")
    for case, by_count in results.items():
        for count, figures in by_count.items():
            show_bytes(case, count, figures)
    names = ("statistics", "update", "gather")
    print(
        f"\n{'CPU seconds of a rank':34}{''.join(f'{n:>11}' for n in names)}{'all/one':>9}"
        f"{'MiB held':>10}{'at most':>10}{'resident':>10}"
    )
    for case, by_count in results.items():
        show_costs(case, by_count)


def show_bytes(case: str, count: int, figures: Figures) -> None:
    sent, expected = figures["sent"], figures["predicted"]
    for name in dict.fromkeys([*expected, *sent]):
        counted, by_plan = sent.get(name, 0), expected.get(name, 0)
        ratio = f"{by_plan / counted:8.3f}" if by_plan and counted else f"{'':8}"
        print(f"{case:28}{count:6}  {name:16}{counted / MIB:12.3f}{by_plan / MIB:12.3f}{ratio}")


def show_costs(case: str, results: dict[int, Figures]) -> None:
    alone = results.get(1)
    for count, figures in results.items():
        seconds = figures["cpu_s"]
        cells = "".join(f"{seconds.get(p, 0.0):11.2f}" for p in ("statistics", "update", "gather"))
        over = f"{figures['all_cpu_s'] / alone['all_cpu_s']:9.2f}" if alone else f"{'':9}"
        sizes = "".join(f"{figures[name] / MIB:10.1f}" for name in ("held", "peak", "resident"))
        print(f"{case:28}{count:6}{cells}{over}{sizes}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", metavar="CASE", choices=[*CASES], nargs="+", default=[*CASES])
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4], metavar="N")
    parser.add_argument("--rounds", type=int, default=3, help="steps that are timed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures down")
    options = parser.parse_args()
    results: dict[str, dict[int, Figures]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "model"
        build_model(folder)
        for case in options.only:
            for count in [n for n in options.ranks if n in CASES[case].ranks]:
                print(f"{case}, {count} ranks", file=sys.stderr, flush=True)
                found = measure(case, count, folder=folder, rounds=options.rounds)
                expected = predicted(case, count, folder=folder)
                results.setdefault(case, {})[count] = {**summary(found), "predicted": expected}
                if options.json is not None:
                    options.json.parent.mkdir(parents=True, exist_ok=True)
                    options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    show(results)


if __name__ == "__main__":
    main()
