"""Reduces tiles of half logits to moments. Every operation is in place or into scratch memory."""

from __future__ import annotations

import functools
import importlib.util
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import Tensor


@functools.cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def fused_on(like: Tensor) -> bool:
    """Whether one kernel reduces tiles on a tensor's device; see fused.py."""
    return like.is_cuda and _has_triton()


def reduce_fused(x: Tensor, *tensors: Any, **named: Any) -> None:
    from dgpo_cli.policy.token_pass.fused import reduce_tile

    with torch.cuda.device_of(x):  # Triton starts a kernel on the current device
        reduce_tile(x, *tensors, **named)


def reduce_one(x: Tensor, *, top: Tensor, norm: Tensor) -> None:
    """Turn half logits `x` [R, C] into f in place; write m and |f| into `top`, `norm` [R].

    The operations on the way to `norm` are those of `reduce_two`, bit for bit.
    """
    torch.amax(x, dim=1, out=top)
    x.sub_(top.unsqueeze(1)).exp_()
    torch.linalg.vector_norm(x, dim=1, out=norm)


def reduce_two(
    x: Tensor,
    z: Tensor | None,
    *,
    scratch: Tensor | None,
    numbers: Tensor,
    keep_powers: bool = False,
) -> None:
    """Write the moments of one tile into `numbers`, float32 [8, R]; see Ledger.next_tile.

    x, z: half logits of policy and reference, [R, C], overwritten. Without a reference the policy
    is its own, which gives a distance of 0.
    scratch: float32 [R, C]; None: the sum of the entropy is left out, and `z` is None.
    keep_powers: leave f^2 in `x`.
    """
    top, f_norm, weighted, reference_top, g_norm, slope, cross, gap = numbers.unbind(dim=0)
    if scratch is None:
        f = x
        reduce_one(x, top=top, norm=f_norm)
        weighted.zero_()
    else:
        f = scratch
        torch.amax(x, dim=1, out=top)
        x.sub_(top.unsqueeze(1))
        torch.exp(x, out=f)
        torch.linalg.vector_norm(f, dim=1, out=f_norm)
        torch.sum(x.mul_(f).mul_(f), dim=1, out=weighted)
    if z is None:
        reference_top.copy_(top)
        g_norm.copy_(f_norm)
        slope.fill_(1.0)
        cross.zero_()
        gap.zero_()
    else:
        reduce_one(z, top=reference_top, norm=g_norm)
        torch.div(g_norm, f_norm, out=slope)
        z.addcmul_(f, slope.unsqueeze(1), value=-1.0)
        torch.linalg.vector_norm(z, dim=1, out=gap)
        torch.sum(z.mul_(f), dim=1, out=cross)
    if keep_powers:
        torch.mul(f, f, out=x)
