"""What training costs on a GPU, and whether its numbers are right there.

    python benchmarks/gpu.py [--json FILE] [--only SECTION ...]
    python benchmarks/gpu.py --device cpu --small        # the same script on a CPU, in a minute

Random weights of real shapes: nothing is downloaded, and neither vLLM nor bitsandbytes is needed.
Each section prints its rows as it goes; one that fails prints its error, and the next one runs.
Sections, in order of value:

    pass      the token pass: against float64, and its time over that of its two bare products
    lora      an update of Qwen2.5-7B's shapes with LoRA, three rows of 9,216 tokens; what bfloat16
              products and no checkpointing change; peak memory against the plan
    trl       the update of TRL's GRPOTrainer on the same rows (needs trl)
    full      full training of the same shapes cut to 8 layers, float32 weights
    kernels   which attention kernels run, by data type
    long      32B's shapes cut to 4 layers, one row of 20,480 tokens
    compile   the update of `lora` with compiled layers, and what compilation takes
    resume    the embedded model by the command line: whole, and stopped half way and resumed
    memory    updates of varied lengths: allocated against reserved

MFU counts 2 operations a weight and token forward, the same for recomputed activations and for the
gradient of activations, and for full training for the gradient of weights; attention is left out.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from dgpo_cli.algo.credit import CreditRule, DgpoCredit, UniformCredit
from dgpo_cli.algo.losses import ClipLoss
from dgpo_cli.core.resources import resource_dir
from dgpo_cli.engine.learn import Learner, Recipe
from dgpo_cli.engine.optimizers import build_adamw
from dgpo_cli.planning.devices import named
from dgpo_cli.planning.job import Job, Sampling
from dgpo_cli.planning.memory import memory_of
from dgpo_cli.policy import load
from dgpo_cli.policy.batching import Rows, pad_rows
from dgpo_cli.policy.head import Head
from dgpo_cli.policy.policy import Policy
from dgpo_cli.policy.settings import LoraAdapter
from dgpo_cli.policy.shape import shape_of
from dgpo_cli.policy.token_pass import token_pass

GIB = 2**30
TINY = resource_dir("data") / "tiny"
PEAK = 989e12  # dense bfloat16 of an H100 or H200 SXM, operations a second
RANK = 64
WIDTHS = {
    "7B": {
        "vocab_size": 152_064,
        "hidden_size": 3584,
        "intermediate_size": 18_944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
    },
    "32B": {
        "vocab_size": 152_064,
        "hidden_size": 5120,
        "intermediate_size": 27_648,
        "num_hidden_layers": 64,
        "num_attention_heads": 40,
        "num_key_value_heads": 8,
    },
    "small": {
        "vocab_size": 2048,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
}
DGPO, UNIFORM = DgpoCredit(), UniformCredit()
Size = tuple[int, int]  # tokens of a prompt and of its completion


class Bench:
    """The device, the sizes, and the rows that were printed."""

    def __init__(self, device: str, *, small: bool) -> None:
        self.device, self.small = torch.device(device), small
        self.cuda = self.device.type == "cuda"
        self.rows: list[dict[str, Any]] = []

    def say(self, case: str, **values: Any) -> None:
        """Print a row and keep it."""
        self.rows.append({"case": case, **values})
        shown = (f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in values.items())
        print(f"{case:46s}", *shown, flush=True)

    def shape(self, name: str, **changes: int) -> dict[str, int]:
        return {**WIDTHS["small"]} if self.small else {**WIDTHS[name], **changes}

    def settle(self) -> float:
        """Wait for the device and return the time."""
        if self.cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    def seconds(self, call: Callable[[], object], *, rounds: int = 3) -> float:
        """Return the median time of a call, after one to warm up."""
        call()
        times = []
        for _ in range(rounds):
            start = self.settle()
            call()
            times.append(self.settle() - start)
        return sorted(times)[rounds // 2]

    def fresh(self) -> None:
        """Give back what is not in use and forget the peak."""
        if self.cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peak_gib(self) -> float:
        return torch.cuda.max_memory_reserved() / GIB if self.cuda else 0.0

    def policy(self, shape: dict[str, int], *, lora: bool, compute: torch.dtype | None) -> Policy:
        """Return a policy with random weights; with an adapter it is a little off its base."""
        import copy

        from transformers import AutoTokenizer

        dtype = torch.bfloat16 if lora else torch.float32
        torch.manual_seed(0)
        with torch.device(self.device):
            config = Qwen2Config(
                **shape, max_position_embeddings=32_768, tie_word_embeddings=False, dtype=dtype
            )
            model: Any = Qwen2ForCausalLM._from_config(config, dtype=dtype)
        reference = None
        if lora:
            adapter = LoraAdapter(rank=RANK, alpha=float(RANK))
            model = load.add_adapter(model.requires_grad_(False), adapter=adapter, seed=0)
            model.enable_input_require_grads()
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.data.normal_(std=1e-3)
        else:
            reference = copy.deepcopy(model).requires_grad_(False).eval()
        checkpoint(model, on=True)
        return Policy(
            model.eval(),
            tokenizer=AutoTokenizer.from_pretrained(str(TINY)),
            reference=reference,
            has_adapter=lora,
            compute=compute,
        )

    def batch(self, policy: Policy, sizes: list[Size]) -> tuple[Rows, torch.Tensor]:
        """Return rows of random tokens and advantages of either sign."""
        generator = torch.Generator().manual_seed(1)

        def draw(count: int) -> list[int]:
            return torch.randint(policy.vocab_size, (count,), generator=generator).tolist()

        rows = pad_rows([(draw(p), draw(c)) for p, c in sizes], pad_id=0)
        signs = torch.tensor([(-1.0) ** i for i in range(len(sizes))])
        return rows, signs

    def update(
        self, case: str, policy: Policy, sizes: list[Size], *, rule: CreditRule, tokens: int
    ) -> float:
        """Time the second of two updates, each fused with its measuring pass; return seconds."""
        self.fresh()
        optimizer = build_adamw(policy, lr=1e-6, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
        learner = Learner(policy, optimizer)
        rows, signs = self.batch(policy, sizes)
        recipe = Recipe(
            rule=rule,
            loss=ClipLoss(),
            temperature=1.0,
            max_completion_tokens=32_768,
            group_size=len(sizes),
            micro_batch_size=4096,
            micro_batch_tokens=tokens,
            max_grad_norm=1.0,
        )
        for _ in range(2):
            start = self.settle()
            batch = learner.measure(rows, signs, recipe=recipe)
            learner.update(batch, recipe=recipe)
            wall = self.settle() - start
        count = sum(map(sum, sizes))
        passes = 2 * (2 + _recomputes(policy.model)) + (0 if policy.has_adapter else 2)
        passes += 2 if rule.needs_reference else 0
        flops = count * passes * _weights(policy)
        self.say(
            case,
            seconds=wall,
            tokens_per_s=count / wall,
            mfu=flops / wall / PEAK,
            peak_gib=self.peak_gib(),
            d=float(batch.stats.hellinger_sq[batch.mask].mean()),
            logprob=float(batch.stats.old_logprobs[batch.mask].mean()),
        )
        return wall


def checkpoint(model: Any, *, on: bool) -> None:
    if on:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    else:
        model.gradient_checkpointing_disable()


def _recomputes(model: Any) -> int:
    return int(model.is_gradient_checkpointing)


def _weights(policy: Policy) -> int:
    """Return how many weights multiply every token: the adapter and the embedding left out."""
    named = policy.model.named_parameters()
    return sum(p.numel() for n, p in named if "lora_" not in n and "embed_tokens" not in n)


def section_pass(bench: Bench) -> None:
    shape = bench.shape("7B")
    vocab, width = shape["vocab_size"], shape["hidden_size"]
    generator = torch.Generator(bench.device).manual_seed(2)

    def noise(*size: int) -> torch.Tensor:
        return torch.randn(*size, device=bench.device, generator=generator)

    for count, dtype in ((512, torch.float32), (512 if bench.small else 8192, torch.bfloat16)):
        weight = (noise(vocab, width) / width**0.5).to(dtype)
        x = noise(count, width).to(dtype)
        z = (x.float() + 0.05 * noise(count, width)).to(dtype)
        ids = torch.randint(vocab, (count,), device=bench.device, generator=generator)
        head = Head(weight, None, 1.0, None)
        live = x.clone().requires_grad_()

        def run(
            hidden: torch.Tensor = live,
            other: torch.Tensor = z,
            head: Head = head,
            ids: torch.Tensor = ids,
        ) -> Any:
            return token_pass(
                hidden, other, head=head, reference_head=None, ids=ids, temperature=1.0
            )

        room = torch.empty(min(count, 4096), vocab, device=bench.device, dtype=dtype)

        def products(x: Any = x, z: Any = z, weight: Any = weight, room: Any = room) -> None:
            for part in (*x.split(len(room)), *z.split(len(room))):
                torch.mm(part, weight.T, out=room[: len(part)])

        found = run()
        (gradient,) = torch.autograd.grad(found.logprobs.sum(), [live])
        n = min(count, 64)
        p, q = ((t[:n].double() @ weight.double().T).log_softmax(-1) for t in (x, z))
        exact = 0.5 * ((p / 2).exp() - (q / 2).exp()).square().sum(-1)
        slope = weight.double()[ids[:n]] - p.exp() @ weight.double()
        logprobs = p.gather(1, ids[:n, None])[:, 0]
        bench.say(
            f"pass {count} tokens {dtype}: errors",
            logprob=float((found.logprobs[:n].detach().double() - logprobs).abs().max()),
            d_relative=float(((found.hellinger_sq[:n].double() - exact) / exact).abs().max()),
            entropy=float((found.entropy[:n].double() + (p.exp() * p).sum(-1)).abs().max()),
            gradient_relative=float((gradient[:n].double() - slope).norm() / slope.norm()),
            d_of_equals=float(run(x, x).hellinger_sq.abs().max()),
        )
        bare = bench.seconds(products)
        with torch.no_grad():
            forward = bench.seconds(run)
        both = bench.seconds(lambda: run().logprobs.sum().backward())
        bench.say(
            f"pass {count} tokens {dtype}: time",
            two_products_s=bare,
            over_products=forward / bare,
            with_gradient_over_products=both / bare,
        )


def section_lora(bench: Bench) -> None:
    shape = bench.shape("7B")
    sizes, tokens = ([(64, 100)] * 4, 1024) if bench.small else ([(1024, 8192)] * 3, 27_648)
    stored = bench.policy(shape, lora=True, compute=None)
    bench.update("lora DGPO, products as stored", stored, sizes, rule=DGPO, tokens=tokens)
    policy = Policy(
        stored.model,
        tokenizer=stored.tokenizer,
        reference=None,
        has_adapter=True,
        compute=torch.bfloat16,
    )
    dgpo = bench.update("lora DGPO", policy, sizes, rule=DGPO, tokens=tokens)
    bench.say("lora plan", peak_gib=_planned(shape, sizes) / GIB, measured_gib=bench.peak_gib())
    uniform = bench.update("lora uniform", policy, sizes, rule=UNIFORM, tokens=tokens)
    with torch.no_grad():
        rows, _ = bench.batch(policy, sizes)
        with policy.model.disable_adapter():
            reference = bench.seconds(
                lambda: policy.token_logprobs(rows, temperature=1.0), rounds=1
            )
    bench.say("lora DGPO over GRPO with KL", ratio=dgpo / (uniform + reference))
    if not bench.small:
        checkpoint(policy.model, on=False)
        bench.update("lora DGPO, one row, kept", policy, sizes[:1], rule=DGPO, tokens=tokens)
        checkpoint(policy.model, on=True)
        bench.update("lora DGPO, one row", policy, sizes[:1], rule=DGPO, tokens=tokens)
    if bench.cuda:
        _profile(bench, policy, sizes[:1], tokens=tokens)


def section_compile(bench: Bench) -> None:
    if not bench.cuda:  # minutes on a CPU; tests/policy/test_compute.py compiles there
        return
    sizes, tokens = [(1024, 8192)] * 3, 27_648
    policy = bench.policy(bench.shape("7B"), lora=True, compute=torch.bfloat16)
    policy.compile()
    start = bench.settle()
    bench.update("compile lora DGPO", policy, sizes, rule=DGPO, tokens=tokens)
    bench.say("compile with two updates", seconds=bench.settle() - start)
    checkpoint(policy.model, on=False)
    bench.update("compile lora DGPO, one row, kept", policy, sizes[:1], rule=DGPO, tokens=tokens)
    for name, parameter in policy.model.named_parameters():
        if "lora_B" in name:
            parameter.data.zero_()
    with torch.no_grad():
        rows, _ = bench.batch(policy, sizes[:1])
        columns = policy.token_columns(rows, temperature=1.0, reference=True)
    bench.say("compile equal weights", d=float(columns.hellinger_sq.max()))


def _planned(shape: dict[str, int], sizes: list[Size]) -> int:
    """Return the plan's peak of the trainer for an update, the sampler left out, in bytes."""
    kind = {"model_type": "qwen2", "tie_word_embeddings": False}
    found = shape_of({**shape, **kind, "max_position_embeddings": 32_768}, name="benchmark")
    prompt, completion = sizes[0]
    job = Job(
        shape=found,
        element=2,
        packed=False,
        adapter=found.adapter_parameters(rank=RANK, targets="all-linear"),
        rank=RANK,
        distance=True,
        checkpointing=True,
        state="adamw",
        prompt=prompt,
        completion=completion,
        typical_prompt=prompt,
        typical_completion=completion,
        prompts=len(sizes),
        group_size=1,
        updates=1,
        micro_rows=len(sizes),
        micro_tokens=sum(map(sum, sizes)),
        sampling=Sampling("vllm-server", rows=0, share=0.0),
        workers=0,
        compute=2,
    )
    return memory_of(job, named("h100")).during("training")


