"""What top_k and top_p keep, against sorting and adding up by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dgpo_cli.algo.truncation import Truncation

RULES = [(0.5, 0), (0.9, 0), (0.999, 0), (1.0, 3), (1.0, 1), (0.7, 5), (0.2, 1), (0.9, 10_000)]


def twin(probs: Tensor, *, top_p: float, top_k: int) -> list[set[int]]:
    """The k likeliest, the first of equals first; then as few as hold top_p of what is left."""
    found = []
    for row in probs.double().tolist():
        order = sorted(range(len(row)), key=lambda token: -row[token])
        order = order[: top_k or len(row)]
        total, held, kept = sum(row[token] for token in order), 0.0, set()
        for token in order:
            if held >= top_p * total:
                break
            kept.add(token)
            held += row[token]
        found.append(kept)
    return found


def sets(mask: Tensor) -> list[set[int]]:
    return [set(row.nonzero()[:, 0].tolist()) for row in mask]


def random_probs(*, vocab: int, scale: float, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(24, vocab, generator=generator)).softmax(dim=-1)


@pytest.mark.parametrize(("top_p", "top_k"), RULES)
@pytest.mark.parametrize("vocab", [7, 60, 9000])
@pytest.mark.parametrize("scale", [0.1, 3.0])
def test_the_sets_are_those_of_sorting_by_hand(
    vocab: int, scale: float, top_p: float, top_k: int
) -> None:
    """Peaked rows, where few tokens are looked at, and flat ones, where that is not enough."""
    probs = random_probs(vocab=vocab, scale=scale, seed=vocab)
    rule = Truncation(top_p, top_k)
    exact = twin(probs, top_p=top_p, top_k=top_k)
    assert sets(rule.cut(probs) > 0) == exact
    assert sets(rule.kept(probs)) == exact


@pytest.mark.parametrize("top_p", [0.3, 0.5, 0.9])
def test_of_equal_tokens_at_the_border_the_first_ones_stay(top_p: float) -> None:
    """As the sampler draws: a threshold on the value would let all of them pass."""
    row = torch.tensor([1.0, 4.0, 4.0, 4.0, 1.0, 1.0, 1.0, 0.0] + [0.0] * 40)
    probs = (row / row.sum()).expand(2, -1).contiguous()
    rule = Truncation(top_p, 0)
    assert sets(rule.kept(probs)) == sets(rule.cut(probs) > 0) == twin(probs, top_p=top_p, top_k=0)


def test_a_sampler_that_keeps_all_or_is_greedy_has_no_truncation() -> None:
    assert Truncation.of(temperature=1.0, top_p=1.0, top_k=0) is None
    assert Truncation.of(temperature=0.0, top_p=0.5, top_k=4) is None
    assert Truncation.of(temperature=1.0, top_p=0.5, top_k=0) == Truncation(0.5, 0)
    assert Truncation.of(temperature=1.0, top_p=1.0, top_k=4) == Truncation(1.0, 4)
