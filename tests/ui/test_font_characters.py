"""Characters are found in fonts made here, in both forms of cmap, and in one of this machine."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from dgpo_cli.ui import png
from dgpo_cli.ui.font_characters import held

# Segments of (first, last, glyph of the first; None: glyphs by a list, here 0 for every second).
SEGMENTS = [(0x41, 0x43, 5), (0x61, 0x64, None), (0xFFFF, 0xFFFF, 0)]
GROUPS = [(0x41, 0x41, 1), (0x4E00, 0x4E02, 7), (0x1F600, 0x1F600, 9)]


def segments() -> bytes:
    """A subtable of format 4."""
    count = len(SEGMENTS)
    starts, ends = ([each[at] for each in SEGMENTS] for at in (0, 1))
    deltas = [0 if glyph is None else (glyph - first) % 65536 for first, _, glyph in SEGMENTS]
    offsets = [2 * (count - at) if each[2] is None else 0 for at, each in enumerate(SEGMENTS)]
    glyphs = [3, 0, 4, 0]
    numbers = [*ends, 0, *starts, *deltas, *offsets, *glyphs]
    length = 14 + 2 * len(numbers)
    head = struct.pack(">7H", 4, length, 0, 2 * count, 0, 0, 0)
    return head + struct.pack(f">{len(numbers)}H", *numbers)


def groups() -> bytes:
    """A subtable of format 12."""
    body = b"".join(struct.pack(">III", *each) for each in GROUPS)
    return struct.pack(">HHIII", 12, 0, 16 + len(body), 0, len(GROUPS)) + body


def font(subtable: bytes, *, platform: tuple[int, int], before: bytes = b"") -> bytes:
    """A font of one table."""
    cmap = struct.pack(">HHHHI", 0, 1, *platform, 12) + subtable
    place = len(before) + 12 + 16
    head = struct.pack(">IHHHH", 0x00010000, 1, 0, 0, 0)
    return before + head + struct.pack(">4sIII", b"cmap", 0, place, len(cmap)) + cmap


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (font(segments(), platform=(3, 1)), "ABCac"),
        (font(groups(), platform=(3, 10)), "A一丁丂😀"),
        (font(groups(), platform=(0, 4)), "A一丁丂😀"),
        (font(groups(), platform=(3, 0)), ""),  # no Unicode: symbols
        (font(groups(), platform=(0, 4))[:70], ""),  # cut
        (b"no font", ""),
        (b"", ""),
    ],
)
def test_characters_are_those_of_the_cmap(tmp_path: Path, content: bytes, found: str) -> None:
    path = tmp_path / "a.ttf"
    path.write_bytes(content)
    assert held(path, "@ABCDabcde一丁丂七😀\uffff") == set(found)


def test_a_collection_has_the_characters_of_its_first_font(tmp_path: Path) -> None:
    path = tmp_path / "a.ttc"
    head = struct.pack(">4sIII", b"ttcf", 0x00010000, 1, 16)
    path.write_bytes(font(groups(), platform=(3, 10), before=head))
    assert held(path, "AB一") == set("A一")


def test_a_font_that_is_not_there_has_nothing(tmp_path: Path) -> None:
    assert held(tmp_path / "none.ttf", "A") == set()


@pytest.mark.skipif("DejaVuSansMono.ttf" not in png._font_files(), reason="needs DejaVu")
def test_a_real_font_has_what_it_is_known_to_have() -> None:
    path = png._font_files()["DejaVuSansMono.ttf"]
    assert held(path, "Aé↵█漢😀\U000f0000") == set("Aé↵█")
