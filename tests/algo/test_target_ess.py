"""A tau that is found for an effective fraction: the slow twin, the bounds, and what must hold."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dgpo_cli.algo.credit import DgpoCredit
from dgpo_cli.algo.credit.target import ASSUMED_NOISE, NOISE_SHARE
from dgpo_cli.algo.summary import credit_metrics, effective_fractions
from dgpo_cli.core.types import LIMITS, Credit, TokenStats
from tests.algo import twins

VOCAB = 100
LENGTHS = [40, 7, 200, 1, 0, 93]
HIGHEST_CAP = 1e9
SCALES = st.floats(-9, -0.5).map(lambda x: 10.0**x)


def batch(
    lengths: list[int] = LENGTHS,
    *,
    scale: float = 1e-3,
    seed: int = 0,
    noise_floor: float | None = 0.0,
) -> tuple[TokenStats, Tensor]:
    """Distances as training has them: most tokens near 0, few far; NaN outside the mask."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(lengths), max(lengths))
    d = torch.rand(*shape, generator=generator).pow(6) * scale
    entropy = torch.rand(*shape, generator=generator).pow(2) * math.log(VOCAB)
    mask = torch.arange(shape[1]) < torch.tensor(lengths).unsqueeze(1)
    d[~mask], entropy[~mask] = math.nan, math.nan
    return TokenStats(torch.zeros(shape), entropy, d, noise_floor), mask


def made(rule: DgpoCredit, stats: TokenStats, mask: Tensor, **changes: Any) -> Credit:
    return rule.credit(stats, mask, vocab_size=VOCAB, **changes)


def fractions(credit: Credit, mask: Tensor) -> list[float]:
    return effective_fractions(credit.weights, mask)[mask.any(dim=1)].tolist()


def held_by(credit: Credit) -> list[str]:
    assert credit.limit is not None
    return [LIMITS[code] for code in credit.limit.tolist()]


def taus(credit: Credit) -> list[float]:
    assert credit.tau is not None
    return [float(tau) for tau in credit.tau]


