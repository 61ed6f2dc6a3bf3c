"""What credit rules cost, against each other and against the statistics that they use.

    OMP_NUM_THREADS=1 python benchmarks/credit.py [--rows 64] [--tokens 8192] [--json FILE]

CPU milliseconds for a batch of completions, the median of the rounds. The token pass is measured on
1024 tokens of SmolLM2's width and vocabulary, without the model's own forward pass, and multiplied.
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

import torch

from dgpo_cli.algo.credit import (
    CreditRule,
    DgpoCredit,
    EntropyCredit,
    ProportionalCredit,
    SurprisalCredit,
    TopEntropyCredit,
)
from dgpo_cli.core.types import TokenStats
from dgpo_cli.policy.head import Head
from dgpo_cli.policy.token_pass import token_pass

WIDTH, VOCAB, PASS_TOKENS = 576, 49_152, 1024
RULES: dict[str, CreditRule] = {
    "fixed tau": DgpoCredit(),
    "target 0.9, per completion": DgpoCredit(target_ess=0.9),
    "target 0.9, over the batch": DgpoCredit(target_ess=0.9, target_ess_over="batch"),
    "entropy": EntropyCredit(),
    "top-entropy, per completion": TopEntropyCredit(share_over="completion"),
    "top-entropy, over the batch": TopEntropyCredit(),
    "proportional": ProportionalCredit(),
    "surprisal": SurprisalCredit(),
}


def make_stats(rows: int, tokens: int) -> tuple[TokenStats, torch.Tensor]:
    """Return statistics like those of training: most distances near 0, uneven lengths."""
    generator = torch.Generator().manual_seed(0)
    distance = torch.rand(rows, tokens, generator=generator).pow(8) * 1e-2
    entropy = torch.rand(rows, tokens, generator=generator).pow(3) * 8
    lengths = torch.randint(tokens // 4, tokens + 1, (rows, 1), generator=generator)
    mask = torch.arange(tokens) < lengths
    logprobs = -torch.rand(rows, tokens, generator=generator).pow(8) * 5
    stats = TokenStats(logprobs, entropy, distance, noise_floor=1e-12)
    return stats, mask


def pass_ms(count: int, rounds: int) -> float:
    """Return the CPU milliseconds of the token pass over `count` tokens."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(2, PASS_TOKENS, WIDTH, generator=generator)
    weight = torch.randn(VOCAB, WIDTH, generator=generator) * WIDTH**-0.5
    ids = torch.randint(VOCAB, (PASS_TOKENS,), generator=generator)
    head = Head(weight, None, 1.0, None)

    def run() -> None:
        with torch.no_grad():
            token_pass(
                hidden[0], hidden[1], head=head, reference_head=None, ids=ids, temperature=1.0
            )

    return median_ms(run, rounds) * count / PASS_TOKENS


def median_ms(run: Callable[[], Any], rounds: int) -> float:
    def once() -> float:
        start = time.process_time()
        run()
        return 1000 * (time.process_time() - start)

    run()
    return statistics.median(once() for _ in range(rounds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    stats, mask = make_stats(options.rows, options.tokens)
    found = {
        name: median_ms(partial(rule.credit, stats, mask, vocab_size=VOCAB), options.rounds)
        for name, rule in RULES.items()
    }
    count = int(mask.sum())
    found["token pass"] = pass_ms(count, options.rounds)
    print(f"{options.rows} completions of at most {options.tokens} tokens, {count:,} in all")
    for name, value in found.items():
        print(f"{name:28} {value:12,.1f} ms  {value / found['token pass']:9.4%} of the pass")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
