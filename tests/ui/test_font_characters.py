"""Which characters a font has: of fonts made here, of broken ones, and of one of this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from dgpo_cli.ui import png
from dgpo_cli.ui.png import held

pytest.importorskip("fontTools", reason="fonttools is in the extra png")


def font(path: Path, characters: str) -> Path:
    """A font of empty glyphs for these characters."""
    from fontTools.fontBuilder import FontBuilder
    from fontTools.ttLib.tables._g_l_y_f import Glyph

    names = [f"g{ord(each):x}" for each in characters]
    builder = FontBuilder(1000)
    builder.setupGlyphOrder([".notdef", *names])
    builder.setupCharacterMap(dict(zip(map(ord, characters), names, strict=True)))
    builder.setupGlyf({name: Glyph() for name in (".notdef", *names)})
    builder.setupHorizontalMetrics(dict.fromkeys((".notdef", *names), (500, 0)))
    for part in (builder.setupHorizontalHeader, builder.setupOS2, builder.setupPost):
        part()
    builder.save(path)
    return path


@pytest.mark.parametrize("characters", ["ABC", "A一丁丂😀"])
def test_a_font_has_the_characters_of_its_cmap(tmp_path: Path, characters: str) -> None:
    path = font(tmp_path / "a.ttf", characters)
    assert held(path, "@ABCDabcde一丁丂七😀\uffff") == set(characters)


def test_a_collection_has_the_characters_of_its_first_font(tmp_path: Path) -> None:
    from fontTools.ttLib import TTCollection, TTFont

    fonts = TTCollection()
    fonts.fonts = [
        TTFont(font(tmp_path / f"{at}.ttf", each)) for at, each in enumerate(("A一", "B"))
    ]
    fonts.save(tmp_path / "a.ttc")
    assert held(tmp_path / "a.ttc", "AB一") == set("A一")


def test_a_file_that_is_no_whole_font_has_nothing_and_says_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = font(tmp_path / "whole.ttf", "ABC").read_bytes()
    for content in (b"", b"no font", *(whole[:size] for size in range(0, 200, 7))):
        (tmp_path / "a.ttf").write_bytes(content)
        assert held(tmp_path / "a.ttf", "A") == set()
    assert held(tmp_path / "none.ttf", "A") == set()
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif("DejaVuSansMono.ttf" not in png._font_files(), reason="needs DejaVu")
def test_a_real_font_has_what_it_is_known_to_have() -> None:
    path = png._font_files()["DejaVuSansMono.ttf"]
    assert held(path, "Aé↵█漢😀\U000f0000") == set("Aé↵█")
