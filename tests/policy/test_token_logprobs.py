"""Log-probabilities with a gradient, against autograd through float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dgpo_cli.policy.token_pass import Tiles, token_logprobs, token_pass
from tests.policy.token_cases import CUTS, DTYPES, FORMS, head_of, noise, random_case, twin_logits


def gradients(logprobs: Tensor, pull: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad((logprobs * pull.to(logprobs.dtype)).sum(), inputs))


def relative(found: Tensor, exact: Tensor) -> float:
    return float((found.double() - exact.double()).norm() / exact.double().norm())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("tiles", [None, *CUTS])
def test_gradients_equal_autograd_through_float64(
    form: tuple[float, float | None, bool], tiles: Tiles | None
) -> None:
    hidden, _, head, _, ids = random_case(37, 24, 211, form, torch.float32)
    inputs = [hidden.requires_grad_(), head.weight.requires_grad_()]
    if head.bias is not None:
        inputs.append(head.bias.requires_grad_())
    pull = noise(37, seed=8)
    found = token_logprobs(hidden, head=head, ids=ids, temperature=0.8, tiles=tiles)
    exact = twin_logits(hidden, head, 0.8).log_softmax(-1).gather(1, ids[:, None])[:, 0]
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=1e-5)
    pairs = zip(gradients(found, pull, inputs), gradients(exact, pull, inputs), strict=True)
    assert max(relative(a, b) for a, b in pairs) < 1e-6


@pytest.mark.parametrize("dtype", DTYPES[1:])
def test_gradients_have_the_dtype_and_the_rounding_of_their_inputs(dtype: torch.dtype) -> None:
    hidden, _, head, _, ids = random_case(37, 24, 211, FORMS[1], dtype)
    assert head.bias is not None
    inputs = [hidden.requires_grad_(), head.weight.requires_grad_(), head.bias.requires_grad_()]
    pull = noise(37, seed=8)
    found = gradients(token_logprobs(hidden, head=head, ids=ids, temperature=1.0), pull, inputs)
    exact = twin_logits(hidden, head, 1.0).log_softmax(-1).gather(1, ids[:, None])[:, 0]
    for a, b in zip(found, gradients(exact, pull, inputs), strict=True):
        assert a.dtype == dtype
        assert relative(a, b) < 2 * torch.finfo(dtype).eps


@pytest.mark.parametrize("tiles", [None, *CUTS])
def test_logprobs_with_a_gradient_are_those_of_the_pass_bit_for_bit(tiles: Tiles | None) -> None:
    for dtype in DTYPES:
        hidden, other, head, second, ids = random_case(70, 24, 1100, FORMS[1], dtype)
        columns = token_pass(
            hidden, other, head=head, reference_head=second, ids=ids, temperature=0.8, tiles=tiles
        )
        for live in (False, True):
            hidden.requires_grad_(live)
            found = token_logprobs(hidden, head=head, ids=ids, temperature=0.8, tiles=tiles)
            assert found.requires_grad is live
            assert torch.equal(found, columns.logprobs)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("tiles", [None, *CUTS])
def test_gradients_through_the_pass_are_the_same(
    form: tuple[float, float | None, bool], tiles: Tiles | None
) -> None:
    """With a reference of another head, another width and its own requires_grad."""
    hidden, other, head, second, ids = random_case(37, 24, 211, form, torch.float32)
    inputs = [hidden.requires_grad_(), head.weight.requires_grad_()]
    if head.bias is not None:
        inputs.append(head.bias.requires_grad_())
    other.requires_grad_()
    pull = noise(37, seed=8)
    columns = token_pass(
        hidden, other, head=head, reference_head=second, ids=ids, temperature=0.8, tiles=tiles
    )
    with torch.no_grad():
        plain = token_pass(
            hidden, other, head=head, reference_head=second, ids=ids, temperature=0.8, tiles=tiles
        )
    assert columns.logprobs.requires_grad
    assert not (columns.entropy.requires_grad or columns.hellinger_sq.requires_grad)
    assert not plain.logprobs.requires_grad
    for name in ("logprobs", "entropy", "hellinger_sq"):
        assert torch.equal(getattr(columns, name), getattr(plain, name)), name
    alone = token_logprobs(hidden, head=head, ids=ids, temperature=0.8, tiles=tiles)
    pairs = zip(
        gradients(columns.logprobs, pull, inputs), gradients(alone, pull, inputs), strict=True
    )
    assert all(torch.equal(a, b) for a, b in pairs)


def test_a_frozen_head_is_given_no_gradient_and_two_uses_add_up() -> None:
    hidden, _, head, _, ids = random_case(20, 8, 50, FORMS[0], torch.float32)
    hidden.requires_grad_()
    for part in (slice(0, 12), slice(12, 20)):
        token_logprobs(hidden[part], head=head, ids=ids[part], temperature=1.0).sum().backward()
    twice = hidden.grad
    whole = token_logprobs(hidden, head=head, ids=ids, temperature=1.0).sum()
    (at_once,) = torch.autograd.grad(whole, [hidden])
    assert head.weight.grad is None and twice is not None
    torch.testing.assert_close(twice, at_once, rtol=1e-5, atol=1e-6)


def test_no_tokens_give_no_numbers_and_a_gradient_of_zero() -> None:
    head = head_of(noise(30, 4, seed=1).requires_grad_())
    hidden, ids = torch.zeros(0, 4, requires_grad=True), torch.zeros(0, dtype=torch.int64)
    found = token_pass(hidden, hidden, head=head, reference_head=None, ids=ids, temperature=1.0)
    assert found.logprobs.shape == found.entropy.shape == found.hellinger_sq.shape == (0,)
    token_logprobs(hidden, head=head, ids=ids, temperature=1.0).sum().backward()
    assert head.weight.grad is not None and not head.weight.grad.any()
