"""What every kind of loss does, and gspo, cispo and dual_clip against verl's formulas."""

import math
from typing import Any

import pytest
import torch

from dgpo_cli.algo.losses import CispoLoss, ClipLoss, GspoLoss, Loss
from tests.algo import twins
from tests.algo.test_clip import EVERY, LENGTHS, MAX_TOKENS, batch, total_loss

# Bounds near 1, so that random ratios are on all sides of them.
KINDS: list[Loss] = [
    ClipLoss(),
    ClipLoss(dual_clip=1.5),
    GspoLoss(sequence_clip_low=0.1, sequence_clip_high=0.1),
    CispoLoss(weight_min=0.8, weight_max=1.3),
]
ALL = pytest.mark.parametrize("loss", KINDS, ids=["clip", "dual-clip", "gspo", "cispo"])


def verl_tokens(loss: Loss, new: list[float], old: list[float], advantages: list[float]) -> Any:
    """Losses and slopes of a completion's tokens as verl computes them."""
    if isinstance(loss, GspoLoss):
        low, high = loss.sequence_clip_low, loss.sequence_clip_high
        return twins.gspo_tokens(new, old, advantages, low=low, high=high)
    tokens = zip(new, old, advantages, strict=True)
    if isinstance(loss, CispoLoss):
        least, most = loss.weight_min, loss.weight_max
        return [twins.cispo_token(x, y, a, least=least, most=most) for x, y, a in tokens]
    assert isinstance(loss, ClipLoss)
    return [
        twins.clip_token(
            math.exp(x - y),
            a,
            low=loss.clip_low,
            high=loss.clip_high,
            dual=loss.dual_clip or math.inf,
        )
        for x, y, a in tokens
    ]


def verl_rows(loss: Loss, parts: dict[str, torch.Tensor]) -> list[Any]:
    columns = (parts["new"].detach(), parts["old"], parts["advantages"])
    return [
        verl_tokens(loss, *(column[row, :length].tolist() for column in columns))
        for row, length in enumerate(LENGTHS)
    ]


