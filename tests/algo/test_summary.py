"""Metrics of the credit against arithmetic written out."""

import math

import numpy as np
import pytest
import torch

from dgpo_cli.algo.summary import credit_metrics, effective_fractions
from dgpo_cli.core.types import Credit, TokenStats

NAN = math.nan


def test_effective_fraction_by_hand() -> None:
    weights = torch.tensor([[1.0, 1.0, 1.0, 1.0], [4.0, 0.0, 0.0, 0.0], [1.5, 0.5, NAN, NAN]])
    mask = ~weights.isnan()
    # (1.5 + 0.5)^2 / (2 * 2.5) = 0.8
    assert effective_fractions(weights, mask).tolist() == pytest.approx([1.0, 0.25, 0.8])


def test_rows_without_tokens_do_not_count_in_the_mean() -> None:
    metrics = some_metrics(lengths=[2, 0, 3], weights=[[1, 1, 0], [0, 0, 0], [3, 0, 0]])
    assert metrics["credit/effective_fraction"] == pytest.approx((1 + 1 / 3) / 2)


def some_metrics(
    *, lengths: list[int], weights: list[list[float]], has_reference: bool = True
) -> dict[str, float]:
    shape = (len(weights), len(weights[0]))
    generator = torch.Generator().manual_seed(0)
    d, entropy = (torch.rand(*shape, generator=generator) for _ in range(2))
    mask = torch.arange(shape[1]) < torch.tensor(lengths).unsqueeze(1)
    stats = TokenStats(
        torch.zeros(shape), entropy.masked_fill(~mask, NAN), d.masked_fill(~mask, NAN)
    )
    credit = Credit(scores=d * entropy, weights=torch.tensor(weights).float())
    return credit_metrics(stats, credit, mask, vocab_size=50, has_reference=has_reference)


def test_metrics_are_those_of_the_tokens_alone() -> None:
    lengths, weights = [2, 4], [[0.5, 1.5, 9.0, 9.0], [1.0, 2.0, 0.25, 0.75]]
    metrics = some_metrics(lengths=lengths, weights=weights)
    generator = torch.Generator().manual_seed(0)
    d, entropy = (torch.rand(2, 4, generator=generator).numpy() for _ in range(2))
    kept = np.array([[True, True, False, False], [True] * 4])
    columns = {
        "credit/weight": np.array(weights)[kept],
        "credit/score": (d * entropy)[kept],
        "policy/gate": entropy[kept] / math.log(50),
        "policy/hellinger_sq": d[kept],
    }
    for name, values in columns.items():
        for suffix, level in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0)):
            expected = float(np.quantile(values, level))
            assert metrics.pop(f"{name}_{suffix}") == pytest.approx(expected, rel=1e-5)
    assert metrics.pop("policy/hellinger_sq_mean") == pytest.approx(d[kept].mean(), rel=1e-5)
    assert metrics.pop("policy/entropy") == pytest.approx(entropy[kept].mean(), rel=1e-5)
    # rows: (2)^2 / (2 * 2.5) and (4)^2 / (4 * (1 + 4 + 1/16 + 9/16))
    expected = (4 / 5 + 16 / (4 * 5.625)) / 2
    assert metrics.pop("credit/effective_fraction") == pytest.approx(expected)
    squares = [0.5**2, 0.5**2, 0.0, 1.0, 0.75**2, 0.25**2]  # (w - 1)^2
    assert metrics.pop("credit/weight_cv") == pytest.approx(math.sqrt(sum(squares) / 6))
    assert not metrics


def test_without_a_reference_no_distance_is_reported() -> None:
    metrics = some_metrics(lengths=[2], weights=[[1.0, 1.0]], has_reference=False)
    assert not [name for name in metrics if "hellinger" in name]
    assert metrics["credit/weight_max"] == 1.0


def test_credit_of_no_completion_is_unknown_and_not_zero() -> None:
    mask = torch.ones(2, 3, dtype=torch.bool)
    numbers = torch.rand(2, 3)
    stats = TokenStats(old_logprobs=-numbers, entropy=numbers, hellinger_sq=numbers)
    credit = Credit(scores=numbers, weights=torch.ones(2, 3))
    rows = torch.zeros(2, dtype=torch.bool)
    metrics = credit_metrics(stats, credit, mask, vocab_size=10, rows=rows)
    for name, value in metrics.items():
        unknown = name.startswith(("credit/", "policy/hellinger_sq"))
        assert math.isnan(value) == unknown, name
    assert metrics["policy/entropy"] == pytest.approx(float(numbers.mean()))


def test_whether_d_is_noise_is_told_where_the_noise_was_measured() -> None:
    mask = torch.ones(1, 4).bool()
    distance = torch.tensor([[1e-6, 2e-6, 0.0, 5e-6]])
    credit = Credit(scores=distance, weights=torch.ones(1, 4))
    found = {}
    for floor in (None, 1e-7, 1e-5):
        stats = TokenStats(torch.zeros(1, 4), torch.ones(1, 4), distance, noise_floor=floor)
        metrics = credit_metrics(stats, credit, mask, vocab_size=50)
        found[floor] = metrics.get("policy/hellinger_sq_is_noise")
    assert found == {None: None, 1e-7: 0.0, 1e-5: 1.0}


def test_credit_is_told_of_the_completions_that_the_rule_weighs() -> None:
    mask = torch.ones(3, 2, dtype=torch.bool)
    weights = torch.tensor([[0.5, 1.5], [1.0, 1.0], [1.0, 1.0]])
    distance = torch.tensor([[0.1, 0.3], [0.5, 0.7], [9.0, 9.0]])
    stats = TokenStats(torch.zeros(3, 2), torch.ones(3, 2), distance)
    metrics = credit_metrics(
        stats,
        Credit(scores=distance, weights=weights),
        mask,
        vocab_size=50,
        rows=torch.tensor([True, True, False]),
        weighed=torch.tensor([True, False, True]),
    )
    assert metrics["credit/effective_fraction"] == pytest.approx(0.8)
    assert metrics["credit/weight_p50"] == 1.0 and metrics["credit/weight_cv"] == 0.5
    assert metrics["credit/score_max"] == pytest.approx(0.3)
    assert metrics["policy/hellinger_sq_max"] == pytest.approx(0.7)
    assert metrics["policy/hellinger_sq_mean"] == pytest.approx(0.4)