def _profile(bench: Bench, policy: Policy, sizes: list[Size], *, tokens: int) -> None:
    """Print where the device's time goes in two updates."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as prof:
        bench.update("lora DGPO, one row, profiled", policy, sizes, rule=DGPO, tokens=tokens)
    events = sorted(prof.key_averages(), key=lambda e: -e.self_device_time_total)
    total = sum(e.self_device_time_total for e in events)
    for e in events[:14]:
        share = e.self_device_time_total / total
        bench.say(f"  {e.key[:90]}", share=round(share, 3), calls=e.count)


def section_full(bench: Bench) -> None:
    shape = bench.shape("7B", num_hidden_layers=8)
    sizes, tokens = ([(64, 100)] * 4, 1024) if bench.small else ([(512, 3584)] * 4, 16_384)
    policy = bench.policy(shape, lora=False, compute=torch.bfloat16)
    bench.update("full, 8 layers", policy, sizes, rule=DGPO, tokens=tokens)
    if not bench.small:
        plain = Policy(
            policy.model, tokenizer=policy.tokenizer, reference=policy._reference, has_adapter=False
        )
        bench.update("full, 8 layers, float32", plain, sizes[:2], rule=DGPO, tokens=tokens)


def section_resume(bench: Bench) -> None:
    steps = 4 if bench.small else 40
    with tempfile.TemporaryDirectory() as folder:
        lines = []
        for name, stops in (("whole", [steps]), ("halves", [steps // 2, steps])):
            out = Path(folder, name)
            start = time.perf_counter()
            for stop in stops:
                _train(out, steps=steps, until=stop, device=str(bench.device))
            wall = time.perf_counter() - start
            text = (out / "metrics.jsonl").read_text(encoding="utf-8")
            lines.append([json.loads(line) for line in text.splitlines()])
            last = lines[-1][-1]
            times = {k: last[k] for k in last if k.startswith("time/")}
            bench.say(f"resume {name}", seconds=wall, reward=last["reward/mean"], **times)
        keys = ("reward/mean", "loss/value", "optim/grad_norm")
        same = sum(all(a[k] == b[k] for k in keys) for a, b in zip(*lines, strict=True))
        bench.say("resume steps that are equal to the bit", equal=same, of=steps)


def _train(out: Path, *, steps: int, until: int, device: str) -> None:
    command = [sys.executable, "-m", "dgpo_cli", "train", "--preset=tiny", f"--out={out}"]
    given = {"model.device": device, "eval.every": 0, "train.checkpoint_every": steps // 2}
    command += [f"--steps={until}", "--view=lines", "--resume=auto"]
    command += [f"--set={key}={value}" for key, value in given.items()]
    command += ["--set=optim.schedule=constant"]
    got = subprocess.run(command, capture_output=True, text=True, check=False)
    if got.returncode:
        raise RuntimeError(got.stderr[-1000:])


def section_kernels(bench: Bench) -> None:
    from torch.profiler import ProfilerActivity, profile

    from dgpo_cli.policy.packing import _float32_attention

    if not bench.cuda:
        return
    for dtype in (torch.bfloat16, torch.float32):
        sizes = [(1, heads, 4096, 128) for heads in (28, 4, 4)]
        draw = [torch.randn(size, device="cuda", dtype=dtype) for size in sizes]
        bench.fresh()
        before = torch.cuda.memory_allocated()
        with profile(activities=[ProfilerActivity.CUDA]) as prof:
            if dtype == torch.float32:
                _float32_attention(draw)
            else:
                attend: Any = torch.nn.functional.scaled_dot_product_attention
                attend(*draw, is_causal=True, enable_gqa=True)
        name = max(prof.key_averages(), key=lambda e: e.device_time_total).key[:70]
        added = (torch.cuda.max_memory_allocated() - before) / GIB
        bench.say(f"kernels attention {dtype}", kernel=name, adds_gib=added)


def section_trl(bench: Bench) -> None:
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    shape = bench.shape("7B")
    sizes = [(64, 100)] * 4 if bench.small else [(1024, 8192)] * 3
    dtype = torch.bfloat16
    with torch.device(bench.device):
        config = Qwen2Config(**shape, max_position_embeddings=32_768, tie_word_embeddings=False)
        model: Any = Qwen2ForCausalLM._from_config(config, dtype=dtype)
    count = len(sizes)
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=GRPOConfig(
            output_dir=tempfile.gettempdir(),
            loss_type="dapo",
            beta=0.001,
            num_generations=count,
            per_device_train_batch_size=1,
            gradient_accumulation_steps=count,
            max_completion_length=sizes[0][1],
            gradient_checkpointing=True,
            gradient_checkpointing_kwargs={"use_reentrant": False},
            bf16=bench.cuda,
            use_cpu=not bench.cuda,
            report_to="none",
        ),
        train_dataset=Dataset.from_dict({"prompt": ["1+1?"] * count}),
        processing_class=AutoTokenizer.from_pretrained(str(TINY)),
        peft_config=LoraConfig(
            r=RANK, lora_alpha=RANK, target_modules="all-linear", task_type="CAUSAL_LM"
        ),
    )
    trainer.current_gradient_accumulation_steps = count
    trained = trainer.model
    trained.gradient_checkpointing_enable({"use_reentrant": False})
    trained.enable_input_require_grads()
    optimizer = trainer.create_optimizer()
    draw = torch.Generator().manual_seed(1)
    whole = [p + c for p, c in sizes]
    ids = torch.randint(5, shape["vocab_size"], (count, max(whole)), generator=draw)
    ids = ids.to(bench.device)
    prompt = sizes[0][0]
    columns = {
        "prompt_ids": ids[:, :prompt],
        "prompt_mask": torch.ones_like(ids[:, :prompt]),
        "completion_ids": ids[:, prompt:],
        "completion_mask": torch.ones_like(ids[:, prompt:]),
        "advantages": torch.tensor([(-1.0) ** i for i in range(count)], device=bench.device),
    }
    for beta in (0.001, 0.0):
        trainer.beta = beta
        bench.fresh()
        for _ in range(2):
            start = bench.settle()
            _trl_update(trainer, optimizer, columns, bench=bench)
            wall = bench.settle() - start
        name = f"trl GRPO, beta {beta:g}" + (", with a reference" if beta else "")
        bench.say(name, seconds=wall, tokens_per_s=sum(whole) / wall, peak_gib=bench.peak_gib())


def _trl_update(trainer: Any, optimizer: Any, columns: dict[str, Any], *, bench: Bench) -> None:
    """What TRL does with a batch that is sampled and scored: the reference, loss and step."""
    from trl.models.utils import disable_gradient_checkpointing

    model = trainer.model.train()
    cast = torch.autocast(bench.device.type, torch.bfloat16) if bench.cuda else nullcontext()
    columns = dict(columns)
    if trainer.beta:
        keywords = trainer.args.gradient_checkpointing_kwargs
        ids = torch.cat([columns["prompt_ids"], columns["completion_ids"]], dim=1)
        with (
            torch.no_grad(),
            cast,
            disable_gradient_checkpointing(model, keywords),
            model.disable_adapter(),
        ):
            found = trainer._get_per_token_logps_and_entropies(
                model, ids, torch.ones_like(ids), columns["completion_ids"].shape[1], batch_size=1
            )
        columns["ref_per_token_logps"] = found[0]
    for row in range(len(columns["advantages"])):
        inputs = {k: v[row : row + 1] for k, v in columns.items()}
        inputs["num_items_in_batch"] = columns["completion_mask"].sum()
        with cast:
            loss = trainer._compute_loss(model, inputs)
        loss.backward()
    torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 1.0)
    optimizer.step()
    optimizer.zero_grad()


def section_long(bench: Bench) -> None:
    shape = bench.shape("32B", num_hidden_layers=4)
    sizes, tokens = ([(64, 100)], 1024) if bench.small else ([(2048, 18_432)], 20_480)
    policy = bench.policy(shape, lora=True, compute=torch.bfloat16)
    case = "long 32B shapes, 4 layers, 20,480 tokens"
    bench.update(case, policy, sizes, rule=DGPO, tokens=tokens)


def section_memory(bench: Bench) -> None:
    policy = bench.policy(bench.shape("7B"), lora=True, compute=torch.bfloat16)
    top, tokens = (100, 1024) if bench.small else (6000, 16_384)
    generator = torch.Generator().manual_seed(3)
    for i in range(2 if bench.small else 5):
        lengths = torch.randint(top // 8, top, (6,), generator=generator).tolist()
        sizes = [(50, int(n)) for n in lengths]
        bench.update(f"memory update {i}", policy, sizes, rule=DGPO, tokens=tokens)
        if bench.cuda:
            held = torch.cuda.memory_allocated() / GIB, torch.cuda.memory_reserved() / GIB
            bench.say(f"memory after {i}", allocated_gib=held[0], reserved_gib=held[1])


SECTIONS: dict[str, Callable[[Bench], None]] = {
    "pass": section_pass,
    "lora": section_lora,
    "trl": section_trl,
    "full": section_full,
    "kernels": section_kernels,
    "long": section_long,
    "compile": section_compile,
    "resume": section_resume,
    "memory": section_memory,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="tiny shapes, to try the script")
    parser.add_argument("--only", nargs="*", choices=SECTIONS, metavar="SECTION")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    bench = Bench(arguments.device, small=arguments.small)
    if bench.cuda:
        card = torch.cuda.get_device_properties(0)
        bench.say("machine", card=card.name, gib=card.total_memory / GIB, torch=torch.__version__)
    failed = []
    for name in arguments.only or SECTIONS:
        start = time.perf_counter()
        try:
            SECTIONS[name](bench)
        except Exception:
            traceback.print_exc(limit=6)
            failed.append(name)
        print(f"-- {name}: {time.perf_counter() - start:.1f} s", flush=True)
        if arguments.json:
            arguments.json.write_text(json.dumps(bench.rows, indent=1) + "\n", encoding="utf-8")
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
