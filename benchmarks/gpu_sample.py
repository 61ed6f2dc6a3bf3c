"""Section of gpu.py: what the sampler hf makes of a device, beside loops that do less."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from gpu_bench import Bench, Model

from dgpo_cli.core.events import NOBODY
from dgpo_cli.samplers.base import SamplingParams
from dgpo_cli.samplers.hf import HfSampler

BANDWIDTH = 3.35e12  # bytes a second of an H100 SXM's memory, from its data sheet


def sample(bench: Bench) -> None:
    """Tokens a second of completions that all reach the limit, 8 layers of 7B with an adapter."""
    prompts, group, prompt, limit = (3, 2, 9, 6) if bench.small else (16, 4, 64, 256)
    model = bench.model("7B", layers=8, gradient_checkpointing="none")
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(5, model.policy.vocab_size, (prompts, prompt), generator=generator)
    rows = prompts * group
    repeated = ids.repeat_interleave(group, dim=0).to(bench.device)
    loops: dict[str, Callable[[], int]] = {
        "hf sampler": lambda: _sampler(model, ids, group=group, limit=limit),
        "bare loop, growing cache, greedy": lambda: _bare(model, repeated, limit=limit),
        "transformers' generate, static cache": lambda: _generate(model, repeated, limit=limit),
    }
    rates = {}
    for name, loop in loops.items():
        bench.fresh()
        tokens = loop()
        start = bench.settle()
        loop()
        wall = bench.settle() - start
        rates[name] = tokens / wall
        bench.say(name, tokens_per_s=rates[name], ms_a_token=1e3 * wall / limit, rows=rows,
                  peak_gib=bench.peak_gib())  # fmt: skip
    # Each token of all rows reads every weight once; the cache, which is small here, is left out.
    least = sum(p.numel() * p.element_size() for p in model.policy.model.parameters()) / BANDWIDTH
    bench.say("reading the weights takes at least", ms_a_token=1e3 * least)
    rival = max(rate for name, rate in rates.items() if name != "hf sampler")
    bench.goal("hf sampler over the faster loop", rates["hf sampler"] / rival, least=1.0)


def _sampler(model: Model, ids: torch.Tensor, *, group: int, limit: int) -> int:
    """Sample as a run does; return the number of tokens."""
    params = SamplingParams(temperature=1.0, top_p=1.0, top_k=0, max_completion_tokens=limit)
    sampler = HfSampler(model.policy, batch_size=len(ids) * group)
    seeds = [[i * group + j for j in range(group)] for i in range(len(ids))]
    found = sampler.sample(ids.tolist(), seeds=seeds, params=params, observer=NOBODY)
    return sum(len(each.token_ids) for rows in found for each in rows)


@torch.no_grad()
def _bare(model: Model, ids: torch.Tensor, *, limit: int) -> int:
    """Take the likeliest token again and again, by the model's own forward pass and cache."""
    from transformers import DynamicCache

    cache: Any = DynamicCache()
    step = ids
    with model.policy.computing():
        for _ in range(limit):
            output = model.policy.model(step, past_key_values=cache, logits_to_keep=1)
            step = output.logits[:, -1].argmax(-1, keepdim=True)
    return len(ids) * limit


@torch.no_grad()
def _generate(model: Model, ids: torch.Tensor, *, limit: int) -> int:
    """Let transformers sample, its caches of a fixed size, its forward pass not compiled."""
    from transformers import GenerationConfig

    config = GenerationConfig(
        do_sample=True,
        top_k=0,
        max_new_tokens=limit,
        min_new_tokens=limit,
        cache_implementation="static",
        disable_compile=True,
        pad_token_id=0,
    )
    with model.policy.computing():
        found: torch.Tensor = model.policy.model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config
        )
    return (found.shape[1] - ids.shape[1]) * len(ids)
