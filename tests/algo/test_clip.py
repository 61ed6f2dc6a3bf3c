"""The clipped loss: slow twin forward and backward, and how its parts add up."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dgpo_cli.algo.losses import ClipLoss, Loss
from tests.algo import twins

AGGREGATIONS = ("token-mean", "sequence-mean", "constant")
EVERY = pytest.mark.parametrize("aggregation", AGGREGATIONS)
LENGTHS = [5, 1, 8, 3, 8, 2]
MAX_TOKENS = 20


def batch(*, spread: float = 0.5, dtype: torch.dtype = torch.float64) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    shape = (len(LENGTHS), max(LENGTHS))
    old = -torch.rand(shape, generator=generator, dtype=dtype) * 3
    new = old + spread * torch.randn(shape, generator=generator, dtype=dtype)
    advantages = torch.randn(shape, generator=generator, dtype=dtype)
    mask = torch.arange(shape[1]) < torch.tensor(LENGTHS).unsqueeze(1)
    return {"new": new, "old": old, "advantages": advantages, "mask": mask}


def total_loss(
    rule: Loss, parts: dict[str, torch.Tensor], rows: slice = slice(None)
) -> torch.Tensor:
    """The share of `rows` in the loss of the whole batch."""
    mask = parts["mask"]
    losses, _, _ = rule.token_losses(
        parts["new"][rows],
        old_logprobs=parts["old"][rows],
        token_advantages=parts["advantages"][rows],
        mask=mask[rows],
    )
    scales = rule.row_scales(
        mask[rows].sum(1),
        num_tokens=int(mask.sum()),
        num_completions=mask.shape[0],
        max_completion_tokens=MAX_TOKENS,
    )
    return (losses * mask[rows] * scales.unsqueeze(1)).sum()


def twin_loss(parts: dict[str, torch.Tensor], new: torch.Tensor, aggregation: str) -> float:
    def rows(tensor: torch.Tensor) -> list[list[float]]:
        return [row[:n].tolist() for row, n in zip(tensor, LENGTHS, strict=True)]

    return twins.loss(
        rows(new),
        rows(parts["old"]),
        rows(parts["advantages"]),
        low=0.2,
        high=0.28,
        aggregation=aggregation,
        max_tokens=MAX_TOKENS,
    )


@EVERY
def test_loss_equals_the_slow_twin(aggregation: str) -> None:
    parts = batch()
    rule = ClipLoss(aggregation=aggregation)  # type: ignore[arg-type]
    expected = twin_loss(parts, parts["new"], aggregation)
    assert float(total_loss(rule, parts)) == pytest.approx(expected, rel=1e-6)


@EVERY
def test_gradient_equals_differences_of_the_slow_twin(aggregation: str) -> None:
    parts = batch()
    parts["new"].requires_grad_()
    total_loss(ClipLoss(aggregation=aggregation), parts).backward()  # type: ignore[arg-type]
    gradient = parts["new"].grad
    assert gradient is not None
    assert (gradient[~parts["mask"]] == 0).all()
    step = 1e-6
    for row, length in enumerate(LENGTHS):
        for token in range(length):
            sides = []
            for sign in (1, -1):
                moved = parts["new"].detach().clone()
                moved[row, token] += sign * step
                sides.append(twin_loss(parts, moved, aggregation))
            slope = (sides[0] - sides[1]) / (2 * step)
            assert float(gradient[row, token]) == pytest.approx(slope, rel=1e-5, abs=1e-8)


@EVERY
@given(st.lists(st.integers(1, len(LENGTHS) - 1), max_size=4, unique=True))
@settings(max_examples=15, deadline=None)
def test_micro_batches_add_up_to_the_whole(aggregation: str, cuts: list[int]) -> None:
    parts, split = batch(), batch()
    rule = ClipLoss(aggregation=aggregation)  # type: ignore[arg-type]
    for each in (parts, split):
        each["new"].requires_grad_()
    whole = total_loss(rule, parts)
    whole.backward()
    added = 0.0
    for start, stop in pairwise([0, *sorted(cuts), len(LENGTHS)]):
        share = total_loss(rule, split, slice(start, stop))
        share.backward()
        added += float(share.detach())
    assert added == pytest.approx(float(whole.detach()), rel=1e-9)
    torch.testing.assert_close(split["new"].grad, parts["new"].grad, rtol=1e-9, atol=0.0)


def test_scales_by_hand() -> None:
    lengths = torch.tensor([2, 4, 0])

    def scales(aggregation: str) -> list[float]:
        rule = ClipLoss(aggregation=aggregation)  # type: ignore[arg-type]
        found = rule.row_scales(lengths, num_tokens=6, num_completions=3, max_completion_tokens=10)
        assert found.dtype == torch.float32
        return found.tolist()

    assert scales("token-mean") == pytest.approx([1 / 6] * 3)
    assert scales("sequence-mean") == pytest.approx([1 / 6, 1 / 12, 0.0])
    assert scales("constant") == pytest.approx([1 / 30] * 3)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "is_clipped", "slope"),
    [
        (1.0, 2.0, -2.0, False, -2.0),
        (1.2, 2.0, -2.4, False, -2.4),
        (1.5, 2.0, -2.56, True, 0.0),  # 1.28 * 2
        (0.5, 2.0, -1.0, False, -1.0),  # below the range, but the advantage pushes back up
        (0.5, -2.0, 1.6, True, 0.0),  # 0.8 * 2
        (1.5, -2.0, 3.0, False, 3.0),
        (1.5, 0.0, 0.0, False, 0.0),
    ],
)
def test_one_token_by_hand(
    ratio: float, advantage: float, loss: float, is_clipped: bool, slope: float
) -> None:
    new = torch.tensor([[math.log(ratio)]], dtype=torch.float64, requires_grad=True)
    losses, ratios, clipped = ClipLoss().token_losses(
        new,
        old_logprobs=torch.zeros(1, 1, dtype=torch.float64),
        token_advantages=torch.tensor([[advantage]], dtype=torch.float64),
        mask=torch.ones(1, 1, dtype=torch.bool),
    )
    losses.sum().backward()
    assert float(losses.detach()) == pytest.approx(loss, abs=1e-12)
    assert float(ratios) == pytest.approx(ratio)
    assert bool(clipped) is is_clipped
    assert new.grad is not None
    assert float(new.grad) == pytest.approx(slope, abs=1e-12)


def test_first_update_is_the_plain_policy_gradient() -> None:
    parts = batch(spread=0.0)
    new = parts["new"].requires_grad_()
    losses, ratio, clipped = ClipLoss().token_losses(
        new,
        old_logprobs=parts["old"],
        token_advantages=parts["advantages"],
        mask=parts["mask"],
    )
    losses.sum().backward()
    assert (ratio == 1.0).all()
    assert not clipped.any()
    torch.testing.assert_close(new.grad, -parts["advantages"])


def test_clipped_tokens_are_those_without_gradient() -> None:
    parts = batch()
    new = parts["new"].requires_grad_()
    losses, _, clipped = ClipLoss().token_losses(
        new,
        old_logprobs=parts["old"],
        token_advantages=parts["advantages"],
        mask=parts["mask"],
    )
    losses.sum().backward()
    assert new.grad is not None
    assert torch.equal(new.grad == 0.0, clipped)
    assert 0 < int(clipped.sum()) < clipped.numel()


def test_only_the_losses_carry_a_gradient_and_only_to_the_new_logprobs() -> None:
    parts = batch()
    for name in ("new", "old", "advantages"):
        parts[name].requires_grad_()
    losses, ratio, clipped = ClipLoss().token_losses(
        parts["new"],
        old_logprobs=parts["old"],
        token_advantages=parts["advantages"],
        mask=parts["mask"],
    )
    losses.sum().backward()
    assert not ratio.requires_grad
    assert clipped.dtype == torch.bool
    assert parts["old"].grad is None
    assert parts["advantages"].grad is None


def test_a_huge_ratio_on_a_clipped_token_gives_no_nan() -> None:
    new = torch.tensor([[500.0, 0.0]], requires_grad=True)
    losses, _, _ = ClipLoss().token_losses(
        new,
        old_logprobs=torch.zeros(1, 2),
        token_advantages=torch.ones(1, 2),
        mask=torch.ones(1, 2, dtype=torch.bool),
    )
    losses.sum().backward()
    assert losses.tolist() == [pytest.approx([-1.28, -1.0])]
    assert new.grad is not None
    assert new.grad.tolist() == [[0.0, -1.0]]
