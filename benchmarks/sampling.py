"""Where sampling spends its time: dgpo's loop and transformers' `generate`, side by side.

    python benchmarks/sampling.py [--model PATH] [--prompts 16] [--group-size 16] [--tokens 48]

Both sample the same number of completions of the same prompts at temperature 1 with the same
model, alternately, in one process; the table gives CPU and wall seconds (median of the rounds)
and the ratio. The profile names the calls with the largest own time in each.
"""

from __future__ import annotations

import argparse
import cProfile
import io
import json
import pstats
import statistics
import time
from collections.abc import Callable

import torch

from dgpo_cli.core.events import NOBODY
from dgpo_cli.core.formats import Position
from dgpo_cli.policy.load_policy import load_for_sampling
from dgpo_cli.policy.policy import Policy
from dgpo_cli.policy.settings import ModelSettings
from dgpo_cli.prompts.datasets import open_prompts
from dgpo_cli.prompts.settings import SumsPrompts
from dgpo_cli.prompts.templates import encode_prompt
from dgpo_cli.samplers.base import SamplingParams
from dgpo_cli.samplers.hf import HfSampler, left_pad


def ours(
    policy: Policy, prompts: list[tuple[int, ...]], group_size: int, tokens: int
) -> Callable[[], int]:
    sampler = HfSampler(policy, batch_size=4096)
    params = SamplingParams(temperature=1.0, top_p=1.0, top_k=0, max_completion_tokens=tokens)
    seeds = [[i * group_size + j for j in range(group_size)] for i in range(len(prompts))]

    def run() -> int:
        found = sampler.sample(prompts, seeds=seeds, params=params, observer=NOBODY)
        return sum(len(completion.token_ids) for group in found for completion in group)

    return run


def generate(
    policy: Policy, prompts: list[tuple[int, ...]], group_size: int, tokens: int
) -> Callable[[], int]:
    ids, mask = left_pad([p for p in prompts for _ in range(group_size)], pad_id=policy.pad_id)
    ids, mask = ids.to(policy.device), mask.to(policy.device)

    @torch.inference_mode()
    def run() -> int:
        out = policy.model.generate(
            input_ids=ids,
            attention_mask=mask.long(),
            do_sample=True,
            temperature=1.0,
            top_k=0,
            max_new_tokens=tokens,
            eos_token_id=sorted(policy.stop_ids),
            pad_token_id=policy.pad_id,
            return_dict_in_generate=True,
            output_logits=True,
        )
        new = out.sequences[:, ids.shape[1] :]
        logprobs = torch.log_softmax(torch.stack(out.logits, dim=1).float(), dim=-1)
        logprobs.gather(-1, new[..., None])  # the sampler needs them too
        return int((new != policy.pad_id).sum())

    return run


def profile(run: Callable[[], int]) -> str:
    profiler = cProfile.Profile()
    profiler.runcall(run)
    text = io.StringIO()
    pstats.Stats(profiler, stream=text).sort_stats("tottime").print_stats(8)
    return "\n".join(line for line in text.getvalue().splitlines()[6:] if line.strip())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="embedded:tiny")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--group-size", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", help="also write the figures to this file")
    args = parser.parse_args()
    policy = load_for_sampling(ModelSettings(path=args.model))
    stream = open_prompts(SumsPrompts(), seed=0)
    prompts = [
        encode_prompt(policy.tokenizer, p) for p in stream.take(Position(), count=args.prompts)
    ]
    runs = {
        "dgpo": ours(policy, prompts, args.group_size, args.tokens),
        "generate": generate(policy, prompts, args.group_size, args.tokens),
    }
    figures: dict[str, dict[str, list[float]]] = {
        name: {"cpu_s": [], "wall_s": [], "tokens": []} for name in runs
    }
    for number in range(args.rounds + 1):
        for name, run in runs.items():
            cpu, wall = time.process_time(), time.perf_counter()
            tokens = run()
            if number:  # the first round warms up
                figures[name]["cpu_s"].append(time.process_time() - cpu)
                figures[name]["wall_s"].append(time.perf_counter() - wall)
                figures[name]["tokens"].append(tokens)
    medians = {n: {k: statistics.median(v) for k, v in f.items()} for n, f in figures.items()}
    print(f"{'':10} {'cpu s':>8} {'wall s':>8} {'tokens':>8}")
    for name, row in medians.items():
        print(f"{name:10} {row['cpu_s']:8.3f} {row['wall_s']:8.3f} {row['tokens']:8.0f}")
    ratios = [
        a / b for a, b in zip(figures["generate"]["cpu_s"], figures["dgpo"]["cpu_s"], strict=True)
    ]
    print(
        f"generate / dgpo, CPU time, median of {args.rounds} pairs: {statistics.median(ratios):.2f}"
    )
    for name, run in runs.items():
        print(f"\n{name}: calls with the largest own time\n{profile(run)}")
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump({"settings": vars(args), "median": medians}, file, indent=1)


if __name__ == "__main__":
    main()
