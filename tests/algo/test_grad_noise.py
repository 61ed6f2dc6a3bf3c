"""Laws of the noise of a gradient, with planted gradients whose mean and variance are known."""

from __future__ import annotations

import itertools
import math
import random

import pytest

from dgpo_cli.algo.grad_noise import GradNoise, first_half, noise_of_halves, noise_scale

POPULATION = [(1.0, 0.5), (-0.3, 2.0), (0.9, -1.1)]  # equally likely gradients of a group
MEAN = [sum(column) / len(POPULATION) for column in zip(*POPULATION, strict=True)]
SIGNAL = sum(m * m for m in MEAN)
VARIANCE = sum((x - m) ** 2 for row in POPULATION for x, m in zip(row, MEAN, strict=True)) / 3


def norm(rows: tuple[tuple[float, ...], ...], *, count: int) -> float:
    return math.hypot(*(sum(column) / count for column in zip(*rows, strict=True)))


@pytest.mark.parametrize("groups", [2, 3, 5])
@pytest.mark.parametrize("group_size", [1, 4])
def test_both_estimates_are_unbiased(groups: int, group_size: int) -> None:
    """The mean over every batch that can be drawn is the truth, for odd numbers of groups, too."""
    found = []
    for drawn in itertools.product(POPULATION, repeat=groups):
        half = norm(drawn[: first_half(groups)], count=groups)
        noise = noise_of_halves(
            half, norm(drawn, count=groups), groups=groups, group_size=group_size
        )
        assert noise is not None
        found.append(noise)
    assert sum(n.signal for n in found) / len(found) == pytest.approx(SIGNAL)
    # A batch of n completions has the variance of one over n.
    assert sum(n.variance for n in found) / len(found) == pytest.approx(VARIANCE * group_size)


def test_equal_groups_have_no_noise() -> None:
    assert noise_of_halves(1.0, 2.0, groups=4, group_size=8) == GradNoise(4.0, 0.0)


def test_one_group_says_nothing_of_noise() -> None:
    assert noise_of_halves(1.0, 1.0, groups=1, group_size=8) is None


def test_the_noise_scale_of_many_steps_is_that_of_the_population() -> None:
    rng = random.Random(1)
    lines: list[dict[str, float | None]] = [{"reward/mean": 0.5}, {"optim/grad_signal": None}]
    for _ in range(20000):
        drawn = tuple(rng.choices(POPULATION, k=4))
        noise = noise_of_halves(
            norm(drawn[:2], count=4), norm(drawn, count=4), groups=4, group_size=1
        )
        assert noise is not None
        lines.append({"optim/grad_signal": noise.signal, "optim/grad_variance": noise.variance})
    assert noise_scale(lines) == pytest.approx(VARIANCE / SIGNAL, rel=0.05)


def test_without_measurements_there_is_no_noise_scale_and_without_signal_no_end_of_it() -> None:
    assert noise_scale([{"optim/grad_norm": 1.0}]) is None
    below = {"optim/grad_signal": -0.1, "optim/grad_variance": 2.0}
    assert noise_scale([below]) == math.inf
