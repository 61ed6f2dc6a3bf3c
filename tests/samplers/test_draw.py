"""Drawing tokens: the distribution, the truncations, and streams that do not see each other."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch

from dgpo_cli.samplers.base import SamplingParams
from dgpo_cli.samplers.draw import UniformStreams, draw_tokens

ALMOST_ONE = math.nextafter(1.0, 0.0)


def params(*, temperature: float = 1.0, top_p: float = 1.0, top_k: int = 0) -> SamplingParams:
    return SamplingParams(
        temperature=temperature, top_p=top_p, top_k=top_k, max_completion_tokens=8
    )


def twin_softmax(logits: list[float], temperature: float = 1.0) -> list[float]:
    top = max(logits)
    powers = [math.exp((x - top) / temperature) for x in logits]
    return [p / math.fsum(powers) for p in powers]


def twin_nucleus(probs: list[float], *, top_k: int, top_p: float) -> list[float]:
    """Keep the k likeliest, then the fewest of those that hold top_p of what is left."""
    order = sorted(range(len(probs)), key=lambda i: -probs[i])
    order = order[: top_k or len(probs)]
    total, held, kept = math.fsum(probs[i] for i in order), 0.0, []
    for i in order:
        if held >= top_p * total:
            break
        kept.append(i)
        held += probs[i]
    mass = math.fsum(probs[i] for i in kept)
    return [probs[i] / mass if i in kept else 0.0 for i in range(len(probs))]


def grid(count: int) -> torch.Tensor:
    """Uniforms spread evenly over [0, 1)."""
    return (torch.arange(count, dtype=torch.float64) + 0.5) / count


def shares(logits: list[float], settings: SamplingParams, *, count: int = 20_000) -> list[float]:
    """How often each token comes for evenly spread uniforms: exact to 1 / count."""
    rows = torch.tensor(logits).expand(count, -1)
    tokens, _ = draw_tokens(rows, uniforms=grid(count), params=settings)
    return (torch.bincount(tokens, minlength=len(logits)) / count).tolist()


def random_logits(size: int, *, seed: int = 0, scale: float = 2.0) -> list[float]:
    rng = random.Random(seed)
    return [rng.gauss(0.0, scale) for _ in range(size)]


def chi_square(counts: list[int], probs: list[float]) -> float:
    n = sum(counts)
    return math.fsum((c - n * p) ** 2 / (n * p) for c, p in zip(counts, probs, strict=True) if p)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
def test_draws_follow_the_distribution(temperature: float) -> None:
    count, logits = 20_000, random_logits(12)
    uniforms = UniformStreams(list(range(count))).at(0)
    rows = torch.tensor(logits).expand(count, -1)
    tokens, _ = draw_tokens(rows, uniforms=uniforms, params=params(temperature=temperature))
    counts = torch.bincount(tokens, minlength=12).tolist()
    # 11 degrees of freedom: 31.26 is exceeded once in a thousand seeds, and the seed is fixed.
    assert chi_square(counts, twin_softmax(logits, temperature)) < 31.26


def test_one_stream_is_uniform_and_its_neighbours_are_independent() -> None:
    streams = UniformStreams([7, 8])
    numbers = torch.stack([streams.at(i) for i in range(4000)])
    counts = torch.histc(numbers[:, 0], bins=20, min=0, max=1).int().tolist()
    assert chi_square(counts, [0.05] * 20) < 43.8  # 19 degrees of freedom, 0.1%
    # The standard error of a correlation of 4000 pairs is 0.016.
    assert abs(float(torch.corrcoef(numbers.T)[0, 1])) < 0.05
    assert abs(float(torch.corrcoef(torch.stack([numbers[1:, 0], numbers[:-1, 0]]))[0, 1])) < 0.05


def test_a_stream_depends_on_its_seed_alone() -> None:
    """Whoever is beside it, and across every change of block (64, 128, ... 1024)."""
    seeds, length = [3, 2**63 - 1, 0, 11], 2200
    together, alone = UniformStreams(seeds), [UniformStreams([seed]) for seed in seeds]
    turned = UniformStreams(seeds[::-1])
    for position in range(length):
        row = together.at(position)
        assert torch.equal(row, turned.at(position).flip(0))
        assert torch.equal(row, torch.cat([stream.at(position) for stream in alone]))


def test_a_stream_is_philox_keyed_by_the_seed() -> None:
    """Pinned: another generator or key would move every rollout of every seed."""
    streams = UniformStreams([2**40 + 1])
    expected = np.random.Generator(np.random.Philox(key=2**40 + 1)).random(1500)
    found = [float(streams.at(position)[0]) for position in range(1500)]
    assert found == expected.tolist()


def test_the_token_of_a_row_depends_on_its_own_logits_and_uniform() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, uniforms = torch.randn(9, 30, generator=generator), grid(9)
    settings = params(temperature=0.9, top_p=0.8, top_k=20)
    tokens, logprobs = draw_tokens(logits, uniforms=uniforms, params=settings)
    for row in range(9):
        token, logprob = draw_tokens(logits[[row]], uniforms=uniforms[[row]], params=settings)
        assert (token, logprob) == (tokens[row], logprobs[row])


def test_top_k_keeps_exactly_k_with_ties() -> None:
    logits = [1.0, 3.0, 1.0, 1.0, 1.0, 0.0]
    for k in range(1, 6):
        kept = [p for p in shares(logits, params(top_k=k)) if p > 0]
        assert len(kept) == k
    equal = shares([0.0] * 7, params(top_k=3))
    assert sorted(equal)[-3:] == pytest.approx([1 / 3] * 3, abs=1e-3)
    assert sum(p > 0 for p in equal) == 3


@pytest.mark.parametrize("top_k", [6, 7, 100])
def test_top_k_of_the_vocabulary_or_more_keeps_all(top_k: int) -> None:
    logits = random_logits(6)
    assert shares(logits, params(top_k=top_k)) == shares(logits, params())


@pytest.mark.parametrize("top_p", [0.05, 0.3, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("top_k", [0, 4])
def test_top_p_keeps_the_smallest_nucleus(top_p: float, top_k: int) -> None:
    for seed in range(5):
        logits = random_logits(15, seed=seed)
        expected = twin_nucleus(twin_softmax(logits, 0.8), top_k=top_k, top_p=top_p)
        found = shares(logits, params(temperature=0.8, top_p=top_p, top_k=top_k))
        assert found == pytest.approx(expected, abs=2e-4)


def test_top_p_that_the_first_token_already_holds_keeps_only_it() -> None:
    logits = [math.log(p) for p in (0.5, 0.25, 0.125, 0.125)]
    assert shares(logits, params(top_p=0.49)) == [1.0, 0.0, 0.0, 0.0]
    # 0.75 is held by the first two; just above it the third is needed.
    assert shares(logits, params(top_p=0.74)) == pytest.approx([2 / 3, 1 / 3, 0, 0], abs=1e-3)
    assert shares(logits, params(top_p=0.76))[2] > 0


@pytest.mark.parametrize("uniform", [0.0, 1e-300, 0.5, ALMOST_ONE])
@pytest.mark.parametrize("size", [3, 4096, 150_000])
def test_an_impossible_token_is_never_drawn(uniform: float, size: int) -> None:
    """-inf at both ends and between: 0 must not take the first, nor 1 - eps the last."""
    logits = torch.full((1, size), -math.inf)
    possible = [size // 3, size // 2] if size > 3 else [1]
    logits[0, possible] = torch.tensor([0.3, -0.2])[: len(possible)]
    uniforms = torch.tensor([uniform], dtype=torch.float64)
    token, logprob = draw_tokens(logits, uniforms=uniforms, params=params())
    assert int(token) in possible
    assert math.isfinite(float(logprob))
    if uniform in (0.0, ALMOST_ONE):
        assert int(token) == possible[0 if uniform == 0 else -1]


def test_the_largest_uniform_takes_the_last_possible_token() -> None:
    """Never one past the end, though probabilities rounded to float32 add up to more than 1."""
    logits = torch.tensor([random_logits(6, seed=seed) for seed in range(200)])
    assert float(logits.softmax(-1).double().sum(-1).max()) > 1.0
    logits = torch.nn.functional.pad(logits, (0, 3), value=-math.inf)
    uniforms = torch.full((200,), ALMOST_ONE, dtype=torch.float64)
    tokens, logprobs = draw_tokens(logits, uniforms=uniforms, params=params())
    assert tokens.tolist() == [5] * 200
    assert logprobs.isfinite().all()


def test_truncated_tokens_are_never_drawn_at_the_ends() -> None:
    """The likeliest tokens in the middle: what top_k and top_p cut lies at both ends."""
    logits = torch.tensor([[0.0, 0.1, 5.0, 4.9, 0.2, 0.0]] * 2)
    ends = torch.tensor([0.0, ALMOST_ONE], dtype=torch.float64)
    for settings in (params(top_k=2), params(top_p=0.9)):
        tokens, _ = draw_tokens(logits, uniforms=ends, params=settings)
        assert tokens.tolist() == [2, 3]


def test_the_tail_of_a_large_vocabulary_is_drawn_as_it_should() -> None:
    """150,000 equal tokens share 1e-5: each less than float32 tells apart near 1."""
    logits = torch.zeros(1, 150_000)
    logits[0, 0] = math.log(150_000 / 1e-5)
    shares = 0.01 + 0.98 * grid(100)
    tokens = [
        int(draw_tokens(logits, uniforms=1 - 1e-5 * (1 - share[None]), params=params())[0])
        for share in shares
    ]
    # float32 probabilities of the head are good to 6e-8, 0.6% of the tail.
    assert tokens == pytest.approx([150_000 * float(s) for s in shares], abs=1500)
    nearby = torch.linspace(0.5, 0.501, 100, dtype=torch.float64)[:, None]
    drawn = {
        int(draw_tokens(logits, uniforms=1 - 1e-5 * (1 - share), params=params())[0])
        for share in nearby
    }
    assert len(drawn) == 100  # 1.5 tokens apart


def test_logits_that_are_not_numbers_give_a_token_and_a_logprob_that_shows_it() -> None:
    logits = torch.tensor([[0.0, math.nan, 1.0], [math.inf, 0.0, 1.0], [0.0, -50.0, -50.0]])
    tokens, logprobs = draw_tokens(logits, uniforms=grid(3), params=params())
    assert all(0 <= token < 3 for token in tokens.tolist())
    assert logprobs.isnan().tolist() == [True, True, False]
    assert int(tokens[2]) == 0


def test_greedy_takes_the_likeliest_whatever_the_uniform() -> None:
    logits = torch.tensor([random_logits(9, seed=seed) for seed in range(6)])
    for uniform in (0.0, 0.4, ALMOST_ONE):
        uniforms = torch.full((6,), uniform, dtype=torch.float64)
        tokens, logprobs = draw_tokens(logits, uniforms=uniforms, params=params(temperature=0.0))
        for row, token, logprob in zip(logits.tolist(), tokens, logprobs, strict=True):
            assert int(token) == row.index(max(row))
            assert float(logprob) == pytest.approx(math.log(twin_softmax(row)[token]), abs=1e-6)


@pytest.mark.parametrize(
    ("temperature", "top_p", "top_k"),
    [(0.6, 1.0, 0), (0.6, 0.7, 5), (1.0, 0.5, 0), (1.0, 1.0, 3)],
)
def test_logprobs_are_of_the_distribution_that_is_drawn_from(
    temperature: float, top_p: float, top_k: int
) -> None:
    """Divided by the temperature, and over the tokens that top_k and top_p keep."""
    rows = [random_logits(12, seed=seed) for seed in range(40)]
    tokens, logprobs = draw_tokens(
        torch.tensor(rows),
        uniforms=grid(40),
        params=params(temperature=temperature, top_p=top_p, top_k=top_k),
    )
    assert logprobs.dtype == torch.float32
    for row, token, logprob in zip(rows, tokens, logprobs, strict=True):
        kept = twin_nucleus(twin_softmax(row, temperature), top_k=top_k, top_p=top_p)
        assert float(logprob) == pytest.approx(math.log(kept[token]), abs=1e-6)