@given(SCALES, st.floats(0.05, 0.999), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_the_target_is_reached_where_scores_differ(scale: float, target: float, seed: int) -> None:
    lengths = [40, 7, 200, 93]
    stats, mask = batch(lengths, scale=scale, seed=seed)
    rule = DgpoCredit(target_ess=target, max_weight=HIGHEST_CAP)
    credit = made(rule, stats, mask)
    for length, found in zip(lengths, fractions(credit, mask), strict=True):
        assert found == pytest.approx(max(target, 1 / length), abs=1e-3)


@given(SCALES, st.floats(0.05, 0.999), st.floats(1.5, 30), st.sampled_from([0.0, 1e-13, 1e-6]))
@settings(max_examples=40, deadline=None)
def test_tau_equals_the_slow_twins(scale: float, target: float, cap: float, noise: float) -> None:
    lengths = [30, 5, 60]
    stats, mask = batch(lengths, scale=scale, noise_floor=noise)
    credit = made(DgpoCredit(target_ess=target, max_weight=cap), stats, mask)
    for row, length in enumerate(lengths):
        scores = credit.scores[row, :length].tolist()
        d = stats.hellinger_sq[row, :length].tolist()
        h = [x / math.log(VOCAB) for x in stats.entropy[row, :length].tolist()]
        wander = max(b * (2 * math.sqrt(a * noise) + noise) for a, b in zip(d, h, strict=True))
        expected = twins.smallest_tau(
            [scores], fraction=target, cap=cap, floor=max(wander / 0.05, 1e-30)
        )
        if max(scores) / expected < 1e6:  # float32 scores say no more of a smaller one
            assert taus(credit)[row] == pytest.approx(expected, rel=1e-4)


def test_weights_are_those_of_the_tau_that_is_reported() -> None:
    stats, mask = batch()
    credit = made(DgpoCredit(target_ess=0.7, kappa=0.5), stats, mask)
    for row, tau in enumerate(taus(credit)):
        plain = made(DgpoCredit(tau=1.0 if math.isnan(tau) else tau, kappa=0.5), stats, mask)
        torch.testing.assert_close(credit.weights[row], plain.weights[row], rtol=1e-5, atol=0.0)


def test_over_a_batch_the_mean_of_the_completions_is_the_target() -> None:
    stats, mask = batch()
    credit = made(DgpoCredit(target_ess=0.8, target_ess_over="batch"), stats, mask)
    found = fractions(credit, mask)
    assert sum(found) / len(found) == pytest.approx(0.8, abs=1e-3)
    assert max(found) - min(found) > 0.05
    rows = [credit.scores[i, :n].tolist() for i, n in enumerate(LENGTHS) if n]
    expected = twins.smallest_tau(rows, fraction=0.8, cap=10.0, floor=1e-30)
    assert taus(credit)[:3] + taus(credit)[5:] == pytest.approx([expected] * 4, rel=1e-5)
    assert math.isnan(taus(credit)[3]) and math.isnan(taus(credit)[4])  # of one token, and of none


def test_a_row_that_the_cap_holds_does_not_hold_the_batch() -> None:
    """Its tau alone is higher; the others make up for it."""
    stats, mask = batch([40, 90, 200])
    stats.hellinger_sq[1, 17] = 1.0  # one token that would take it all
    credit = made(DgpoCredit(target_ess=0.8, target_ess_over="batch", max_weight=6.0), stats, mask)
    assert held_by(credit) == ["none", "cap", "none"]
    assert taus(credit)[0] == taus(credit)[2] < taus(credit)[1]
    assert float(credit.weights[1].max()) == pytest.approx(6.0, rel=1e-4)
    assert sum(fractions(credit, mask)) / 3 == pytest.approx(0.8, abs=1e-3)


def test_a_batchs_tau_is_found_on_the_rows_that_it_is_told() -> None:
    """And holds for all of them, whatever the others say."""
    stats, mask = batch()
    rule = DgpoCredit(target_ess=0.8, target_ess_over="batch")
    some = torch.tensor([True, False, True, False, False, False])
    alone = rule.credit(
        TokenStats(stats.old_logprobs[some], stats.entropy[some], stats.hellinger_sq[some], 0.0),
        mask[some],
        vocab_size=VOCAB,
    )
    credit = made(rule, stats, mask, rows=some)
    for row in (0, 1, 2, 5):
        assert taus(credit)[row] == pytest.approx(taus(alone)[0], rel=1e-9)
    assert taus(credit)[0] != pytest.approx(taus(made(rule, stats, mask))[0], rel=1e-3)
    nobody = made(rule, stats, mask, rows=torch.zeros_like(some))
    assert torch.equal(nobody.weights, made(rule, stats, mask).weights)


@pytest.mark.parametrize("over", ["completion", "batch"])
def test_no_weight_is_above_the_cap_and_their_mean_stays_one(over: Any) -> None:
    stats, mask = batch(scale=1e-5)
    free = made(
        DgpoCredit(target_ess=0.5, target_ess_over=over, max_weight=HIGHEST_CAP), stats, mask
    )
    capped = made(DgpoCredit(target_ess=0.5, target_ess_over=over, max_weight=3.0), stats, mask)
    assert float(free.weights.max()) > 4.0
    assert float(capped.weights.max()) == pytest.approx(3.0, rel=1e-4)
    assert capped.weights.sum(1).tolist() == pytest.approx(LENGTHS, rel=1e-5)
    assert "cap" in held_by(capped) and "cap" not in held_by(free)
    for row, length in enumerate(LENGTHS):  # the order of the tokens is that of their scores
        order = capped.scores[row, :length].argsort()
        assert (capped.weights[row, order].diff() >= 0).all()


@pytest.mark.parametrize("over", ["completion", "batch"])
def test_equal_models_give_weight_exactly_one(over: Any) -> None:
    stats, mask = batch(scale=0.0)
    credit = made(DgpoCredit(target_ess=0.5, target_ess_over=over), stats, mask)
    assert (credit.weights[mask] == 1.0).all()
    assert all(math.isnan(tau) for tau in taus(credit))
    assert {name for name, n in zip(held_by(credit), LENGTHS, strict=True) if n} == {"ties"}


@pytest.mark.parametrize("over", ["completion", "batch"])
@pytest.mark.parametrize("noise", [1e-14, 1e-9, 1e-4, None])
def test_pure_noise_is_not_amplified(noise: float | None, over: Any) -> None:
    """Distances of nothing but noise, up to its floor, leave the weights where GRPO has them."""
    size = ASSUMED_NOISE if noise is None else noise
    stats, mask = batch(scale=size, noise_floor=noise)
    credit = made(DgpoCredit(target_ess=0.5, target_ess_over=over), stats, mask)
    assert float((credit.weights[mask].log()).abs().max()) <= NOISE_SHARE
    assert min(fractions(credit, mask)) > 0.999
    assert "noise" in held_by(credit)


@pytest.mark.parametrize("noise", [1e-13, 1e-8, 1e-5])
def test_noise_moves_no_score_by_more_than_its_share_of_tau(noise: float) -> None:
    """Distributions that rounding has moved by `noise`: from any distance on, the floor is kept."""
    generator = torch.Generator().manual_seed(1)
    shape = (1, 400, VOCAB)
    p = (torch.randn(*shape, generator=generator, dtype=torch.float64) * 2).softmax(-1)
    far = torch.rand(1, 400, 1, generator=generator).pow(4).double()
    q = (p.log() + far * torch.randn(*shape, generator=generator, dtype=torch.float64)).softmax(-1)
    moved = p.sqrt() + math.sqrt(2 * noise / VOCAB) * torch.randn(
        *shape, generator=generator, dtype=torch.float64
    )
    moved = moved.square() / moved.square().sum(-1, keepdim=True)

    def distance(a: Tensor, b: Tensor) -> Tensor:
        return 0.5 * (a.sqrt() - b.sqrt()).square().sum(-1)

    floor = float(distance(p, moved).max())
    entropy = -(p * p.log()).sum(-1).float()
    mask = torch.ones(1, 400, dtype=torch.bool)
    stats = TokenStats(torch.zeros(1, 400), entropy, distance(p, q).float(), floor)
    credit = made(DgpoCredit(target_ess=0.3, max_weight=HIGHEST_CAP), stats, mask)
    wander = (distance(moved, q) - distance(p, q)).abs() * entropy / math.log(VOCAB)
    assert 0 < float(wander.max()) / taus(credit)[0] <= NOISE_SHARE


def test_the_noise_floor_is_a_bound_on_tau_and_not_a_target() -> None:
    stats, mask = batch([60], noise_floor=1e-13)
    loud = TokenStats(stats.old_logprobs, stats.entropy, stats.hellinger_sq, 1e-5)
    rule = DgpoCredit(target_ess=0.5, max_weight=HIGHEST_CAP)
    quiet, held = made(rule, stats, mask), made(rule, loud, mask)
    assert (held_by(quiet), held_by(held)) == (["none"], ["noise"])
    assert taus(held)[0] > taus(quiet)[0]
    assert fractions(held, mask)[0] > fractions(quiet, mask)[0] == pytest.approx(0.5, abs=1e-3)


def test_ties_that_make_the_target_unreachable_are_named() -> None:
    """Of 20 tokens 19 have the largest score: with all credit on them the fraction is 0.95."""
    d = torch.full((2, 20), 0.2)
    d[:, 0] = 0.1
    d[1, 1:4] = 0.1  # 16 of 20: 0.8
    mask = torch.ones(2, 20, dtype=torch.bool)
    stats = TokenStats(d, torch.ones(2, 20), d, 0.0)
    credit = made(DgpoCredit(target_ess=0.9), stats, mask)
    assert held_by(credit) == ["ties", "none"]
    assert fractions(credit, mask) == pytest.approx([0.95, 0.9], abs=1e-3)


def test_order_padding_and_neighbours_change_nothing() -> None:
    stats, mask = batch()
    rule = DgpoCredit(target_ess=0.85)
    whole = made(rule, stats, mask)
    parts = (stats.old_logprobs, stats.entropy, stats.hellinger_sq)
    order = torch.tensor([2, 5, 0])
    some = made(rule, TokenStats(*(part[order] for part in parts), 0.0), mask[order])
    assert torch.equal(some.weights, whole.weights[order])
    assert torch.equal(some.tau, whole.tau[order])  # type: ignore[index, arg-type]
    tokens = torch.randperm(mask.shape[1], generator=torch.Generator().manual_seed(4))
    mixed = made(rule, TokenStats(*(part[:, tokens] for part in parts), 0.0), mask[:, tokens])
    torch.testing.assert_close(mixed.weights, whole.weights[:, tokens], rtol=1e-5, atol=0.0)
    pad = torch.nn.functional.pad
    wide = TokenStats(*(pad(part, (3, 40), value=math.nan) for part in parts), 0.0)
    padded = made(rule, wide, pad(mask, (3, 40)))
    torch.testing.assert_close(padded.weights[:, 3:-40], whole.weights, rtol=1e-5, atol=0.0)
    assert int((padded.weights != 0).sum()) == int((whole.weights != 0).sum())


@pytest.mark.parametrize("over", ["completion", "batch"])
def test_nothing_carries_a_gradient_and_padding_has_no_credit(over: Any) -> None:
    stats, mask = batch()
    live = TokenStats(
        stats.old_logprobs,
        stats.entropy.nan_to_num().requires_grad_(),
        stats.hellinger_sq.nan_to_num().requires_grad_(),
        stats.noise_floor,
    )
    credit = made(DgpoCredit(target_ess=0.9, target_ess_over=over), live, mask)
    assert not any(x.requires_grad for x in (credit.scores, credit.weights, credit.tau))  # type: ignore[union-attr]
    plain = made(DgpoCredit(target_ess=0.9, target_ess_over=over), stats, mask)
    assert torch.equal(plain.weights, credit.weights)
    assert (plain.weights[~mask] == 0).all() and plain.weights.isfinite().all()
    assert plain.weights.sum(1).tolist() == pytest.approx(LENGTHS, rel=1e-5)


def test_scores_in_another_unit_give_the_same_weights() -> None:
    """What a fixed tau cannot do: the distances of a day later are a thousand times larger."""
    stats, mask = batch()
    rule = DgpoCredit(target_ess=0.9)
    small = TokenStats(stats.old_logprobs, stats.entropy, stats.hellinger_sq / 1024, 0.0)
    one, other = made(rule, stats, mask), made(rule, small, mask)
    torch.testing.assert_close(one.weights, other.weights, rtol=1e-4, atol=1e-7)
    assert taus(one)[0] == pytest.approx(1024 * taus(other)[0], rel=1e-5)


def test_a_fixed_tau_is_reported_and_nothing_is_looked_for() -> None:
    stats, mask = batch(noise_floor=1.0)
    credit = made(DgpoCredit(tau=0.02, max_weight=1.001, noise_every=3), stats, mask)
    assert taus(credit) == [0.02] * len(LENGTHS)
    assert credit.limit is None
    bare = made(DgpoCredit(tau=0.02), batch(noise_floor=None)[0], mask)
    assert torch.equal(credit.weights, bare.weights)


def test_metrics_say_which_taus_were_found_and_what_held_them() -> None:
    tau = torch.tensor([0.1, 0.4, math.nan, 0.2, 7.0], dtype=torch.float64)
    limit = torch.tensor([LIMITS.index(x) for x in ("none", "noise", "ties", "noise", "cap")])
    numbers = torch.rand(5, 3)
    stats = TokenStats(numbers, numbers, numbers)
    credit = Credit(numbers, torch.ones(5, 3), tau=tau, limit=limit)
    rows = torch.tensor([True, True, True, True, False])
    mask = torch.ones(5, 3, dtype=torch.bool)
    metrics = credit_metrics(stats, credit, mask, vocab_size=10, rows=rows)
    assert {k: v for k, v in metrics.items() if "tau" in k or "held" in k} == pytest.approx(
        {
            "credit/tau_min": 0.1,
            "credit/tau_p50": 0.2,
            "credit/tau_max": 0.4,
            "credit/held_by_noise": 0.5,
            "credit/held_by_cap": 0.0,
            "credit/held_by_ties": 0.25,
        }
    )
