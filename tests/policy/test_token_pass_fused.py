"""The CUDA kernel of the token pass, run on a CPU by Triton's interpreter."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from dgpo_cli.policy.token_pass import (
    Tiles,
    TokenColumns,
    statistics,
    token_logprobs,
    token_pass,
)
from dgpo_cli.policy.token_pass.reduce import reduce_fused, reduce_two
from tests.policy.token_cases import FORMS, random_case

triton = pytest.importorskip("triton")
TILES = Tiles(9, 50, 9)


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(statistics, "fused_on", lambda like: True)
    yield


def run(form: tuple[float, float | None, bool], *, same: bool = False) -> tuple[TokenColumns, ...]:
    """The pass on 20 tokens, and the gradient of its log-probabilities."""
    hidden, other, head, second, ids = random_case(20, 24, 211, form, torch.float32)
    hidden.requires_grad_()
    found = token_pass(
        hidden,
        hidden.detach().clone() if same else other,
        head=head,
        reference_head=None if same else second,
        ids=ids,
        temperature=0.8,
        want_reference_logprobs=True,
        tiles=TILES,
    )
    (slope,) = torch.autograd.grad(found.logprobs.sum(), [hidden])
    return found, slope


@pytest.mark.parametrize("form", FORMS)
def test_the_kernel_gives_what_torch_gives(
    form: tuple[float, float | None, bool], request: pytest.FixtureRequest
) -> None:
    plain, plain_slope = run(form)
    request.getfixturevalue("fused")
    found, slope = run(form)
    for name in ("logprobs", "entropy", "hellinger_sq", "reference_logprobs"):
        torch.testing.assert_close(
            getattr(found, name), getattr(plain, name), rtol=1e-5, atol=1e-6, msg=name
        )
    torch.testing.assert_close(slope, plain_slope, rtol=1e-5, atol=1e-6)


def test_equal_models_are_exactly_0_apart_in_the_kernel(fused: None) -> None:
    for form in FORMS:
        assert run(form, same=True)[0].hellinger_sq.tolist() == [0.0] * 20


def test_logprobs_alone_are_those_of_the_kernels_pass_bit_for_bit(fused: None) -> None:
    hidden, _, head, _, ids = random_case(20, 24, 211, FORMS[1], torch.float32)
    found, slope = run(FORMS[1])
    hidden.requires_grad_()
    alone = token_logprobs(hidden, head=head, ids=ids, temperature=0.8, tiles=TILES)
    assert torch.equal(alone, found.logprobs)
    assert torch.equal(torch.autograd.grad(alone.sum(), [hidden])[0], slope)


def test_powers_are_rounded_to_the_type_of_their_tensor(fused: None) -> None:
    """On a GPU they are in 16 bits, as the weights that they multiply."""
    from dgpo_cli.policy.token_pass.fused import reduce_tile

    x = torch.randn(3, 70, generator=torch.Generator().manual_seed(0))
    kept = {}
    for dtype in (torch.float32, torch.bfloat16):
        kept[dtype] = torch.full(x.shape, 7.0, dtype=dtype)
        numbers, chosen = torch.zeros(8, 3), torch.full((3,), -1e30)
        reduce_tile(
            x,
            None,
            scale=0.5,
            reference_scale=1.0,
            ids=torch.tensor([130, 100, 169]),
            start=100,
            numbers=numbers,
            chosen=chosen,
            reference_chosen=chosen,
            powers=kept[dtype],
        )
    exact = (x - x.amax(dim=1, keepdim=True)).exp()
    torch.testing.assert_close(kept[torch.float32], exact)
    torch.testing.assert_close(kept[torch.bfloat16].float(), exact, rtol=2**-7, atol=0)
    assert torch.equal(chosen, x[torch.arange(3), torch.tensor([30, 0, 69])] * 0.5)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_the_kernel_runs_on_the_device_of_its_tensors() -> None:
    x, ids = torch.randn(4, 50), torch.arange(4)
    found = []
    for device in ("cpu", "cuda:1"):
        numbers, chosen = torch.empty(8, 4, device=device), torch.empty(2, 4, device=device)
        if device == "cpu":
            reduce_two(x.clone(), None, scratch=torch.empty_like(x), numbers=numbers)
        else:
            reduce_fused(
                x.to(device),
                None,
                scale=1.0,
                reference_scale=1.0,
                ids=ids.to(device),
                start=0,
                numbers=numbers,
                chosen=chosen[0],
                reference_chosen=chosen[1],
                powers=None,
            )
        found.append(numbers.cpu())
    torch.testing.assert_close(found[1], found[0])