def losses_of(loss: Loss, parts: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
    return loss.token_losses(
        parts["new"],
        old_logprobs=parts["old"],
        token_advantages=parts["advantages"],
        mask=parts["mask"],
    )


@ALL
@EVERY
def test_loss_and_gradient_are_verls(loss: Loss, aggregation: str) -> None:
    loss = loss.model_copy(update={"aggregation": aggregation})
    parts = batch()
    parts["new"].requires_grad_()
    rows = verl_rows(loss, parts)
    value = total_loss(loss, parts)
    value.backward()
    expected = twins.aggregated(
        [[token for token, _ in row] for row in rows],
        aggregation=aggregation,
        max_tokens=MAX_TOKENS,
    )
    assert float(value.detach()) == pytest.approx(expected, rel=1e-6)
    scales = {
        "token-mean": [1 / sum(LENGTHS)] * len(LENGTHS),
        "sequence-mean": [1 / (len(LENGTHS) * length) for length in LENGTHS],
        "constant": [1 / (len(LENGTHS) * MAX_TOKENS)] * len(LENGTHS),
    }
    gradient = parts["new"].grad
    assert gradient is not None and (gradient[~parts["mask"]] == 0).all()
    for own, row, scale in zip(gradient, rows, scales[aggregation], strict=True):
        slopes = [slope * scale for _, slope in row]
        assert own[: len(row)].tolist() == pytest.approx(slopes, rel=1e-6, abs=1e-12)


@ALL
def test_tokens_are_held_back_on_both_sides_and_marked(loss: Loss) -> None:
    parts = batch()
    parts["new"].requires_grad_()
    losses, ratio, clipped = losses_of(loss, parts)
    losses[parts["mask"]].sum().backward()
    mask, gradient = parts["mask"], parts["new"].grad
    assert gradient is not None
    held = clipped & mask
    assert (held & (ratio < 1)).any() and (held & (ratio > 1)).any() and (mask & ~clipped).any()
    if isinstance(loss, CispoLoss):
        assert (gradient[mask] != 0).all()
    else:
        assert torch.equal(gradient[mask] == 0, clipped[mask])
    assert losses.requires_grad and not ratio.requires_grad


@ALL
def test_with_even_probabilities_it_is_the_plain_policy_gradient(loss: Loss) -> None:
    parts = batch(spread=0.0)
    new = parts["new"].requires_grad_()
    losses, ratio, clipped = losses_of(loss, parts)
    losses[parts["mask"]].sum().backward()
    assert (ratio == 1.0).all() and not clipped.any()
    torch.testing.assert_close(new.grad, -parts["advantages"] * parts["mask"])


@ALL
def test_what_is_outside_the_mask_changes_nothing(loss: Loss) -> None:
    parts, other = batch(), batch()
    other["new"][~other["mask"]] = -3.5
    other["old"][~other["mask"]] = 0.0
    for own, moved in zip(losses_of(loss, parts), losses_of(loss, other), strict=True):
        assert torch.equal(own[parts["mask"]], moved[parts["mask"]])


@ALL
def test_huge_ratios_give_no_nan(loss: Loss) -> None:
    new = torch.tensor([[500.0, -500.0, -1.0]], requires_grad=True)
    losses, _, _ = loss.token_losses(
        new,
        old_logprobs=torch.zeros(1, 3),
        token_advantages=torch.tensor([[1.0, -1.0, 1.0]]),
        mask=torch.ones(1, 3, dtype=torch.bool),
    )
    losses.sum().backward()
    assert losses.isfinite().all()
    assert new.grad is not None and new.grad.isfinite().all()


def test_gspo_with_one_advantage_a_completion_is_the_papers_sequence_objective() -> None:
    """mean over completions of min(s A, clip(s) A), differentiated as it stands."""
    loss = GspoLoss(sequence_clip_low=0.1, sequence_clip_high=0.1)
    assert loss.aggregation == "sequence-mean"
    parts = batch()
    parts["advantages"] = parts["advantages"][:, :1].expand_as(parts["new"])
    ours, plain = (parts["new"].clone().requires_grad_() for _ in range(2))
    value = total_loss(loss, parts | {"new": ours})
    value.backward()
    paper = torch.zeros((), dtype=torch.float64)
    for row, length in enumerate(LENGTHS):
        s = (plain[row, :length] - parts["old"][row, :length]).mean().exp()
        advantage = parts["advantages"][row, 0]
        paper = paper - torch.minimum(s * advantage, s.clamp(0.9, 1.1) * advantage)
    (paper / len(LENGTHS)).backward()
    assert float(value.detach()) == pytest.approx(float(paper.detach()) / len(LENGTHS), rel=1e-6)
    torch.testing.assert_close(ours.grad, plain.grad, rtol=1e-6, atol=1e-12)


def test_gspo_follows_the_weights_of_its_tokens() -> None:
    """In the paper's sequence form, weights with a mean of 1 would leave the gradient as it is."""
    new = torch.zeros(1, 4, requires_grad=True)
    weights = torch.tensor([[0.0, 0.5, 1.5, 2.0]])
    losses, _, _ = GspoLoss().token_losses(
        new,
        old_logprobs=torch.zeros(1, 4),
        token_advantages=3.0 * weights,
        mask=torch.ones(1, 4, dtype=torch.bool),
    )
    losses.sum().backward()
    assert new.grad is not None
    assert new.grad.tolist() == [pytest.approx([0.0, -1.5, -4.5, -6.0])]


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "is_clipped", "slope"),
    [
        (2.9, -2.0, 5.8, False, 5.8),
        (3.5, -2.0, 6.0, True, 0.0),  # 3 * 2
        (3.5, 2.0, -2.56, True, 0.0),  # the bound of positive advantages is clip_high
        (0.5, -2.0, 1.6, True, 0.0),
        (3.5, 0.0, 0.0, False, 0.0),
    ],
)
def test_dual_clip_by_hand(
    ratio: float, advantage: float, loss: float, is_clipped: bool, slope: float
) -> None:
    new = torch.tensor([[math.log(ratio)]], dtype=torch.float64, requires_grad=True)
    losses, _, clipped = ClipLoss(dual_clip=3.0).token_losses(
        new,
        old_logprobs=torch.zeros(1, 1, dtype=torch.float64),
        token_advantages=torch.tensor([[advantage]], dtype=torch.float64),
        mask=torch.ones(1, 1, dtype=torch.bool),
    )
    losses.sum().backward()
    assert float(losses.detach()) == pytest.approx(loss, abs=1e-12)
    assert bool(clipped) is is_clipped
    assert new.grad is not None
    assert float(new.grad) == pytest.approx(slope, abs=1e-12)


def test_token_kl_is_k3_and_its_gradient() -> None:
    """Down to differences that a difference of exponentials would lose in float32."""
    gaps = [0.0, 1e-4, -2e-3, 0.7, -3.0, 20.0]
    new = torch.full((1, 6), -1.5, requires_grad=True)
    reference = torch.tensor([gaps]) - 1.5
    found = ClipLoss(kl=1.0).token_kl(new, reference_logprobs=reference)
    found.sum().backward()
    assert new.grad is not None
    exact = [float(r) + 1.5 for r in reference[0].double()]
    for value, slope, gap in zip(found[0].tolist(), new.grad[0].tolist(), exact, strict=True):
        assert value == pytest.approx(math.expm1(gap) - gap, rel=2e-3, abs=1e-12)
        assert slope == pytest.approx(-math.expm1(gap), rel=1e-5, abs=1e-7)


def test_a_far_reference_gives_a_finite_kl() -> None:
    new = torch.tensor([[-500.0, 0.0]], requires_grad=True)
    found = ClipLoss(kl=1.0).token_kl(new, reference_logprobs=torch.tensor([[0.0, -500.0]]))
    found.sum().backward()
    assert found.isfinite().all() and new.grad is not None and new.grad.isfinite().all()
