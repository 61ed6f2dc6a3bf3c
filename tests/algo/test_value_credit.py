"""Credit by values, on a policy that is small enough to count every completion it can write."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dgpo_cli.algo.credit import CreditRule, UniformCredit, ValueCredit
from dgpo_cli.algo.losses import Aggregation, ClipLoss
from dgpo_cli.core.errors import ConfigError
from dgpo_cli.core.types import TokenStats

END, TOKENS, LONGEST = 2, 3, 4
Ids = tuple[int, ...]


def stats_of(rows: list[list[float]]) -> tuple[TokenStats, Tensor]:
    """Statistics with these moves; NaN outside of the mask."""
    width = max(map(len, rows))
    mask = torch.arange(width) < torch.tensor([[len(row)] for row in rows])
    moves = torch.full(mask.shape, math.nan)
    moves[mask] = torch.tensor([x for row in rows for x in row])
    zeros = torch.zeros(mask.shape)
    return TokenStats(zeros, zeros, zeros, value_moves=moves), mask


def weights_of(rows: list[list[float]], rule: CreditRule | None = None) -> list[list[float]]:
    stats, mask = stats_of(rows)
    weights = (rule or ValueCredit()).credit(stats, mask, vocab_size=9).weights
    assert (weights[~mask] == 0).all()
    return [row[: len(own)] for row, own in zip(weights.tolist(), rows, strict=True)]


def test_weights_are_moves_over_their_mean_and_may_be_negative() -> None:
    found = weights_of([[0.25, -0.5, 0.75], [-0.5, 0.0]])
    assert found == [pytest.approx([1.5, -3.0, 4.5]), pytest.approx([2.0, 0.0])]
    assert str(found[1][1]) == "0.0"  # not -0.0


@given(st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=9))
@settings(max_examples=60, deadline=None)
def test_weights_have_mean_one_whatever_the_moves(moves: list[float]) -> None:
    [found] = weights_of([moves])
    most = max(map(abs, found))  # rounding of float32 is in proportion to the largest
    assert math.fsum(found) == pytest.approx(len(moves), abs=1e-6 * most * len(moves) + 1e-5)


@pytest.mark.parametrize("moves", [[0.0, 0.0, 0.0], [0.1, 0.2, -0.3], [-1.0, 1.0]])
def test_moves_that_add_up_to_nothing_give_weights_of_exactly_one(moves: list[float]) -> None:
    """0.1 + 0.2 - 0.3 is not 0 in floating point."""
    assert weights_of([moves]) == [[1.0] * len(moves)]


def test_without_moves_the_rule_says_what_it_needs() -> None:
    stats, mask = stats_of([[0.5]])
    with pytest.raises(ConfigError, match="needs continuations"):
        ValueCredit().credit(replace(stats, value_moves=None), mask, vocab_size=9)


class Policy:
    """Tokens 0 and 1, and an end; every prefix has logits, every completion a reward, of its own.

    ends: whether completions may end before they are LONGEST.
    """

    def __init__(self, *, seed: int, ends: bool = True) -> None:
        rng = random.Random(seed)
        self.nodes = [p for n in range(LONGEST) for p in itertools.product((0, 1), repeat=n)]
        self.probs = {p: self._draw(rng, ends=ends) for p in self.nodes}
        self.rewards = {
            ids: rng.random() for ids in self._all() if len(ids) == LONGEST or ids[-1] == END
        }

    @staticmethod
    def _draw(rng: random.Random, *, ends: bool) -> list[float]:
        powers = [math.exp(rng.gauss(0, 1)) for _ in range(TOKENS)]
        powers[END] *= ends
        return [power / math.fsum(powers) for power in powers]

    def _all(self) -> list[Ids]:
        return [(*prefix, token) for prefix in self.nodes for token in range(TOKENS)]

    def completions(self) -> list[tuple[Ids, float, float]]:
        """Every completion with its probability and its reward."""
        found = []
        for ids, reward in self.rewards.items():
            chance = math.prod(self.probs[ids[:t]][token] for t, token in enumerate(ids))
            if chance:
                found.append((ids, chance, reward))
        assert math.fsum(chance for _, chance, _ in found) == pytest.approx(1.0)
        return found

    def value(self, prefix: Ids) -> float:
        """The expected reward after a prefix."""
        if prefix in self.rewards:
            return self.rewards[prefix]
        nexts = enumerate(self.probs[prefix])
        return math.fsum(p * self.value((*prefix, token)) for token, p in nexts if p)

    def gradient(self, rule: CreditRule, aggregation: Aggregation) -> Tensor:
        """The expected gradient of what a token of a completion adds to the objective.

        Of the logits of every prefix, [prefixes, TOKENS]; the rows' scales are the loss's, of a
        batch of one token or one completion.
        """
        found = self.completions()
        moves = [
            [self.value(ids[: t + 1]) - self.value(ids[:t]) for t in range(len(ids))]
            for ids, _, _ in found
        ]
        stats, mask = stats_of(moves)
        weights = rule.credit(stats, mask, vocab_size=TOKENS).weights.double()
        scales = ClipLoss(aggregation=aggregation).row_scales(
            mask.sum(1), num_tokens=1, num_completions=1, max_completion_tokens=1
        )
        total = torch.zeros(len(self.nodes), TOKENS, dtype=torch.float64)
        for row, (ids, chance, reward) in enumerate(found):
            advantage = (reward - self.value(())) / 0.3  # any spread will do
            for t, token in enumerate(ids):
                own = -torch.tensor(self.probs[ids[:t]], dtype=torch.float64)
                own[token] += 1.0  # of log p in the logits
                size = chance * advantage * float(weights[row, t]) * float(scales[row])
                total[self.nodes.index(ids[:t])] += size * own
        return total


def cosine(one: Tensor, other: Tensor) -> float:
    return float((one * other).sum() / one.norm() / other.norm())


@pytest.mark.parametrize("seed", range(4))
def test_with_sequence_mean_the_expected_gradient_is_the_policy_gradient(seed: int) -> None:
    """That of uniform credit with token-mean: weights of mean 1 and 1 / T cancel."""
    policy = Policy(seed=seed)
    exact = policy.gradient(UniformCredit(), "token-mean")
    found = policy.gradient(ValueCredit(), "sequence-mean")
    torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-6)
    assert float(exact.norm()) > 1e-2


@pytest.mark.parametrize("aggregation", ["token-mean", "constant"])
def test_with_token_mean_a_completion_counts_as_often_as_it_has_tokens(
    aggregation: Aggregation,
) -> None:
    """So long completions pull the gradient to their side; not where all are equally long."""
    policy = Policy(seed=1)
    exact = policy.gradient(UniformCredit(), aggregation)
    assert cosine(policy.gradient(ValueCredit(), aggregation), exact) < 0.98
    level = Policy(seed=1, ends=False)
    exact = level.gradient(UniformCredit(), aggregation)
    found = level.gradient(ValueCredit(), aggregation)
    torch.testing.assert_close(found, LONGEST * exact, rtol=1e-4, atol=1e-6)
