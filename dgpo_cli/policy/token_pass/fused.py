"""The reduction of a tile in one Triton kernel, for CUDA: half logits are read once.

The operations are those of reduce.py in the same order, except that sums over a row are added up
in another one. Fused multiply-add is off and divisions and roots are rounded to nearest, so that
equal inputs give equal bits, and a distance of exactly 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import triton
import triton.language as tl
from triton.language.extra import libdevice

from dgpo_cli.policy.token_pass.tiles import LOG_ZERO

if TYPE_CHECKING:
    from torch import Tensor


def reduce_tile(
    x: Tensor,  # float32 [R, C], half logits of the policy but for the factor `scale`
    z: Tensor | None,  # float32 [R, C] of the reference, but for `reference_scale`
    *,
    scale: float,
    reference_scale: float,
    ids: Tensor,  # int64 [R]
    start: int,
    numbers: Tensor,  # float32 [8, R], contiguous
    chosen: Tensor,  # float32 [R]
    reference_chosen: Tensor,  # float32 [R]
    powers: Tensor | None,  # [R, C], any floating dtype
) -> None:
    """Write the moments of a tile into `numbers` (see Ledger.next_tile) and f^2 into `powers`.

    `chosen` and `reference_chosen` get the half logits of the tokens `ids` that lie in the tile,
    whose first column is the vocabulary's entry `start`. `powers` may be x.
    """
    rows, columns = x.shape
    block = max(16, 1 << (columns - 1).bit_length())
    _reduce[(rows,)](
        x,
        x if z is None else z,
        x if powers is None else powers,
        numbers,
        ids,
        chosen,
        reference_chosen,
        columns,
        rows,
        start,
        x.stride(0),
        scale,
        reference_scale,
        LOG_ZERO,
        PAIR=z is not None,
        KEEP=powers is not None,
        # The interpreter has no libdevice; its exp is numpy's.
        EXACT=not triton.knobs.runtime.interpret,
        BLOCK=block,
        num_warps=min(16, max(1, block // 512)),
        enable_fp_fusion=False,
    )


@triton.jit  # type: ignore[untyped-decorator]
def _reduce(  # type: ignore[no-untyped-def]  # Triton's language
    x_ptr,
    z_ptr,
    powers_ptr,
    numbers_ptr,
    ids_ptr,
    chosen_ptr,
    other_ptr,
    columns,
    rows,
    start,
    stride,
    scale,
    other_scale,
    log_zero,
    PAIR: tl.constexpr,
    KEEP: tl.constexpr,
    EXACT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    inside = at < columns
    x = tl.load(x_ptr + row * stride + at, mask=inside, other=0.0) * scale
    local = tl.load(ids_ptr + row) - start
    here = (local >= 0) & (local < columns)
    place = row * stride + tl.where(here, local, 0)
    tl.store(chosen_ptr + row, tl.load(x_ptr + place) * scale, mask=here)
    if PAIR:
        tl.store(other_ptr + row, tl.load(z_ptr + place) * other_scale, mask=here)
    top = tl.max(tl.where(inside, x, log_zero * 2), 0)
    fall = tl.where(inside, x - top, log_zero)
    f = tl.where(inside, libdevice.exp(fall) if EXACT else tl.exp(fall), 0.0)
    f_norm = tl.sqrt_rn(tl.sum(f * f, 0))
    out = numbers_ptr + row
    tl.store(out, top)
    tl.store(out + rows, f_norm)
    tl.store(out + 2 * rows, tl.sum(fall * f * f, 0))
    if PAIR:
        z = tl.load(z_ptr + row * stride + at, mask=inside, other=0.0) * other_scale
        other_top = tl.max(tl.where(inside, z, log_zero * 2), 0)
        other_fall = tl.where(inside, z - other_top, log_zero)
        g = tl.where(inside, libdevice.exp(other_fall) if EXACT else tl.exp(other_fall), 0.0)
        g_norm = tl.sqrt_rn(tl.sum(g * g, 0))
        slope = tl.div_rn(g_norm, f_norm)
        h = g - slope * f
        tl.store(out + 3 * rows, other_top)
        tl.store(out + 4 * rows, g_norm)
        tl.store(out + 5 * rows, slope)
        tl.store(out + 6 * rows, tl.sum(h * f, 0))
        tl.store(out + 7 * rows, tl.sqrt_rn(tl.sum(h * h, 0)))
    else:
        tl.store(out + 3 * rows, top)
        tl.store(out + 4 * rows, f_norm)
        tl.store(out + 5 * rows, 1.0)
        tl.store(out + 6 * rows, 0.0)
        tl.store(out + 7 * rows, 0.0)
    if KEEP:
        tl.store(powers_ptr + row * stride + at, f * f, mask=inside)
