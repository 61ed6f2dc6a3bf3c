"""Buffer sizes, without torch, so that a plan can compute them."""

from __future__ import annotations

from typing import NamedTuple

_MIB = 1 << 20
_WIDE_BYTES = 8 * _MIB  # limit of a float32 copy of hidden states or weights


class TileSize(NamedTuple):
    """Tokens and vocabulary entries of a tile, and tokens of the slices it is reduced in."""

    rows: int
    columns: int
    slice_rows: int


def tile_size(width: int, *, cpu: bool) -> TileSize:
    """Return the tiles for hidden states of `width` numbers.

    The buffers of a pass are at most about 50 MiB on a CPU, whatever N and V. On a GPU they are
    about 400 MiB: there is no cache to slice for, and a tile must be worth its launches (measured
    on an H100 for D = 3584: benchmarks/gpu.py).
    """
    if cpu:
        fit = _power_of_two(_WIDE_BYTES // (4 * width))
        return TileSize(rows=min(1024, fit), columns=min(1024, fit), slice_rows=64)
    return TileSize(rows=2048, columns=16384, slice_rows=2048)


def _power_of_two(limit: int) -> int:
    """Return the largest power of two up to `limit`, at least 64."""
    return max(64, 1 << (max(1, limit).bit_length() - 1))


_BLOCK = 64


def room_for(tokens: int) -> int:
    """Return the capacity of a buffer that must hold `tokens`."""
    return tokens + max(_BLOCK, tokens // 4)


def final_room(*, prompt: int, fed: int) -> int:
    """Return the final capacity of a buffer.

    Args:
        prompt: tokens that fill it exactly at the start.
        fed: tokens added one by one.
    """
    room = prompt
    while room < prompt + fed:
        room = room_for(room + 1)
    return room
