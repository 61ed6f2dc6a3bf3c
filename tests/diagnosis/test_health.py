"""What is said of a step whose credit is GRPO's, and how often."""

from __future__ import annotations

import math

import pytest
import torch

from dgpo_cli.algo.credit import DgpoCredit, EntropyCredit, UniformCredit
from dgpo_cli.algo.credit.target import NEAR, NOISE_SHARE, is_noise
from dgpo_cli.core.types import TokenStats
from dgpo_cli.diagnosis.health import CreditHealth, TauHealth


def metrics(fraction: float, *, largest: float = 1e-3, p99: float = 1e-4, **more: float) -> dict:  # type: ignore[type-arg]
    return {
        "credit/effective_fraction": fraction,
        "policy/hellinger_sq_max": largest,
        "policy/hellinger_sq_p99": p99,
        **more,
    }


def said(*steps: dict, noise_floor: float | None = 1e-12) -> list[int]:  # type: ignore[type-arg]
    """The numbers of the steps, from 0, of which something was said."""
    health = CreditHealth()
    lines = [health.line(step, noise_floor=noise_floor) for step in steps]
    return [number for number, line in enumerate(lines) if line is not None]


def test_it_is_said_when_it_becomes_true_and_not_at_every_step() -> None:
    even, uneven = metrics(0.99999), metrics(0.9)
    assert said(even, even, even) == [0]
    assert said(uneven, even, even, uneven, uneven, even, even) == [1, 5]
    assert said(uneven, uneven) == []


def test_a_run_on_the_edge_says_it_once() -> None:
    above, below = metrics(0.9991), metrics(0.9989)
    assert said(above, below, above, below, above) == [0]


def test_nothing_is_said_before_the_policy_has_moved_or_where_nothing_is_known() -> None:
    still = metrics(1.0, largest=0.0)
    unknown = metrics(math.nan, largest=math.nan)
    assert said(still, unknown, {"credit/effective_fraction": 1.0}) == []
    assert said(still, metrics(1.0), unknown, metrics(1.0)) == [1]


@pytest.mark.parametrize(
    ("step", "noise_floor", "end"),
    [
        (
            metrics(0.99999),
            1e-12,
            "effective token fraction 0.99999; a smaller credit.tau moves it",
        ),
        (
            metrics(0.99999994),
            None,
            "effective token fraction 0.9999999; a smaller credit.tau moves it",
        ),
        (
            metrics(0.99999, p99=1e-5),
            6e-5,
            "d (99% below 1.0e-05) is within its noise (6.0e-05): the policy has hardly moved",
        ),
        (
            metrics(1.0, largest=5e-10, p99=0.0),
            6e-5,
            "effective token fraction 1.00000; d (0 at 99% of the tokens) is within its noise "
            "(6.0e-05): the policy has hardly moved",
        ),
        (
            metrics(0.9995, **{"credit/held_by_noise": 0.75, "credit/held_by_cap": 0.1}),
            1e-12,
            "0.99950; the noise of d holds tau up in 75% of the completions",
        ),
        (
            metrics(0.9995, **{"credit/held_by_noise": 0.0, "credit/held_by_cap": 0.9}),
            1e-12,
            "0.99950; credit.max_weight holds tau up in 90% of the completions",
        ),
        (
            metrics(0.999, **{"credit/held_by_noise": 0.0}),  # a target of 0.999
            1e-12,
            "effective token fraction 0.99900; a smaller credit.target_ess moves it",
        ),
    ],
)
def test_the_line_names_what_to_look_at(
    step: dict[str, float], noise_floor: float | None, end: str
) -> None:
    line = CreditHealth().line(step, noise_floor=noise_floor)
    assert line is not None
    assert line.startswith("credit is GRPO's at this step: ") and line.endswith(end)


def test_d_is_noise_up_to_a_few_floors_and_not_where_it_is_0() -> None:
    floor = 6e-5
    assert is_noise(1e-9, noise_floor=floor) and is_noise(0.99 * NEAR * floor, noise_floor=floor)
    assert not is_noise(NEAR * floor, noise_floor=floor)
    assert not is_noise(0.0, noise_floor=floor)  # equal models
    assert not is_noise(1e-9, noise_floor=None) and not is_noise(math.nan, noise_floor=floor)


@pytest.mark.parametrize("kappa", [0.0, 1.0, 2.0])
def test_a_tau_is_too_small_where_rounding_alone_moves_weights(kappa: float) -> None:
    """Two tokens whose true d is 0, one with d of the floor: w is 1 for both, and they differ."""
    floor, gate = 6e-5, 0.3
    step = {"policy/gate_p99": gate}
    least = floor * gate**kappa / NOISE_SHARE
    for tau, told in ((0.9 * least, True), (1.1 * least, False)):
        rule = DgpoCredit(tau=tau, kappa=kappa)
        line = TauHealth(rule).line(step, noise_floor=floor)
        assert (line is not None) is told
        entropy = gate * math.log(50) * torch.ones(1, 2)
        stats = TokenStats(torch.zeros(1, 2), entropy, torch.tensor([[0.0, floor]]))
        weights = rule.credit(stats, torch.ones(1, 2).bool(), vocab_size=50).weights[0]
        assert (float((weights[1] / weights[0]).log()) > NOISE_SHARE) is told


def test_a_tau_that_acts_on_rounding_is_told_once_with_one_that_does_not() -> None:
    health = TauHealth(DgpoCredit(tau=1e-5))
    step = {"policy/gate_p99": 0.2}
    assert health.line(step, noise_floor=None) is None  # not measured yet
    said = health.line(step, noise_floor=6e-5)
    assert said is not None and said.startswith(
        "credit.tau=1e-05 acts on rounding: d has an error of"
    )
    # log w moves by 6e-5 * 0.2 / 1e-5 = 1.2
    assert "a factor of up to 3.3; set credit.tau to 0.0005 or more" in said
    assert health.line(step, noise_floor=6e-5) is None
    far = TauHealth(DgpoCredit(tau=1e-12)).line(step, noise_floor=6e-5)
    assert far is not None and "up to 1e+43 and more" in far


def test_a_tau_that_is_found_or_a_rule_without_distances_is_not_warned_about() -> None:
    step = {"policy/gate_p99": 0.2}
    for rule in (DgpoCredit(tau=1e-9, target_ess=0.9), UniformCredit(), EntropyCredit()):
        assert TauHealth(rule).line(step, noise_floor=6e-5) is None
    assert TauHealth(DgpoCredit(tau=1e-9)).line({}, noise_floor=6e-5) is None
