"""Which characters a font file has: its cmap tables, and nothing else of it, are read.

Source: the OpenType specification, chapters "Organization of an OpenType Font" and "cmap".
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

_Has = Callable[[int], bool]


def held(path: Path, characters: Iterable[str]) -> set[str]:
    """Return those of the characters that the font has; none of a file that is no font."""
    try:
        with path.open("rb") as file:
            tables = [_format(table) for table in _tables(file)]
    except (OSError, struct.error):
        return set()
    return {each for each in characters if any(has(ord(each)) for has in tables)}


def _tables(file: BinaryIO) -> Iterator[bytes]:
    """The Unicode subtables of the first font of a file: a collection shares them."""
    start = 0
    if file.read(4) == b"ttcf":
        file.seek(12)
        (start,) = struct.unpack(">I", file.read(4))
    file.seek(start + 4)
    (count,) = struct.unpack(">H6x", file.read(8))
    for _ in range(count):
        tag, offset, length = struct.unpack(">4s4xII", file.read(16))
        if tag == b"cmap":
            file.seek(offset)
            yield from _subtables(file.read(length))
            return


def _subtables(cmap: bytes) -> Iterator[bytes]:
    (count,) = struct.unpack_from(">2xH", cmap)
    for at in range(count):
        platform, kind, offset = struct.unpack_from(">HHI", cmap, 4 + 8 * at)
        if platform == 0 or (platform == 3 and kind in (1, 10)):
            yield cmap[offset:]


def _format(table: bytes) -> _Has:
    """Say whether a subtable has a code point, in the two forms that fonts use today."""
    (form,) = struct.unpack_from(">H", table)
    if form == 4:
        return _segments(table)
    return _groups(table) if form == 12 else lambda code: False


def _segments(table: bytes) -> _Has:
    (double,) = struct.unpack_from(">6xH", table)
    count = double // 2
    ends, starts, deltas, offsets = (
        struct.unpack_from(f">{count}H", table, at)
        for at in (14, 16 + double, 16 + 2 * double, 16 + 3 * double)
    )

    def has(code: int) -> bool:
        for at in range(count):
            if code <= ends[at]:
                break
        else:
            return False
        if code < starts[at]:
            return False
        glyph = code
        if offsets[at]:  # counted from where it stands
            place = 16 + 3 * double + 2 * at + offsets[at] + 2 * (code - starts[at])
            (glyph,) = struct.unpack_from(">H", table, place) if place + 2 <= len(table) else (0,)
            if not glyph:
                return False
        return bool((glyph + deltas[at]) % 65536)

    return has


def _groups(table: bytes) -> _Has:
    (count,) = struct.unpack_from(">12xI", table)
    groups = list(struct.iter_unpack(">III", table[16 : 16 + 12 * count]))
    return lambda code: any(
        first <= code <= last and glyph + code - first for first, last, glyph in groups
    )
