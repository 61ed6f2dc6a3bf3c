"""What the token-statistics pass costs against the least that could be paid, on this CPU.

    OMP_NUM_THREADS=1 python benchmarks/token_stats.py [--rounds 7] [--json FILE]

Every figure is a ratio of CPU times inside one run: each round measures the pass and one rival
in turn, and the table gives the median of the rounds' ratios. Peak memory is what a fresh process
adds to its resident set over its inputs. The rivals:

    two products    the two matrix products hidden @ head.T into memory that is there already
    two logprobs    log-probabilities of policy and reference and nothing else, in tiles like ours
    chunked         the same by F.linear and logsumexp over chunks of 256 tokens
    full logits     both models' logits whole, two softmaxes, entropy, 1 - sum sqrt(p q)
    autograd        logits whole, log_softmax, gather, backward to the hidden states
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dgpo_cli.policy.head import Head
from dgpo_cli.policy.token_pass import token_logprobs, token_pass

SHAPES = ((576, 49_152, 1024), (896, 151_936, 256))  # D, V, N
MEMORY_TOKENS = (256, 4096)
BARS = {"two products": 1.30, "two logprobs": 1.10, "full logits": 1 / 1.3, "autograd": 1.40}
MIB = 1 << 20


@dataclass(frozen=True)
class Case:
    """Hidden states near each other, as of a policy in training, and one shared head."""

    hidden: Tensor  # float32 [N, D]
    reference: Tensor  # float32 [N, D]
    head: Head
    ids: Tensor  # int64 [N]


def make_case(width: int, vocab: int, tokens: int) -> Case:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.empty(tokens, width).normal_(generator=generator)
    reference = torch.empty(tokens, width).normal_(generator=generator).mul_(0.02).add_(hidden)
    weight = torch.empty(vocab, width).normal_(std=2.0 * width**-0.5, generator=generator)
    ids = torch.randint(vocab, (tokens,), generator=generator)
    return Case(hidden, reference, Head(weight, None, 1.0, None), ids)


@torch.no_grad()
def ours(case: Case) -> None:
    token_pass(
        case.hidden,
        case.reference,
        head=case.head,
        reference_head=None,
        ids=case.ids,
        temperature=1.0,
    )


def ours_gradient(case: Case) -> None:
    hidden = case.hidden.detach().requires_grad_()
    token_logprobs(hidden, head=case.head, ids=case.ids, temperature=1.0).sum().backward()


def autograd(case: Case) -> None:
    hidden = case.hidden.detach().requires_grad_()
    logprobs = F.linear(hidden, case.head.weight).log_softmax(dim=-1)
    logprobs.gather(1, case.ids[:, None]).sum().backward()


def autograd_backward(case: Case) -> Callable[[], None]:
    """Return autograd's backward alone; its forward is run here."""
    hidden = case.hidden.detach().requires_grad_()
    logprobs = F.linear(hidden, case.head.weight).log_softmax(dim=-1)
    return logprobs.gather(1, case.ids[:, None]).sum().backward


def ours_backward(case: Case) -> Callable[[], None]:
    hidden = case.hidden.detach().requires_grad_()
    return token_logprobs(hidden, head=case.head, ids=case.ids, temperature=1.0).sum().backward


@torch.no_grad()
def two_products(case: Case, out: Tensor) -> None:
    torch.mm(case.hidden, case.head.weight.t(), out=out)
    torch.mm(case.reference, case.head.weight.t(), out=out)


