"""The token pass against a float64 twin: accuracy near 0, extremes, tiles, dtypes, gradients."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dgpo_cli.core.errors import ModelError
from dgpo_cli.policy.head import Head
from dgpo_cli.policy.token_pass import Tiles, TokenColumns, token_pass
from tests.policy.token_cases import (
    CUTS,
    DTYPES,
    FORMS,
    head_of,
    noise,
    random_case,
    twin,
    twin_logits,
)

INF = math.inf


def of_logits(p: Tensor, q: Tensor, ids: Tensor, tiles: Tiles | None = None) -> TokenColumns:
    """Run the pass on given logits [N, V], without a rounding of products: one token's row is
    the bias of a head of its own, and the hidden state is 0."""
    rows = []
    for i in range(len(p)):
        zero = torch.zeros(p.shape[1], 1)
        row = token_pass(
            torch.zeros(1, 1),
            torch.zeros(1, 1),
            head=head_of(zero, p[i]),
            reference_head=head_of(zero, q[i]),
            ids=ids[i : i + 1],
            temperature=1.0,
            want_reference_logprobs=True,
            tiles=tiles,
        )
        assert row.reference_logprobs is not None
        rows.append((row.logprobs, row.entropy, row.hellinger_sq, row.reference_logprobs))
    return TokenColumns(*(torch.cat(column) for column in zip(*rows, strict=True)))


def assert_near(found: TokenColumns, exact: TokenColumns, *, rtol: float = 1e-4) -> None:
    for name in ("logprobs", "entropy", "reference_logprobs"):
        values, want = getattr(found, name), getattr(exact, name)
        assert values.dtype == torch.float32
        # The relative part is half a unit in the last place: it counts from thousands of nats up.
        torch.testing.assert_close(values.double(), want, rtol=6e-8, atol=1e-5, msg=name)
    d, want = found.hellinger_sq.double(), exact.hellinger_sq
    assert ((d >= 0) & (d <= 1)).all()
    assert ((d - want).abs() <= rtol * want.clamp(min=1e-6)).all()


@pytest.mark.parametrize("tiles", [None, *CUTS])
@pytest.mark.parametrize("step", [1e-4, 3e-3, 1e-2, 0.1, 1.0, 10.0])
def test_the_distance_keeps_its_digits(step: float, tiles: Tiles | None) -> None:
    p = noise(12, 60, seed=1, scale=3.0)
    q = p + noise(12, 60, seed=2, scale=step) + noise(12, 1, seed=3, scale=4.0)
    ids = torch.arange(12)
    assert_near(of_logits(p, q, ids, tiles), twin(p.double(), q.double(), ids))


@pytest.mark.parametrize("columns", [1, 2, 3, 1000])
@pytest.mark.parametrize("width", [2, 3, 5])
def test_few_entries_are_the_hardest_and_stay_within_the_bar(width: int, columns: int) -> None:
    p = noise(200, width, seed=width)
    q = p + noise(200, width, seed=width + 9, scale=6e-3)
    ids = torch.zeros(200, dtype=torch.int64)
    assert_near(of_logits(p, q, ids, Tiles(1, columns, 1)), twin(p.double(), q.double(), ids))


def test_a_first_tile_that_says_nothing_of_the_rest_costs_no_digits() -> None:
    """Its tokens are improbable and far apart in the two models, all others are near."""
    p, q = noise(20, 64, seed=4), noise(20, 64, seed=5)
    q[:, 8:] = p[:, 8:] + noise(20, 56, seed=6, scale=4e-3)
    p[:, :8] -= 18.0
    q[:, :8] -= 16.0
    exact = twin(p.double(), q.double(), torch.full((20,), 9))
    assert float(exact.hellinger_sq.max()) < 4e-6
    assert_near(of_logits(p, q, torch.full((20,), 9), Tiles(1, 8, 1)), exact)


EXTREMES = {
    "one-hot equal": ([1e4, -1e4, -1e4, -1e4, -1e4], [1e4, -1e4, -1e4, -1e4, -1e4]),
    "one-hot different": ([1e4, -1e4, -1e4, -1e4, -1e4], [-1e4, -1e4, -1e4, -1e4, 1e4]),
    "disjoint": ([0.0, 1.0, -INF, -INF, -INF], [-INF, -INF, 2.0, 0.0, 1.0]),
    "far and flat": ([1e4, 1e4, 1e4, 1e4, 1e4], [-1e4, -1e4, -1e4, -1e4, -1e4]),
    "masked first": ([-INF, -INF, 0.5, 1.0, 2.0], [-INF, -INF, 1.5, 1.0, 0.0]),
    "masked middle": ([0.5, 1.0, -INF, -INF, 2.0], [1.5, 1.0, -INF, -INF, 0.0]),
    "masked last": ([0.5, 1.0, 2.0, -INF, -INF], [1.5, 1.0, 0.0, -INF, -INF]),
    "masked in one": ([0.5, -INF, 2.0, 1.0, -INF], [-INF, 1.0, 0.0, -INF, 2.0]),
    "late spike": ([0.0, 0.5, -0.5, 0.0, 300.0], [0.0, 0.5, -0.5, 0.0, 0.25]),
    "late spikes": ([0.0, 0.5, -0.5, 0.0, 300.0], [0.0, 0.5, -0.5, 9e3, 9e3]),
}


@pytest.mark.parametrize("columns", [1, 2, 4, 5])
@pytest.mark.parametrize("name", EXTREMES)
def test_extremes(name: str, columns: int) -> None:
    p, q = (torch.tensor([row]).repeat(5, 1) for row in EXTREMES[name])
    ids = torch.arange(5)
    found = of_logits(p, q, ids, Tiles(1, columns, 1))
    assert_near(found, twin(p.double(), q.double(), ids), rtol=1e-6)
    if "different" in name or name == "disjoint":
        # Two units below 1 are the rounding of the length of h.
        assert min(found.hellinger_sq.tolist()) >= 1.0 - 2**-23
    if name in ("one-hot equal", "far and flat"):
        assert found.hellinger_sq.tolist() == [0.0] * 5


@pytest.mark.parametrize("shift", [-1e4, 1e4])
def test_a_constant_added_to_the_logits_changes_nothing(shift: float) -> None:
    """On a grid that the shift does not leave, so that the inputs stay the same."""
    p = (noise(8, 40, seed=7) * 512).round() / 512
    q = p + (noise(8, 40, seed=8) * 16).round() / 512
    ids = torch.arange(8)
    assert_near(of_logits(p + shift, q - shift, ids), twin(p.double(), q.double(), ids))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", FORMS)
def test_every_dtype_and_form_of_head(
    form: tuple[float, float | None, bool], dtype: torch.dtype
) -> None:
    hidden, other, head, second, ids = random_case(37, 24, 211, form, dtype)
    exact = twin(twin_logits(hidden, head, 0.8), twin_logits(other, second, 0.8), ids)
    for tiles in (None, *CUTS):
        found = token_pass(
            hidden,
            other,
            head=head,
            reference_head=second,
            ids=ids,
            temperature=0.8,
            want_reference_logprobs=True,
            tiles=tiles,
        )
        assert_near(found, exact)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 8, 5), (37, 24, 211), (200, 33, 3000), (1100, 16, 1500)])
def test_equal_inputs_have_a_distance_of_exactly_zero(
    shape: tuple[int, int, int], dtype: torch.dtype
) -> None:
    for form in FORMS:
        hidden, _, head, _, ids = random_case(*shape, form, dtype)
        copy = Head(head.weight.clone(), head.bias, head.scale, head.softcap)
        for other in (None, head, copy):
            found = token_pass(
                hidden, hidden.clone(), head=head, reference_head=other, ids=ids, temperature=0.7
            )
            assert not found.hellinger_sq.any()
            assert found.entropy.all()


@given(
    count=st.integers(0, 20),
    width=st.integers(1, 9),
    vocab=st.integers(2, 90),
    cut=st.tuples(st.integers(1, 24), st.integers(1, 99), st.integers(1, 24)),
    form=st.sampled_from(FORMS),
    dtype=st.sampled_from(DTYPES),
)
@settings(max_examples=150, deadline=None)
def test_any_shape_and_any_tiles(
    count: int,
    width: int,
    vocab: int,
    cut: tuple[int, int, int],
    form: tuple[float, float | None, bool],
    dtype: torch.dtype,
) -> None:
    hidden, other, head, second, ids = random_case(count, width, vocab, form, dtype)
    whole, cut_up = (
        token_pass(
            hidden,
            other,
            head=head,
            reference_head=second,
            ids=ids,
            temperature=1.3,
            want_reference_logprobs=True,
            tiles=tiles,
        )
        for tiles in (None, Tiles(*cut))
    )
    exact = twin(twin_logits(hidden, head, 1.3), twin_logits(other, second, 1.3), ids)
    # Logits themselves are rounded; where d is small that is more than the pass adds.
    assert_near(whole, exact, rtol=1e-3)
    for name in ("logprobs", "entropy", "hellinger_sq", "reference_logprobs"):
        a, b = getattr(whole, name), getattr(cut_up, name)
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6, msg=name)


LOGITS = st.floats(-1e4, 1e4, width=32)
ROW = st.lists(st.tuples(LOGITS, LOGITS, st.booleans(), st.booleans()), min_size=1, max_size=9)


@given(row=ROW, columns=st.integers(1, 9))
@settings(max_examples=300, deadline=None)
def test_whatever_the_logits_the_numbers_are_right(
    row: list[tuple[float, float, bool, bool]], columns: int
) -> None:
    row = [(0.5, -0.5, True, True), *row]  # something is left in both
    p = torch.tensor([[a if keep else -INF for a, _, keep, _ in row]])
    q = torch.tensor([[b if keep else -INF for _, b, _, keep in row]])
    ids = torch.tensor([len(row) - 1])
    found = of_logits(p, q, ids, Tiles(1, columns, 1))
    exact = twin(p.double(), q.double(), ids)
    torch.testing.assert_close(found.logprobs.double(), exact.logprobs, rtol=1e-7, atol=1e-5)
    torch.testing.assert_close(found.entropy.double(), exact.entropy, rtol=0, atol=1e-5)
    assert 0.0 <= float(found.hellinger_sq) <= 1.0
    torch.testing.assert_close(found.hellinger_sq.double(), exact.hellinger_sq, rtol=0, atol=1e-6)


def test_without_a_reference_the_distance_is_zero_and_the_rest_the_same() -> None:
    hidden, other, head, second, ids = random_case(9, 8, 50, FORMS[0], torch.float32)
    both = token_pass(hidden, other, head=head, reference_head=second, ids=ids, temperature=1.0)
    alone = token_pass(
        hidden,
        None,
        head=head,
        reference_head=None,
        ids=ids,
        temperature=1.0,
        want_reference_logprobs=True,
    )
    assert torch.equal(alone.logprobs, both.logprobs) and torch.equal(alone.entropy, both.entropy)
    assert not alone.hellinger_sq.any() and both.hellinger_sq.all()
    assert alone.reference_logprobs is None and both.reference_logprobs is None


def test_heads_of_two_vocabularies_are_refused() -> None:
    hidden = torch.zeros(2, 4)
    heads = head_of(torch.zeros(7, 4)), head_of(torch.zeros(8, 4))
    ids = torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ModelError, match="7 logits and the reference 8"):
        token_pass(hidden, hidden, head=heads[0], reference_head=heads[1], ids=ids, temperature=1.0)
