"""Laws of benchmarks/truth_tables.py, with planted weights and gradients."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from benchmarks import truth_tables as tables
from dgpo_cli.core.types import ValueCurve, ValuePoint

WIDTH, STEPS = 40, 80


def planted(means: Tensor, *, spread: float, seed: int = 0) -> Tensor:
    """Return the gradients of steps, [STEPS, R, WIDTH], with noise that the rules do not share."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(STEPS, *means.shape, generator=generator, dtype=torch.float64)
    return means + spread * noise


def numbers(batches: Tensor) -> list[dict[str, float]]:
    return tables.Gradients(batches, uniform=0).of(torch.ones(STEPS, dtype=torch.float64))


def test_cosine_and_noise_are_those_that_were_planted() -> None:
    truth, across = torch.zeros(2, WIDTH, dtype=torch.float64)
    truth[0] = across[1] = 1.0
    means = torch.stack([truth, 2.0 * truth, 0.6 * truth + 0.8 * across])
    found = numbers(planted(means, spread=0.3))
    assert [n["cosine"] for n in found] == pytest.approx([1.0, 1.0, 0.6], abs=0.05)
    assert found[2]["bias"] == pytest.approx(0.8, abs=0.05)
    trace = 0.09 * WIDTH
    assert [n["noise"] for n in found] == pytest.approx([trace, trace / 4, trace], rel=0.1)
    expected = [c / math.sqrt(1 + n) for c, n in ((1, trace), (1, trace / 4), (0.6, trace))]
    assert [n["step"] for n in found] == pytest.approx(expected, rel=0.1)
    assert [n["over"] for n in found] == pytest.approx([e / expected[0] for e in expected], rel=0.1)


def test_noise_alone_is_not_taken_for_a_mean() -> None:
    """Products of different steps are 0 in the mean, however large the noise."""
    pairs = 1.0 - torch.eye(STEPS, dtype=torch.float64)
    signals = []
    for seed in range(20):
        batches = planted(torch.zeros(1, WIDTH, dtype=torch.float64), spread=1.0, seed=seed)
        itself = tables.Gradients(batches, uniform=0)._with_itself[0]
        signals.append(float((itself * pairs).sum() / pairs.sum()))
    assert abs(sum(signals) / 20) < 3 * float(torch.tensor(signals).std()) / math.sqrt(20)
    assert min(signals) < 0 < max(signals)


def test_a_gradient_of_no_tokens_has_no_numbers() -> None:
    batches = planted(torch.ones(2, WIDTH, dtype=torch.float64), spread=0.3)
    batches[:, 1] = 0.0
    table = tables.gradient_table(batches, specs=["uniform", "right, s > 0.7"])
    found = table["rules"]["right, s > 0.7"]
    assert all(math.isnan(value) for value, _ in found.values())
    assert table["rules"]["uniform"]["over"] == (1.0, 0.0)


def completion(moves: list[float], *, right: bool) -> tables.Completion:
    return tables.Completion(
        right=right,
        advantage=0.2 if right else -0.8,
        moves=torch.tensor(moves),
        sure=torch.tensor(moves).abs() > 0.15,
        products=torch.diag(torch.tensor([0.01, 4.0, 0.01, 0.01])),
    )


def test_numbers_of_weights_are_arithmetic() -> None:
    own = completion([0.1, -0.9, 0.0, 0.0], right=False)
    assert own.numbers(torch.ones(4)) == pytest.approx(
        {"moved": 1.0, "decider": 1.0, "rank": 1.0, "first": 0.0, "pull": 2.0 / 0.575, "1st": 1.0,
         "cos": 0.8 / (2 * math.hypot(0.1, 0.9))}
    )  # fmt: skip
    found = own.numbers(torch.tensor([0.4, 2.8, 0.4, 0.4]))
    assert found["moved"] == pytest.approx(2.8) and found["decider"] == pytest.approx(2.8)
    assert (found["rank"], found["first"], found["1st"]) == (1.0, 1.0, 1.0)
    assert found["corr"] == pytest.approx(math.sqrt(2 / 3))  # of ranks 1 3 1 1 and 2 3 0.5 0.5


def test_a_right_completion_has_no_decider_and_its_cosine_the_sign_of_its_advantage() -> None:
    found = completion([0.0, 0.2, 0.0, 0.0], right=True).numbers(torch.tensor([1.0, 3.0, 0.0, 0.0]))
    assert found.keys() == {"moved", "corr", "cos"}
    assert found["cos"] == pytest.approx(3 / math.sqrt(10))


def test_the_size_of_a_gradient_counts_what_its_tokens_share() -> None:
    gradients = torch.tensor([[1.0, 2.0, 0.0], [0.5, -1.0, 2.0]])
    moves = torch.tensor([0.3, -0.8])
    own = tables.Completion(
        False, -0.5, moves, torch.zeros(2, dtype=torch.bool), gradients @ gradients.T
    )
    even, exact = -0.5 * (gradients[0] + gradients[1]), 0.3 * gradients[0] - 0.8 * gradients[1]
    assert own.sizes == pytest.approx((float(even @ even), float(exact @ exact)))


def test_a_move_is_sure_when_it_is_large_and_its_interval_leaves_out_zero() -> None:
    def curve(*points: tuple[int, float, float, float]) -> ValueCurve:
        return ValueCurve(tuple(ValuePoint(*point, count=64) for point in points))

    apart = curve((0, 0.9, 0.8, 0.95), (1, 0.1, 0.05, 0.2), (2, 0.0, 0.0, 0.0))
    assert tables.sure(apart) == [True, False]
    unsure = curve((0, 0.6, 0.3, 0.8), (1, 0.4, 0.2, 0.7), (2, 1.0, 1.0, 1.0))
    assert tables.sure(unsure) == [False, True]
    # Between points that are several tokens apart nobody knows which of them it was.
    assert tables.sure(curve((0, 0.9, 0.8, 0.95), (3, 0.0, 0.0, 0.0))) == [False] * 3
