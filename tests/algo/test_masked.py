"""Masked reductions against plain Python over the kept values."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dgpo_cli.algo.masked import masked_max, masked_mean, masked_quantiles, masked_sum

CELLS = st.tuples(st.floats(-1e3, 1e3, width=32), st.booleans())
TABLES = st.integers(1, 6).flatmap(
    lambda width: st.lists(st.lists(CELLS, min_size=width, max_size=width), min_size=1, max_size=5)
)


def tensors(table: list[list[tuple[float, bool]]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Values with NaN outside the mask, so that any leak shows."""
    values = torch.tensor([[v if kept else math.nan for v, kept in row] for row in table])
    return values, torch.tensor([[kept for _, kept in row] for row in table])


@given(TABLES)
@settings(max_examples=60, deadline=None)
def test_row_reductions_see_only_the_mask(table: list[list[tuple[float, bool]]]) -> None:
    values, mask = tensors(table)
    kept = [[v for v, keep in row if keep] for row in table]
    sums = [math.fsum(row) for row in kept]
    means = [s / len(row) if row else 0.0 for s, row in zip(sums, kept, strict=True)]
    peaks = [max(row, default=0.0) for row in kept]
    assert masked_sum(values, mask, dim=1).tolist() == pytest.approx(sums, rel=1e-5, abs=1e-3)
    assert masked_mean(values, mask, dim=1).tolist() == pytest.approx(means, rel=1e-5, abs=1e-3)
    assert masked_max(values, mask, dim=1).tolist() == peaks


@given(TABLES)
@settings(max_examples=60, deadline=None)
def test_whole_reductions_see_only_the_mask(table: list[list[tuple[float, bool]]]) -> None:
    values, mask = tensors(table)
    kept = [v for row in table for v, keep in row if keep]
    mean = math.fsum(kept) / len(kept) if kept else 0.0
    assert float(masked_mean(values, mask)) == pytest.approx(mean, rel=1e-5, abs=1e-3)
    assert float(masked_max(values, mask)) == max(kept, default=0.0)


@given(TABLES, st.lists(st.floats(0, 1), min_size=1, max_size=4))
@settings(max_examples=60, deadline=None)
def test_quantiles_are_numpys(table: list[list[tuple[float, bool]]], levels: list[float]) -> None:
    values, mask = tensors(table)
    kept = np.array([v for row in table for v, keep in row if keep])
    expected = np.quantile(kept, levels).tolist() if kept.size else [0.0] * len(levels)
    assert masked_quantiles(values, mask, levels=levels) == pytest.approx(expected, abs=1e-9)


@pytest.mark.slow
def test_quantiles_have_no_limit_of_size() -> None:
    values = torch.arange(17_000_000) % 1001  # torch.quantile ends at 2^24 elements
    mask = torch.ones_like(values, dtype=torch.bool)
    assert masked_quantiles(values, mask, levels=(0.0, 0.5, 1.0)) == [0.0, 500.0, 1000.0]


def test_half_precision_is_summed_in_float32() -> None:
    values = torch.full((4096,), 1.0, dtype=torch.bfloat16)
    mask = torch.ones(4096, dtype=torch.bool)
    assert masked_sum(values, mask).dtype == torch.float32
    assert float(masked_sum(values, mask)) == 4096.0  # bfloat16 would stop at 256


def test_gradient_of_a_masked_mean_is_one_over_the_count() -> None:
    values = torch.tensor([[1.0, math.nan, 3.0]], requires_grad=True)
    masked_mean(values, torch.tensor([[True, False, True]])).backward()
    assert values.grad is not None
    assert values.grad.tolist() == [[0.5, 0.0, 0.5]]


def test_nothing_at_all_reduces_to_zero() -> None:
    values, mask = torch.empty(0, 0), torch.empty(0, 0, dtype=torch.bool)
    assert float(masked_sum(values, mask)) == 0.0
    assert float(masked_mean(values, mask)) == 0.0
    assert float(masked_max(values, mask)) == 0.0
    assert masked_quantiles(values, mask, levels=(0.5,)) == [0.0]