@torch.no_grad()
def two_logprobs(case: Case, columns: int = 1024, slice_rows: int = 64) -> None:
    """The running log-sum-exp, with the tile and slice sizes that were fastest for it."""
    size, weight = len(case.ids), case.head.weight
    buffer = torch.empty(min(size, 1024), columns)
    for hidden in (case.hidden, case.reference):
        for block, ids in zip(hidden.split(1024), case.ids.split(1024), strict=True):
            tiles = -(-len(weight) // columns)
            tops, sums = torch.empty(tiles, len(ids)), torch.empty(tiles, len(ids))
            for i, part in enumerate(weight.split(columns)):
                x = buffer.view(-1)[: len(ids) * len(part)].view(len(ids), -1)
                torch.mm(block, part.t(), out=x)
                for start in range(0, len(ids), slice_rows):
                    rows = slice(start, start + slice_rows)
                    torch.amax(x[rows], dim=1, out=tops[i, rows])
                    x[rows].sub_(tops[i, rows, None]).exp_()
                    torch.sum(x[rows], dim=1, out=sums[i, rows])
            log_total = (tops + sums.log()).logsumexp(dim=0)
            _ = (block * weight[ids]).sum(dim=1) - log_total


@torch.no_grad()
def chunked(case: Case) -> None:
    for hidden in (case.hidden, case.reference):
        for block, ids in zip(hidden.split(256), case.ids.split(256), strict=True):
            logits = F.linear(block, case.head.weight)
            _ = logits.gather(1, ids[:, None]).squeeze(1) - logits.logsumexp(dim=1)


@torch.no_grad()
def full_logits(case: Case) -> None:
    logits = F.linear(case.hidden, case.head.weight)
    other = F.linear(case.reference, case.head.weight)
    log_p = logits.log_softmax(dim=-1)
    p, q = log_p.exp(), other.softmax(dim=-1)
    log_p.gather(1, case.ids[:, None])
    -(p * log_p).sum(dim=-1)
    1.0 - (p * q).sqrt().sum(dim=-1)


def cpu_seconds(run: Callable[[], Any]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def compare(first: Callable[[], Any], second: Callable[[], Any], rounds: int) -> dict[str, float]:
    """Measure two in turn; the ratio is the median of the rounds' own ratios."""
    pairs = []
    for number in range(rounds + 1):
        order = (first, second) if number % 2 else (second, first)
        times = [cpu_seconds(run) for run in order]
        if number:  # the first round warms up
            pairs.append(times if number % 2 else times[::-1])
    return {
        "ours_s": statistics.median(a for a, _ in pairs),
        "rival_s": statistics.median(b for _, b in pairs),
        "ratio": statistics.median(a / b for a, b in pairs),
    }


def times_of(shape: tuple[int, int, int], rounds: int) -> dict[str, dict[str, float]]:
    case = make_case(*shape)
    out = torch.empty(len(case.ids), case.head.vocab_size)
    found = {"two products": compare(lambda: ours(case), lambda: two_products(case, out), rounds)}
    rivals = {"two logprobs": two_logprobs, "chunked": chunked, "full logits": full_logits}
    for name, rival in rivals.items():
        found[name] = compare(lambda: ours(case), partial(rival, case), rounds)
    both = compare(lambda: ours_gradient(case), lambda: autograd(case), rounds)
    found["autograd"] = both
    halves = [
        (cpu_seconds(ours_backward(case)), cpu_seconds(autograd_backward(case)))
        for _ in range(rounds)
    ]
    found["autograd, backward alone"] = {
        "ours_s": statistics.median(a for a, _ in halves),
        "rival_s": statistics.median(b for _, b in halves),
        "ratio": statistics.median(a / b for a, b in halves),
    }
    return found


MEASURED = {
    "ours": ours,
    "ours gradient": ours_gradient,
    "two logprobs": two_logprobs,
    "full logits": full_logits,
    "autograd": autograd,
}


def own_peak(name: str, shape: tuple[int, int, int]) -> float:
    """Return the MiB that this process's resident set grows by at most; call it once."""
    MEASURED[name](make_case(shape[0], 64, 8))  # loads the code that the call needs
    case = make_case(*shape)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    MEASURED[name](case)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / MIB


def peak_mib(name: str, shape: tuple[int, int, int]) -> float:
    command = [sys.executable, __file__, "--peak", name, *map(str, shape)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout)


def peaks() -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for width, vocab, _ in SHAPES:
        for count in MEMORY_TOKENS:
            row = {
                name: peak_mib(name, (width, vocab, count)) for name in ("ours", "ours gradient")
            }
            if count == min(MEMORY_TOKENS):  # whole logits of 4096 tokens would fill this machine
                for name in ("two logprobs", "full logits", "autograd"):
                    row[name] = peak_mib(name, (width, vocab, count))
            found[f"D={width} V={vocab} N={count}"] = row
    return found


def show(times: dict[str, Any], memory: dict[str, Any]) -> None:
    print(f"{'CPU time against':26} {'ours s':>8} {'rival s':>8} {'ratio':>7} {'bar':>6}")
    for shape, rows in times.items():
        print(shape)
        for name, row in rows.items():
            bar = f"{BARS[name]:6.2f}" if name in BARS else f"{'':6}"
            print(
                f"  {name:24} {row['ours_s']:8.3f} {row['rival_s']:8.3f} {row['ratio']:7.3f} {bar}"
            )
    print(f"\n{'peak MiB over the inputs':26} " + " ".join(f"{name:>13}" for name in MEASURED))
    for shape, row in memory.items():
        cells = (f"{row[name]:13.1f}" if name in row else f"{'':13}" for name in MEASURED)
        print(f"{shape:26} " + " ".join(cells))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", help="also write the figures to this file")
    parser.add_argument("--peak", nargs=4, metavar=("WHAT", "D", "V", "N"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.peak:
        width, vocab, tokens = map(int, args.peak[1:])
        print(own_peak(args.peak[0], (width, vocab, tokens)))
        return
    memory = peaks()
    times = {f"D={d} V={v} N={n}": times_of((d, v, n), args.rounds) for d, v, n in SHAPES}
    show(times, memory)
    if args.json:
        figures = {"torch": torch.__version__, "cpu_time": times, "peak_mib": memory}
        Path(args.json).write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
