"""One optimiser update: its gradient against a slow twin, and what must not move it."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from dgpo_cli.algo.credit import UniformCredit
from dgpo_cli.algo.losses import ClipLoss
from dgpo_cli.engine.optimizers import build_adamw
from dgpo_cli.policy.policy import Policy
from tests.algo import twins as algo_twins
from tests.engine import updates
from tests.engine.updates import ADVANTAGES, PAIRS, assert_same_gradient, gradient_of
from tests.policy import tiny, twins
from tests.recorder import Recorder

SHIFTS = updates.random_shifts()
LENGTHS = [len(completion) for _, completion in PAIRS]
AGGREGATIONS = ("token-mean", "sequence-mean", "constant")
EVERY = pytest.mark.parametrize("aggregation", AGGREGATIONS)


def twin_rule(aggregation: str) -> twins.TwinUpdate:
    return twins.TwinUpdate(
        temperature=updates.TEMPERATURE,
        tau=updates.CREDIT.tau,
        kappa=updates.CREDIT.kappa,
        clip_low=0.2,
        clip_high=0.28,
        aggregation=aggregation,
        max_tokens=updates.MAX_TOKENS,
    )


@EVERY
@pytest.mark.parametrize("family", ["qwen2-tied", "qwen2-untied", "gemma2-softcap", "qwen3_moe"])
def test_loss_and_gradient_equal_the_slow_twin(family: str, aggregation: str) -> None:
    """Uneven lengths, a group without signal, ratios beyond both bounds, uneven weights."""
    policy = tiny.make_policy(family, apart=0.05)
    batch = updates.make_batch(policy, shifts=SHIFTS)
    assert float(batch.credit.weights.max()) > 1.5
    capture = updates.Capture(policy)
    result = updates.run_update(policy, capture, batch, loss=ClipLoss(aggregation=aggregation))
    assert result.clipped_tokens > 3
    loss, gradient = twins.update_gradient(
        twins.widened(policy.model),
        twins.widened(policy._reference),
        PAIRS,
        advantages=ADVANTAGES,
        shifts=SHIFTS,
        rule=twin_rule(aggregation),
    )
    assert result.loss == pytest.approx(loss, rel=1e-5, abs=1e-7)
    assert_same_gradient(capture.gradients, gradient)
    norm = math.sqrt(math.fsum(float(g.square().sum()) for g in gradient.values()))
    assert result.grad_norm == pytest.approx(norm, rel=1e-5)


@pytest.mark.parametrize("family", ["qwen2-untied", "qwen3_moe"])
def test_the_gradient_of_an_adapter_equals_the_slow_twin(family: str) -> None:
    lora_policy = tiny.make_lora_policy(family, apart=0.05)
    batch = updates.make_batch(lora_policy, shifts=SHIFTS)
    _, gradient = twins.update_gradient(
        twins.widened(lora_policy.model),
        twins.widened(lora_policy.model).unload(),
        PAIRS,
        advantages=ADVANTAGES,
        shifts=SHIFTS,
        rule=twin_rule("token-mean"),
    )
    found = gradient_of(lora_policy, batch)
    assert all("lora_" in name for name in found)
    assert_same_gradient(found, gradient)


@EVERY
@pytest.mark.parametrize("micro_batch_size", [0, 1, 2, 3, 9, 100])
def test_the_micro_batch_size_changes_nothing(aggregation: str, micro_batch_size: int) -> None:
    policy = tiny.make_policy(apart=0.05)
    batch = updates.make_batch(policy, shifts=SHIFTS)
    loss = ClipLoss(aggregation=aggregation)
    found = gradient_of(policy, batch, loss=loss, micro_batch_size=micro_batch_size)
    assert_same_gradient(found, gradient_of(policy, batch, loss=loss), error=1e-5)


@EVERY
def test_more_padding_changes_nothing(policy: Policy, aggregation: str) -> None:
    loss = ClipLoss(aggregation=aggregation)
    rows = tiny.rows_of_pairs(PAIRS, more_left=5, more_right=6)
    wide = gradient_of(policy, updates.make_batch(policy, shifts=SHIFTS, rows=rows), loss=loss)
    plain = gradient_of(policy, updates.make_batch(policy, shifts=SHIFTS), loss=loss)
    assert all(torch.equal(wide[name], plain[name]) for name in plain)


def test_gradient_checkpointing_changes_nothing(policy: Policy) -> None:
    batch = updates.make_batch(policy, shifts=SHIFTS)
    plain = gradient_of(policy, batch)
    policy.model.gradient_checkpointing_enable({"use_reentrant": False})
    assert_same_gradient(gradient_of(policy, batch), plain, error=1e-6)


@EVERY
def test_an_update_on_some_rows_is_that_of_a_batch_of_them(
    policy: Policy, aggregation: str
) -> None:
    """Its normaliser too: the first group and the second, which has no signal."""
    batch = updates.make_batch(policy, shifts=SHIFTS)
    found = gradient_of(
        policy, batch, loss=ClipLoss(aggregation=aggregation), index=torch.arange(6)
    )
    _, expected = twins.update_gradient(
        twins.widened(policy.model),
        twins.widened(policy._reference),
        PAIRS[:6],
        advantages=ADVANTAGES[:6],
        shifts=SHIFTS[:6],
        rule=twin_rule(aggregation),
    )
    assert_same_gradient(found, expected)


@pytest.mark.parametrize(
    ("aggregation", "share"),
    [
        ("token-mean", updates.SIGNAL_TOKENS / sum(LENGTHS)),
        ("sequence-mean", 6 / 9),
        ("constant", 6 / 9),
    ],
)
def test_rows_without_an_advantage_count_in_the_normaliser(
    policy: Policy, aggregation: str, share: float
) -> None:
    batch = updates.make_batch(policy, shifts=SHIFTS)
    loss = ClipLoss(aggregation=aggregation)
    signal = torch.tensor([0, 1, 2, 6, 7, 8])
    alone = gradient_of(policy, batch, loss=loss, index=signal)
    scaled = {name: gradient * share for name, gradient in alone.items()}
    assert_same_gradient(gradient_of(policy, batch, loss=loss), scaled, error=1e-5)


def test_rows_without_an_advantage_are_not_computed(policy: Policy) -> None:
    recorder = Recorder()
    batch = updates.make_batch(policy, shifts=SHIFTS)
    result = updates.run_update(policy, updates.Capture(policy), batch, observer=recorder)
    [(name, total, _, done)] = recorder.phases
    assert name == "update"
    assert total == done == result.signal_tokens == updates.SIGNAL_TOKENS


@pytest.mark.parametrize(
    ("aggregation", "expected"),
    [
        ("token-mean", -sum(a * t for a, t in zip(ADVANTAGES, LENGTHS, strict=True)) / 66),
        ("sequence-mean", -sum(ADVANTAGES) / 9),
        ("constant", -sum(a * t for a, t in zip(ADVANTAGES, LENGTHS, strict=True)) / (9 * 20)),
    ],
)
def test_the_loss_of_a_first_update_is_arithmetic(
    policy: Policy, aggregation: str, expected: float
) -> None:
    """Ratios are 1, and the weights of a completion, whatever they are, have mean 1."""
    batch = updates.make_batch(policy)
    result = updates.run_update(
        policy, updates.Capture(policy), batch, loss=ClipLoss(aggregation=aggregation)
    )
    assert sum(LENGTHS) == 66
    assert result.loss == pytest.approx(expected, abs=1e-5)
    assert (result.ratio_min, result.ratio_max) == pytest.approx((1.0, 1.0), abs=1e-5)
    assert result.clipped_tokens == 0


def test_ratios_and_clipped_tokens_are_counted_over_rows_with_an_advantage(
    policy: Policy,
) -> None:
    batch = updates.make_batch(policy, shifts=SHIFTS, credit=UniformCredit())
    result = updates.run_update(policy, updates.Capture(policy), batch)
    ratios, clipped = [], 0
    for advantage, shift in zip(ADVANTAGES, SHIFTS, strict=True):
        own = [math.exp(-x) for x in shift] if advantage else []
        ratios += own
        clipped += sum(r > 1.28 if advantage > 0 else r < 0.8 for r in own)
    assert result.clipped_tokens == clipped > 0
    assert result.ratio_min == pytest.approx(min(ratios), rel=1e-5)
    assert result.ratio_max == pytest.approx(max(ratios), rel=1e-5)
    loss = algo_twins.loss(
        [[-x for x in shift] for shift in SHIFTS],
        [[0.0] * len(shift) for shift in SHIFTS],
        [[a] * len(shift) for a, shift in zip(ADVANTAGES, SHIFTS, strict=True)],
        low=0.2,
        high=0.28,
        aggregation="token-mean",
        max_tokens=updates.MAX_TOKENS,
    )
    assert result.loss == pytest.approx(loss, abs=1e-5)


def test_a_limit_on_the_norm_scales_the_gradient_to_it(policy: Policy) -> None:
    batch = updates.make_batch(policy, shifts=SHIFTS)
    capture = updates.Capture(policy)
    free = updates.run_update(policy, capture, batch, max_grad_norm=0.0)
    whole = capture.gradients
    assert free.grad_norm > 0.05
    cut = updates.run_update(policy, capture, batch, max_grad_norm=0.01)
    assert cut.grad_norm == free.grad_norm  # as it was before
    norm = math.sqrt(sum(float(g.square().sum()) for g in capture.gradients.values()))
    assert norm == pytest.approx(0.01, rel=1e-4)
    share = 0.01 / free.grad_norm
    assert_same_gradient({n: g / share for n, g in capture.gradients.items()}, whole)
    updates.run_update(policy, capture, batch, max_grad_norm=2 * free.grad_norm)
    assert all(torch.equal(capture.gradients[name], whole[name]) for name in whole)


def test_gradients_left_from_before_are_not_added(policy: Policy) -> None:
    batch = updates.make_batch(policy, shifts=SHIFTS)
    plain = gradient_of(policy, batch)
    for _, parameter in policy.trainable():
        parameter.grad = torch.ones_like(parameter)
    again = gradient_of(policy, batch)
    assert all(torch.equal(again[name], plain[name]) for name in plain)
    assert all(parameter.grad is None for _, parameter in policy.trainable())


def test_only_the_adapter_is_moved(lora_policy: Policy) -> None:
    before = {n: p.clone() for n, p in lora_policy.model.named_parameters()}
    adamw = build_adamw(lora_policy, lr=1e-2, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.1)
    assert updates.run_update(lora_policy, adamw, updates.make_batch(lora_policy)).applied
    for name, parameter in lora_policy.model.named_parameters():
        assert torch.equal(parameter, before[name]) == ("lora_" not in name), name


def test_the_reference_is_not_moved(policy: Policy) -> None:
    assert policy._reference is not None
    before = {n: p.clone() for n, p in policy._reference.named_parameters()}
    adamw = build_adamw(policy, lr=1e-2, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.1)
    assert updates.run_update(policy, adamw, updates.make_batch(policy)).applied
    assert all(torch.equal(p, before[n]) for n, p in policy._reference.named_parameters())


@EVERY
@pytest.mark.parametrize("left_out", [{1}, {0, 3, 4, 8}])
def test_rows_that_do_not_count_are_as_if_they_were_not_there(
    aggregation: str, left_out: set[int]
) -> None:
    """Loss and gradient are those of a slow twin that has never seen them."""
    policy = tiny.make_policy(apart=0.05)
    advantages = [0.0 if row in left_out else a for row, a in enumerate(ADVANTAGES)]
    counted = torch.tensor([row not in left_out for row in range(len(PAIRS))])
    batch = updates.make_batch(policy, shifts=SHIFTS, advantages=advantages)
    batch = dataclasses.replace(batch, counted=counted)
    capture = updates.Capture(policy)
    result = updates.run_update(policy, capture, batch, loss=ClipLoss(aggregation=aggregation))
    kept = [row for row in range(len(PAIRS)) if row not in left_out]
    loss, gradient = twins.update_gradient(
        twins.widened(policy.model),
        twins.widened(policy._reference),
        [PAIRS[row] for row in kept],
        advantages=[ADVANTAGES[row] for row in kept],
        shifts=[SHIFTS[row] for row in kept],
        rule=twin_rule(aggregation),
    )
    assert result.loss == pytest.approx(loss, rel=1e-5, abs=1e-7)
    assert_same_gradient(capture.gradients, gradient)


@EVERY
def test_a_batch_of_which_no_row_counts_moves_nothing(aggregation: str) -> None:
    policy = tiny.make_policy(apart=0.05)
    batch = updates.make_batch(policy, advantages=[0.0] * len(PAIRS))
    batch = dataclasses.replace(batch, counted=torch.zeros(len(PAIRS), dtype=torch.bool))
    before = [p.detach().clone() for _, p in policy.trainable()]
    result = updates.run_update(
        policy, updates.Capture(policy), batch, loss=ClipLoss(aggregation=aggregation)
    )
    assert not result.applied and result.finite
    assert all(torch.equal(a, p) for a, (_, p) in zip(before, policy.trainable(), strict=True))
