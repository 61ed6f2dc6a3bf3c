"""Cases for the token pass and their float64 twin."""

from __future__ import annotations

import torch
from torch import Tensor

from dgpo_cli.policy.head import Head
from dgpo_cli.policy.token_pass import Tiles, TokenColumns

CUTS = [Tiles(9, 17, 4), Tiles(16, 32, 16), Tiles(64, 1000, 5)]


def noise(*shape: int, seed: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def head_of(weight: Tensor, bias: Tensor | None = None) -> Head:
    return Head(weight=weight, bias=bias, scale=1.0, softcap=None)


def twin_logits(hidden: Tensor, head: Head, temperature: float) -> Tensor:
    logits = hidden.double() @ head.weight.double().t()
    if head.bias is not None:
        logits = logits + head.bias.double()
    logits = logits * head.scale
    if head.softcap is not None:
        logits = torch.tanh(logits / head.softcap) * head.softcap
    return logits / temperature


def twin(p: Tensor, q: Tensor, ids: Tensor) -> TokenColumns:
    """All four columns from float64 logits [N, V]."""
    log_p, log_q = p.log_softmax(-1), q.log_softmax(-1)
    return TokenColumns(
        logprobs=log_p.gather(1, ids[:, None])[:, 0],
        entropy=-torch.where(log_p.exp() > 0, log_p.exp() * log_p, 0.0).sum(-1),
        hellinger_sq=0.5 * ((log_p / 2).exp() - (log_q / 2).exp()).square().sum(-1),
        reference_logprobs=log_q.gather(1, ids[:, None])[:, 0],
    )


DTYPES = [torch.float32, torch.bfloat16, torch.float16]
FORMS = [(1.0, None, False), (0.25, None, True), (1.5, 8.0, False), (2.0, 8.0, True)]


def random_case(
    count: int, width: int, vocab: int, form: tuple[float, float | None, bool], dtype: torch.dtype
) -> tuple[Tensor, Tensor, Head, Head, Tensor]:
    """Two heads, hidden states that differ by a few per cent, and ids."""
    scale, softcap, has_bias = form
    weights = noise(vocab, width, seed=1), noise(vocab, width, seed=2, scale=0.02)
    bias = noise(vocab, seed=3).to(dtype) if has_bias else None
    hidden = noise(count, width, seed=4)
    other = hidden + noise(count, width, seed=5, scale=0.05)
    heads = (weights[0].to(dtype), (weights[0] + weights[1]).to(dtype))
    first, second = (Head(w, bias, scale / width**0.5, softcap) for w in heads)
    ids = torch.randint(vocab, (count,), generator=torch.Generator().manual_seed(6))
    return hidden.to(dtype), other.to(dtype), first, second, ids
