"""What rounding makes of the distance d, against the noise that training measures.

    OMP_NUM_THREADS=1 python benchmarks/noise.py [--model DIR] [--dtype bfloat16]
        [--compute bfloat16]

An adapter moves the model a little further from line to line. `d` is what training would see in
this data type, `true` the distance of the same weights in float32, both means over tokens;
`correlation` is that of the two. `noise` is the mean of what `credit.noise_every` measures,
`floors` the 99% quantile of d over `noise/floor`: below 5 d is called noise.
"""

from __future__ import annotations

import argparse

import torch

from dgpo_cli.algo.credit import DgpoCredit
from dgpo_cli.algo.losses import ClipLoss
from dgpo_cli.engine.noise import noise_metrics, noise_of_distance
from dgpo_cli.engine.piece import Recipe
from dgpo_cli.policy.batching import pad_rows
from dgpo_cli.policy.load import add_adapter, compute_dtype, load_model, load_tokenizer
from dgpo_cli.policy.policy import Policy
from dgpo_cli.policy.scoring import token_stats
from dgpo_cli.policy.settings import EMBEDDED_TINY, LoraAdapter, ModelSettings

TEXTS = (
    ("12+34+5*6?", "5*6=30;12+34=46;46+30=76;\\boxed{76}"),
    ("(93-44)*2?", "93-44=49;49*2=98;\\boxed{98}"),
    ("7*8-9*3+21?", "7*8=56;9*3=27;56-27=29;29+21=50;\\boxed{50}"),
)
STEPS = (3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)  # sizes of the adapter's second factor
RECIPE = Recipe(
    rule=DgpoCredit(),
    loss=ClipLoss(),
    temperature=1.0,
    max_completion_tokens=64,
    group_size=8,
    micro_batch_size=8,
)
Pairs = list[tuple[list[int], list[int]]]


def moved(settings: ModelSettings, *, by: float) -> Policy:
    """The model with an adapter that is `by` away from doing nothing."""
    base = load_model(settings).requires_grad_(False)
    model = add_adapter(base, adapter=LoraAdapter(rank=16, alpha=32.0), seed=3)
    generator = torch.Generator().manual_seed(5)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.add_(by * torch.randn(parameter.shape, generator=generator))
    tokenizer = load_tokenizer(settings)
    return Policy(
        model.eval(),
        tokenizer=tokenizer,
        reference=None,
        has_adapter=True,
        compute=compute_dtype(settings),
    )


def distances(policy: Policy, pairs: Pairs) -> torch.Tensor:
    """d of every token, float32 [N]."""
    rows = pad_rows(pairs, pad_id=policy.pad_id)
    stats = token_stats(policy, rows, temperature=1.0, micro_batch_size=8, with_reference=True)
    return stats.hellinger_sq[rows.mask]


def line(settings: ModelSettings, pairs: Pairs, *, by: float) -> str:
    policy = moved(settings, by=by)
    shown = distances(policy, pairs)
    noise = noise_metrics(
        noise_of_distance(policy, pairs, recipe=RECIPE), dtype=policy.computed_dtype
    )
    policy.model.float()
    policy.compute = None
    true = distances(policy, pairs)
    alike = float(torch.corrcoef(torch.stack([shown, true]))[0, 1])
    floors = float(shown.quantile(0.99)) / noise["noise/floor"]
    means = (float(shown.mean()), float(true.mean()), noise["noise/hellinger_sq_mean"])
    return "".join(f"{value:>10.1e}" for value in (by, *means)) + f"{alike:>13.2f}{floors:>8.2g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default=EMBEDDED_TINY, help="a folder, or the embedded model")
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--compute", default="stored", choices=["stored", "bfloat16"])
    options = parser.parse_args()
    settings = ModelSettings(
        path=options.model, dtype=options.dtype, compute=options.compute, device="cpu"
    )
    tokenizer = load_tokenizer(settings)
    pairs = [(tokenizer.encode(prompt), tokenizer.encode(text)) for prompt, text in TEXTS]
    print(f"{'moved by':>10}{'d':>10}{'true':>10}{'noise':>10}{'correlation':>13}{'floors':>8}")
    for by in STEPS:
        print(line(settings, pairs, by=by), flush=True)


if __name__ == "__main__":
    main()
