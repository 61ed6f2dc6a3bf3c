"""Laws of the noise of the gradient that an update measures."""

from __future__ import annotations

import math

import pytest
import torch

from dgpo_cli.algo.grad_noise import noise_of_halves
from dgpo_cli.engine.batch_metrics import update_metrics
from dgpo_cli.engine.learn import Learner
from dgpo_cli.engine.piece import Update
from dgpo_cli.policy.policy import Policy
from tests.engine import updates
from tests.policy import tiny

EVEN = [0, 1, 2, 6, 7, 8]  # rows of the first and the third of three groups
ADVANTAGES = [1.1, -0.4, -0.7, 0.2, -0.9, 0.7, -0.5, 1.2, 0.3]
Gradients = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def policy() -> Policy:
    return tiny.make_policy(apart=0.05)


def updated(
    policy: Policy, *, noise: bool, updates_per_step: int = 1, advantages: list[float] = ADVANTAGES
) -> tuple[list[Update], Gradients]:
    """Measure a batch and update on it in one pass; return the last gradient."""
    recipe = updates.recipe_of(grad_noise=noise, updates=updates_per_step)
    capture = updates.Capture(policy)
    learner = Learner(policy, capture)
    rows = tiny.rows_of_pairs(updates.PAIRS)
    batch = learner.measure(rows, torch.tensor(advantages), recipe=recipe)
    return learner.update(batch, recipe=recipe), capture.gradients


def norm_of(gradients: Gradients) -> float:
    return math.hypot(*(float(g.double().norm()) for g in gradients.values()))


def test_the_half_is_what_the_even_groups_add(policy: Policy) -> None:
    [update], _ = updated(policy, noise=True)
    even = [a if row in EVEN else 0.0 for row, a in enumerate(ADVANTAGES)]
    half = norm_of(updates.gradient_of(policy, updates.make_batch(policy, advantages=even)))
    assert half > 1e-2 and update.half_norm == pytest.approx(half, rel=1e-5)
    noise = noise_of_halves(update.half_norm, update.grad_norm, groups=3, group_size=3)
    assert noise is not None and update.noise == noise
    metrics = update_metrics([update])
    assert metrics["optim/grad_signal"] == noise.signal
    assert metrics["optim/grad_variance"] == noise.variance


def test_measuring_noise_leaves_the_gradient_as_it_is(policy: Policy) -> None:
    [plain], expected = updated(policy, noise=False)
    [update], found = updated(policy, noise=True)
    updates.assert_same_gradient(found, expected)
    assert update.grad_norm == pytest.approx(plain.grad_norm, rel=1e-5)
    assert plain.half_norm is None and "optim/grad_signal" not in update_metrics([plain])


def test_each_update_has_the_halves_of_its_own_groups(policy: Policy) -> None:
    """Of two updates the first has one group, which says nothing of noise; the second has two."""
    found, _ = updated(policy, noise=True, updates_per_step=2)
    assert [each.noise is not None for each in found] == [False, True]
    assert update_metrics(found)["optim/grad_signal"] == found[1].noise.signal  # type: ignore[union-attr]


def test_a_batch_without_signal_has_neither_signal_nor_variance(policy: Policy) -> None:
    [update], _ = updated(policy, noise=True, advantages=[0.0] * 9)
    assert update.noise is not None and update.noise.signal == update.noise.variance == 0.0
    [half], _ = updated(policy, noise=True, advantages=[0.0] * 3 + [1.1, -0.4, -0.7] + [0.0] * 3)
    assert half.half_norm == 0.0 and half.noise is not None
    assert half.noise.variance < 0 < half.noise.signal  # each is right in the mean alone
