"""Sections of gpu.py about the time and memory of training."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from unittest import mock

import torch
from gpu_bench import DGPO, GIB, UNIFORM, WIDTHS, Bench, Model, Size, Update, adamw_of

from dgpo_cli.core.errors import ModelError
from dgpo_cli.core.timing import Stopwatch
from dgpo_cli.engine.learn import Learner
from dgpo_cli.policy.head import Head
from dgpo_cli.policy.token_pass import Tiles, token_pass

_ATTENTION = re.compile(r"flash|fmha|cudnn.*(sdpa|attn)|attention|softmax", re.IGNORECASE)


def three_rows(bench: Bench) -> tuple[list[Size], int]:
    """Return the rows of the main case, and the tokens of a micro-batch."""
    return ([(16, 48)] * 3, 192) if bench.small else ([(1024, 8192)] * 3, 27_648)


def lora(bench: Bench) -> None:
    """The update of the main case, its memory, and what DGPO costs over GRPO with a KL term."""
    sizes, tokens = three_rows(bench)
    model = bench.model("7B")
    dgpo = bench.update("DGPO", model, sizes, tokens=tokens)
    against_plan(bench, "DGPO", model, dgpo, sizes, tokens=tokens)
    uniform = bench.update(
        "uniform credit, no reference", model, sizes, tokens=tokens, rule=UNIFORM
    )
    rows, _ = bench.batch(model.policy, sizes)
    rows = rows.to(bench.device)

    def reference() -> object:
        return model.policy.token_logprobs(rows, temperature=1.0)

    with torch.no_grad(), model.policy.model.disable_adapter():
        alone = bench.seconds(reference, rounds=1)
    bench.goal("DGPO over GRPO with KL", dgpo.seconds / (uniform.seconds + alone), most=1.02)
    phase = bench.update(
        "whole phase, 2 updates", model, [*sizes, *sizes], tokens=tokens, updates=2, rounds=1
    )
    bench.goal("whole phase: MFU, recomputation counted", phase.hfu, least=0.35)


def against_plan(
    bench: Bench, case: str, model: Model, update: Update, sizes: list[Size], *, tokens: int
) -> None:
    """Compare the peak of the device with what `dgpo plan` says."""
    planned = model.planned(sizes, tokens=tokens) / GIB
    bench.say(f"{case}: plan", planned_gib=planned, device_gib=update.device_gib)
    if bench.cuda:  # a CPU's peak is not measured here
        bench.goal(f"{case}: plan over peak", planned / update.device_gib, least=0.9, most=1.1)


def phases(bench: Bench) -> None:
    """Where the time of an update goes: each part waits for the device, so their sum is a little
    more than an update takes; and the kernels that take most."""
    sizes, tokens = three_rows(bench)
    model = bench.model("7B")
    policy, watch = model.policy, Stopwatch(bench.wait)
    learner = Learner(policy, adamw_of(policy))
    rows, signs = bench.batch(policy, sizes)
    recipe = bench.recipe(sizes, rule=DGPO, tokens=tokens)

    def update() -> None:
        with watch.phase("rest"):
            learner.update(learner.measure(rows, signs, recipe=recipe), recipe=recipe)

    parts: list[tuple[Any, str, str]] = [
        (policy, "hidden", "policy forward"),
        (policy, "reference_hidden", "reference forward"),
        (torch.Tensor, "backward", "backward"),
        (learner.optimizer, "step", "optimiser"),
    ]
    from dgpo_cli.policy import token_pass as room

    parts.append((room, "token_pass", "token pass"))
    update()
    with ExitStack() as stack:
        for owner, name, part in parts:
            timed = _timed(watch, part, getattr(owner, name))
            stack.enter_context(mock.patch.object(owner, name, timed))
        watch.take()
        update()
    found = watch.take()
    total = sum(found.values())
    for part, seconds in sorted(found.items(), key=lambda item: -item[1]):
        bench.say(part, seconds=seconds, share=seconds / total)
    if bench.cuda:
        for name, share, calls in profiled(bench, lambda: update())[:14]:
            bench.say(f"kernel {name[:60]}", share=share, calls=calls)


def _timed(watch: Stopwatch, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(call)
    def timed(*args: Any, **named: Any) -> Any:
        with watch.phase(part):
            return call(*args, **named)

    return timed


def profiled(bench: Bench, call: Callable[[], object]) -> list[tuple[str, float, int]]:
    """Return name, share of the time and number of calls of what runs on the device."""
    from torch.profiler import ProfilerActivity, profile

    activity = ProfilerActivity.CUDA if bench.cuda else ProfilerActivity.CPU
    with profile(activities=[activity]) as prof:
        call()
        bench.settle()
    times = "self_device_time_total" if bench.cuda else "self_cpu_time_total"
    events = [(e.key, float(getattr(e, times)), int(e.count)) for e in prof.key_averages()]
    total = sum(spent for _, spent, _ in events) or 1.0
    found = [(name, spent / total, count) for name, spent, count in events]
    return sorted(found, key=lambda event: -event[1])


def kernels(bench: Bench) -> None:
    """Which attention kernels run in packed rows of different lengths, forward and backward."""
    sizes = [(8, 40), (8, 9)] if bench.small else [(512, 3584), (100, 1500), (300, 700)]
    for dtype, compute in (("bfloat16", "bfloat16"), ("float32", "stored")):
        model = bench.model("7B", layers=2, dtype=dtype, compute=compute)
        rows, _ = bench.batch(model.policy, sizes)
        rows = rows.to(bench.device)

        def train(model: Model = model, rows: Any = rows) -> None:
            with model.policy.training():
                model.policy.token_logprobs(rows, temperature=1.0).sum().backward()

        train()
        bench.fresh()
        before = torch.cuda.memory_allocated() if bench.cuda else 0
        found = [each for each in profiled(bench, train) if _ATTENTION.search(each[0])]
        added = torch.cuda.max_memory_allocated() - before if bench.cuda else 0
        for name, share, calls in found[:6]:
            bench.say(f"{dtype} attention", kernel=name[:90], share=share, calls=calls)
        bench.say(f"{dtype} pass of 2 layers", adds_gib=added / GIB)
        # cuDNN plans a kernel for every shape, and rows of a run have new ones all the time.
        longer = bench.batch(model.policy, [(p, c + 3) for p, c in sizes])[0].to(bench.device)
        times = []
        for _ in range(2):
            start = bench.settle()
            train(rows=longer)
            times.append(bench.settle() - start)
        bench.say(f"{dtype} pass of new lengths", first_s=times[0], again_s=times[1])
        del model, rows, longer


def tiles(bench: Bench) -> None:
    """The token pass over its two bare products; with a gradient it is three, so 1.5 of them."""
    shape = WIDTHS["small" if bench.small else "7B"]
    vocab, width, count = shape["vocab_size"], shape["hidden_size"], 128 if bench.small else 8192
    generator = torch.Generator(bench.device).manual_seed(2)

    def noise(*size: int) -> torch.Tensor:
        return torch.randn(*size, device=bench.device, generator=generator).bfloat16()

    weight, x = noise(vocab, width) / width**0.5, noise(count, width)
    z = x + 0.05 * noise(count, width)
    ids = torch.randint(vocab, (count,), device=bench.device, generator=generator)
    head, live = Head(weight, None, 1.0, None), x.clone().requires_grad_()
    bare = _two_products(bench, weight, (x, z))
    bench.say("two bare products", seconds=bare, tflops=4 * count * vocab * width / bare / 1e12)
    cuts: list[tuple[int, int] | None] = [None]
    if not bench.small:
        cuts += [(r, c) for r in (1024, 2048, 4096) for c in (2048, 4096, 16_384, 32_768)]
        cuts += [(8192, 2048), (8192, 8192)]
    for cut in cuts:
        chosen = None if cut is None else Tiles(cut[0], cut[1], cut[0])

        def run(chosen: Tiles | None = chosen) -> Any:
            return token_pass(
                live, z, head=head, reference_head=None, ids=ids, temperature=1.0, tiles=chosen
            )

        bench.fresh()
        before = torch.cuda.memory_allocated() if bench.cuda else 0
        with torch.no_grad():
            forward = bench.seconds(run, rounds=1 if cut else 3) / bare
        both = bench.seconds(lambda: run().logprobs.sum().backward(), rounds=1 if cut else 3)
        adds = (torch.cuda.max_memory_allocated() - before) / GIB if bench.cuda else 0.0
        name = "tiles as chosen" if cut is None else f"tiles {cut[0]} x {cut[1]}"
        bench.say(name, over_products=forward, with_gradient=both / bare, adds_gib=adds)
        if cut is None:
            bench.goal("token pass over its products", forward, most=1.15)
            bench.goal("token pass with gradient, over its products", both / bare, most=1.725)


def _two_products(
    bench: Bench, weight: torch.Tensor, factors: tuple[torch.Tensor, torch.Tensor]
) -> float:
    """Return the seconds of hidden states times head, in parts whose logits have room."""
    size = min(len(factors[0]), 4096)
    room = torch.empty(size, len(weight), device=bench.device, dtype=weight.dtype)

    def products() -> None:
        for part in (part for each in factors for part in each.split(size)):
            torch.mm(part, weight.T, out=room[: len(part)])

    return bench.seconds(products)


def full(bench: Bench) -> None:
    """Full training of 8 layers: float32 weights, products in either type, then sharded."""
    sizes, tokens = ([(16, 48)] * 2, 128) if bench.small else ([(512, 3584)] * 4, 16_384)
    model = bench.model("7B", layers=8, lora=False)
    found = bench.update("full, 8 layers, bfloat16 products", model, sizes, tokens=tokens)
    against_plan(bench, "full", model, found, sizes, tokens=tokens)
    del model
    slow = bench.model("7B", layers=8, lora=False, compute="stored")
    bench.update("full, 8 layers, float32", slow, sizes[:1], tokens=tokens)
    del slow
    bench.fresh()
    _sharded(bench, sizes, tokens=tokens)


def _sharded(bench: Bench, sizes: list[Size], *, tokens: int) -> None:
    """The same with weights sharded over one rank: what FSDP2 itself costs."""
    import torch.distributed as dist

    from dgpo_cli.parallel.ranks import ALONE
    from dgpo_cli.parallel.sharding import make_mesh
    from dgpo_cli.policy.load_sharded import Spread

    store = dist.HashStore()  # type: ignore[attr-defined]
    backend = "cuda:nccl,cpu:gloo" if bench.cuda else "gloo"
    dist.init_process_group(backend, store=store, rank=0, world_size=1)
    try:
        mesh = make_mesh("shard", device_type=bench.device.type, node_size=1)
        model = bench.model("7B", layers=8, lora=False, spread=Spread(ALONE, mesh))
        bench.update("full, 8 layers, sharded over one rank", model, sizes, tokens=tokens)
    finally:
        dist.destroy_process_group()


def long(bench: Bench) -> None:
    """A long row of wide layers."""
    sizes, tokens = ([(16, 48)], 64) if bench.small else ([(2048, 18_432)], 20_480)
    model = bench.model("32B", layers=4)
    found = bench.update("32B shapes, 4 layers, 20,480 tokens", model, sizes, tokens=tokens)
    against_plan(bench, "32B shapes", model, found, sizes, tokens=tokens)


def compiled(bench: Bench) -> Model:
    """Load the model of the main case with compiled layers."""
    return bench.model("7B", layers=1 if bench.small else None, compile="on")


def compile_layers(bench: Bench) -> None:
    """What compilation takes, and what a process takes that finds it in the compiler's cache."""
    sizes, tokens = three_rows(bench)
    model = compiled(bench)
    start = bench.settle()
    bench.update("DGPO, layers compiled on the way", model, sizes, tokens=tokens, rounds=1)
    bench.say("compilation with that update", seconds=bench.settle() - start)


