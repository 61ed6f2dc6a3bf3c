"""Token statistics against float64 loops, and the facts that the distance must show."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dgpo_cli.algo.divergence import hellinger_sq, selected_logprobs, token_statistics
from tests.algo import twins

INF = math.inf


def logits(*shape: int, seed: int, scale: float = 3.0) -> torch.Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def exact_distance(policy: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    p = torch.log_softmax(policy.double(), -1).exp().sqrt()
    q = torch.log_softmax(reference.double(), -1).exp().sqrt()
    return 0.5 * (p - q).square().sum(-1)


def test_statistics_equal_the_slow_twin() -> None:
    policy, reference = logits(3, 4, 7, seed=0), logits(3, 4, 7, seed=1)
    ids = torch.randint(7, (3, 4), generator=torch.Generator().manual_seed(2))
    logprobs, entropy, distance = token_statistics(policy, reference, ids)
    for b in range(3):
        for t in range(4):
            p, q = policy[b, t].tolist(), reference[b, t].tolist()
            chosen = math.log(twins.softmax(p)[int(ids[b, t])])
            assert float(logprobs[b, t]) == pytest.approx(chosen, rel=1e-6)
            assert float(entropy[b, t]) == pytest.approx(twins.entropy(p), rel=1e-6)
            assert float(distance[b, t]) == pytest.approx(twins.hellinger_sq(p, q), rel=1e-6)


@pytest.mark.parametrize("width", [2, 3, 64, 5000])
@pytest.mark.parametrize("scale", [1.0, 5.0, 1e4])
@pytest.mark.parametrize("step", [1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0])
def test_distance_keeps_its_digits(width: int, scale: float, step: float) -> None:
    rows = 20_000 // width + 20
    policy = logits(rows, width, seed=width, scale=scale)
    reference = policy + logits(rows, width, seed=width + 1, scale=step * max(1.0, scale / 20))
    reference = reference + logits(rows, 1, seed=3, scale=scale)  # a shift that means nothing
    exact = exact_distance(policy, reference)
    got = hellinger_sq(policy, reference).double()
    near_zero = exact < 1e-6
    assert ((got - exact).abs()[~near_zero] <= 1e-4 * exact[~near_zero]).all()
    assert ((got - exact).abs()[near_zero] <= 1e-10 + 1e-3 * exact[near_zero]).all()


def test_distance_of_a_known_pair() -> None:
    # p = (1/2, 1/2), q = (9/10, 1/10): 1 - sqrt(9/20) - sqrt(1/20)
    policy, reference = torch.zeros(2), torch.tensor([math.log(9.0), 0.0])
    expected = 1 - math.sqrt(0.45) - math.sqrt(0.05)
    assert float(hellinger_sq(policy, reference)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("scale", [1.0, 100.0, 1e4])
def test_equal_models_have_distance_exactly_zero(scale: float) -> None:
    policy = logits(50, 33, seed=4, scale=scale)
    policy[:, 7] = -INF
    _, _, distance = token_statistics(policy, policy.clone(), torch.zeros(50, dtype=torch.int64))
    assert distance.tolist() == [0.0] * 50


def test_memory_layout_does_not_break_equality() -> None:
    policy = logits(19, 7, 5, seed=5)
    strided = policy.transpose(0, 1).contiguous().transpose(0, 1)
    assert not strided.is_contiguous()
    assert hellinger_sq(policy, strided).abs().max() == 0.0


ROWS = hnp.arrays("float32", (2, 6), elements=st.floats(-1e4, 1e4, width=32))
MASKED = st.lists(st.booleans(), min_size=6, max_size=6)


@given(ROWS, MASKED, MASKED)
@settings(max_examples=200, deadline=None)
def test_statistics_stay_in_range_whatever_is_masked(rows, in_policy, in_reference) -> None:  # type: ignore[no-untyped-def]
    pair = torch.from_numpy(rows.copy())
    policy, reference = pair[0], pair[1]
    policy[torch.tensor([False, *in_policy[1:]])] = -INF
    reference[torch.tensor([False, *in_reference[1:]])] = -INF
    logprobs, entropy, distance = token_statistics(policy, reference, torch.tensor(0))
    assert float(logprobs) <= 0.0
    assert 0.0 <= float(entropy) <= math.log(6) + 1e-6
    assert 0.0 <= float(distance) <= 1.0
    assert float(distance) == pytest.approx(float(exact_distance(policy, reference)), abs=1e-6)


def test_disjoint_supports_are_at_distance_one() -> None:
    policy = torch.tensor([0.0, 1.0, -INF, -INF])
    reference = torch.tensor([-INF, -INF, 2.0, 0.0])
    assert float(hellinger_sq(policy, reference)) == pytest.approx(1.0, abs=1e-6)
    far = torch.tensor([1e4, -1e4])
    assert float(hellinger_sq(far, -far)) == 1.0


def test_rounding_never_lifts_the_distance_above_one() -> None:
    policy, reference = logits(2000, 500, seed=21), logits(2000, 500, seed=22)
    policy[:, ::2], reference[:, 1::2] = -INF, -INF
    distance = hellinger_sq(policy, reference)
    assert float(distance.max()) == 1.0
    assert float(distance.min()) > 1 - 1e-6


def test_vocabulary_masked_in_both_changes_nothing() -> None:
    policy, reference = logits(9, 12, seed=6), logits(9, 12, seed=7)
    ids = torch.arange(9)
    pad = torch.full((9, 5), -INF)
    plain = token_statistics(policy, reference, ids)
    padded = token_statistics(torch.cat([policy, pad], 1), torch.cat([reference, pad], 1), ids)
    for a, b in zip(plain, padded, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=0.0)


@pytest.mark.parametrize("shift", [-1e3, 7.25, 1e3])
def test_a_constant_added_to_the_logits_changes_nothing(shift: float) -> None:
    policy, reference = logits(40, 50, seed=8), logits(40, 50, seed=9)
    # Rounded to a grid that the shift does not leave, so that the inputs stay the same.
    policy, reference = (policy * 512).round() / 512, (reference * 512).round() / 512
    ids = torch.arange(40)
    plain = token_statistics(policy, reference, ids)
    moved = token_statistics(policy + shift, reference - shift, ids)
    for a, b in zip(plain, moved, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def test_distance_is_symmetric() -> None:
    policy, reference = logits(30, 20, seed=10), logits(30, 20, seed=11)
    torch.testing.assert_close(
        hellinger_sq(policy, reference), hellinger_sq(reference, policy), rtol=1e-6, atol=0.0
    )


def test_naive_forms_would_fail_the_bar_that_this_one_meets() -> None:
    policy = logits(200, 1000, seed=12, scale=1.0)
    reference = policy + logits(200, 1000, seed=13, scale=3e-3)
    exact = exact_distance(policy, reference)
    assert 1e-6 < float(exact.median()) < 2e-6
    p, q = policy.softmax(-1), reference.softmax(-1)
    naive = 1.0 - (p * q).sqrt().sum(-1)

    def worst(values: torch.Tensor) -> float:
        return float(((values.double() - exact).abs() / exact).max())

    assert worst(hellinger_sq(policy, reference)) < 1e-4
    assert worst(naive) > 1e-2


def test_uniform_and_certain_rows_have_known_entropy() -> None:
    uniform, certain = torch.zeros(1000), torch.full((1000,), -1e4)
    certain[3] = 1e4
    stacked = torch.stack([uniform, certain])
    _, entropy, _ = token_statistics(stacked, None, torch.tensor([3, 3]))
    assert float(entropy[0]) == pytest.approx(math.log(1000), rel=1e-6)
    assert float(entropy[1]) == 0.0


def test_small_entropies_keep_their_digits() -> None:
    rows = [[0.0, -gap] for gap in (5.0, 10.0, 15.0, 20.0)]
    _, entropy, _ = token_statistics(torch.tensor(rows), None, torch.zeros(4, dtype=torch.int64))
    # float32 cannot hold 1 - p below 6e-8: the certain token's share of the entropy is lost there
    expected = [twins.entropy(row) for row in rows]
    assert entropy.tolist() == pytest.approx(expected, rel=0.05, abs=2e-8)


def test_statistics_leave_their_inputs_alone_and_carry_no_gradient() -> None:
    policy = logits(4, 9, seed=14).requires_grad_()
    reference = logits(4, 9, seed=15)
    before = policy.detach().clone(), reference.clone()
    found = token_statistics(policy, reference, torch.arange(4))
    assert not any(value.requires_grad for value in found)
    assert torch.equal(policy.detach(), before[0])
    assert torch.equal(reference, before[1])


def test_without_a_reference_the_distance_is_zero() -> None:
    _, _, distance = token_statistics(
        logits(3, 5, seed=16), None, torch.zeros(3, dtype=torch.int64)
    )
    assert distance.tolist() == [0.0, 0.0, 0.0]


def test_selected_logprobs_are_those_of_the_statistics_bit_for_bit() -> None:
    policy = logits(6, 11, 40, seed=17, scale=20.0)
    ids = torch.randint(40, (6, 11), generator=torch.Generator().manual_seed(18))
    assert torch.equal(selected_logprobs(policy, ids), token_statistics(policy, None, ids)[0])


def test_gradient_of_selected_logprobs_is_one_hot_less_softmax() -> None:
    values = logits(5, 8, seed=19).double().requires_grad_()
    ids = torch.tensor([0, 7, 3, 3, 1])
    assert torch.autograd.gradcheck(lambda x: selected_logprobs(x, ids), (values,))
    selected_logprobs(values, ids).sum().backward()
    expected = torch.nn.functional.one_hot(ids, 8) - values.detach().softmax(-1)
    assert values.grad is not None
    torch.testing.assert_close(values.grad, expected)


def test_bfloat16_logits_are_widened_first() -> None:
    policy = logits(10, 30, seed=20).bfloat16()
    ids = torch.arange(10)
    for a, b in zip(
        token_statistics(policy, policy.flip(0), ids),
        token_statistics(policy.float(), policy.float().flip(0), ids),
        strict=True,
    ):
        assert a.dtype == torch.float32
        assert torch.equal(a, b)