def choices(bench: Bench) -> None:
    """The update with compiled layers; by kind of checkpointing on one row."""
    sizes, tokens = three_rows(bench)
    model = compiled(bench)
    start = bench.settle()
    bench.update("DGPO, compiled before", model, sizes, tokens=tokens, rounds=1)
    bench.say("warm compilation with that update", seconds=bench.settle() - start)
    found = bench.update("DGPO, compiled", model, sizes, tokens=tokens, rounds=1)
    bench.goal("fused first update: MFU, recomputation counted", found.hfu, least=0.45)
    against_plan(bench, "DGPO, compiled", model, found, sizes, tokens=tokens)
    for note in model.policy.notes:
        bench.say("note", text=note)
    del model
    cases: dict[str, dict[str, Any]] = {
        f"one row, checkpointing {kind}": {"gradient_checkpointing": kind}
        for kind in ("none", "selective", "full", "offload")
    }
    cases["one row, checkpointing full, adapter in float32"] = {"compute": "stored"}
    for case, settings in cases.items():
        try:
            model = bench.model("7B", **settings)
        except ModelError as error:
            bench.say(case, refused=str(error))
            continue
        found = bench.update(case, model, sizes[:1], tokens=tokens)
        against_plan(bench, case, model, found, sizes[:1], tokens=tokens)
        del model
