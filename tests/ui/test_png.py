"""PNG: the drawing's size and colours, letters that were really drawn, and refusals in one line."""

from __future__ import annotations

import struct
import sys
import zlib
from pathlib import Path

import pytest

from dgpo_cli.core.errors import ConfigError, DataError
from dgpo_cli.inspect.views.heatmap import render
from dgpo_cli.ui import png
from dgpo_cli.ui.png import svg_to_png
from dgpo_cli.ui.svg import export_svg
from tests.samples import inspection, solution

pytest.importorskip("resvg_py", reason="resvg-py is in the extra png")
FONTS = set(png._font_files()) & set(png._MONOSPACED)
needs_font = pytest.mark.skipif(
    not FONTS, reason="no monospaced font here: apt-get install fonts-dejavu-core"
)
BACK, INK = (0, 0, 255), (255, 255, 0)


def drawing(body: str, *, width: int = 40, height: int = 20) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">'
        f'<rect width="{width}" height="{height}" fill="#0000ff"/>{body}</svg>'
    )


def text(value: str, family: str, *, size: int = 16) -> str:
    return f'<text y="16" font-size="{size}" font-family="{family}" fill="#ffff00">{value}</text>'


def pixels(content: bytes) -> tuple[int, int, list[tuple[int, int, int]]]:
    """Width, height and colours of a PNG of 8-bit RGBA. Source: the PNG specification."""
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    at, packed = 8, b""
    while at < len(content):
        (length,), kind = struct.unpack(">I", content[at : at + 4]), content[at + 4 : at + 8]
        body = content[at + 8 : at + 8 + length]
        if kind == b"IHDR":
            width, height, depth, colour = struct.unpack(">IIBB", body[:10])
            assert (depth, colour) == (8, 6)
        packed += body if kind == b"IDAT" else b""
        at += length + 12
    raw, stride, before = zlib.decompress(packed), 4 * width, bytearray(4 * width)
    found: list[tuple[int, int, int]] = []
    for row in range(height):
        start = row * (stride + 1)
        line = bytearray(raw[start + 1 : start + 1 + stride])
        _unfilter(raw[start], line, before)
        found += [(line[x], line[x + 1], line[x + 2]) for x in range(0, stride, 4)]
        before = line
    return width, height, found


def _unfilter(kind: int, line: bytearray, before: bytearray) -> None:
    for at in range(len(line)):
        left, corner = (line[at - 4], before[at - 4]) if at >= 4 else (0, 0)
        up = before[at]
        guess = left + up - corner
        near = min(
            (abs(guess - value), order, value) for order, value in enumerate((left, up, corner))
        )
        line[at] = (line[at] + (0, left, up, (left + up) // 2, near[2])[kind]) % 256


def ink(svg: str) -> int:
    return pixels(svg_to_png(svg, scale=1.0))[2].count(INK)


@needs_font
def test_a_unit_is_two_pixels_unless_told_otherwise() -> None:
    assert pixels(svg_to_png(drawing("")))[:2] == (80, 40)
    assert pixels(svg_to_png(drawing(""), scale=1.0))[:2] == (40, 20)
    assert set(pixels(svg_to_png(drawing("")))[2]) == {BACK}


@pytest.mark.parametrize(
    "family", ["monospace", "ui-monospace, monospace", "nowhere", "sans-serif"]
)
def test_letters_are_drawn_whatever_font_is_asked_for(family: str) -> None:
    assert ink(drawing(text("HHH", family))) > 20


@pytest.mark.skipif(
    "DejaVuSansMono.ttf" not in FONTS, reason="the font that surely has the symbols is missing"
)
def test_letters_of_the_terminal_are_equally_wide_and_its_symbols_are_no_boxes() -> None:
    def extent(value: str) -> int:
        _, _, found = pixels(svg_to_png(drawing(text(value, "monospace"), width=90), scale=1.0))
        return max(at % 90 for at, colour in enumerate(found) if colour != BACK)

    assert abs(extent("iiiiiiiH") - extent("mmmmmmmH")) <= 1
    missing = pixels(svg_to_png(drawing(text("\U000f0000", "monospace"))))
    for symbol in "↵⇥·…∅─×±✓✗▂▅█≡":
        assert pixels(svg_to_png(drawing(text(symbol, "monospace")))) != missing, symbol


@needs_font
def test_a_character_that_no_font_has_is_a_box_and_costs_no_other() -> None:
    """resvg alone stops looking for fonts at the first: what comes after it would be boxes, too."""

    def drawn(value: str) -> bytes:
        return svg_to_png(drawing(text(value, "monospace"), width=60))

    assert drawn("\U000f0000é") == drawn("□é") != drawn("□□")
    if "DejaVuSans.ttf" in png._font_files() and "DejaVuSansMono.ttf" in FONTS:
        assert drawn("\U000f0000😀") == drawn("□😀") != drawn("□□")


@needs_font
def test_characters_that_no_font_has_are_named_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    few = {name: path for name, path in png._font_files().items() if name in FONTS}
    monkeypatch.setattr(png, "_font_files", lambda: few)
    styled = "<style>.漢 {}</style>" + text("é 走る &#3585; 走 \u200b\ufe0f", "monospace")
    assert png.lacking(drawing(styled)) == ("ก", "る", "走")
    assert png.lacking(drawing(text("A", "monospace"))) == ()
    assert png.lacking_note("る走") == (
        "no font here has る 走: the picture has boxes there; "
        "on Debian: apt-get install fonts-noto-cjk"
    )
    assert png.lacking_note("ก").endswith("apt-get install fonts-noto-core")
    assert png.lacking_note("😀走").endswith("fonts-noto-cjk fonts-noto-color-emoji")
    assert "a b c d e f g h ..." in png.lacking_note("abcdefghi")


@needs_font
def test_a_heatmap_has_the_colours_of_its_drawing() -> None:
    view = render(solution(), inspection=inspection(solution()), width=60, top=3, color="truecolor")
    found = set(pixels(svg_to_png(export_svg(view, title="t", width=60), scale=1.0))[2])
    assert {(0x0D, 0x0E, 0x11), (0xE4, 0x82, 0x25), (0, 0, 0)} <= found


def test_a_picture_that_no_memory_holds_is_refused() -> None:
    with pytest.raises(DataError, match=r"2000 x 200000 pixels is too large.*SVG or HTML"):
        svg_to_png(drawing("", width=1000, height=100_000))


def test_a_missing_extra_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    with pytest.raises(ConfigError, match=r"pip install 'dgpo-cli\[png\]'"):
        svg_to_png(drawing(""))


def test_a_machine_without_a_font_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(png, "_font_files", dict)
    with pytest.raises(ConfigError, match=r"no monospaced font found.*fonts-dejavu-core"):
        svg_to_png(drawing(""))


def test_fonts_are_found_by_name_in_any_folder_below(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    place = tmp_path / "deep" / "down"
    place.mkdir(parents=True)
    for name in ("LiberationMono-Regular.ttf", "other.ttf"):
        (place / name).touch()
    monkeypatch.setattr(png, "_font_folders", lambda: iter([tmp_path / "none", tmp_path]))
    png._font_files.cache_clear()
    try:
        assert png._font(png._MONOSPACED) == (
            place / "LiberationMono-Regular.ttf",
            "Liberation Mono",
        )
    finally:
        png._font_files.cache_clear()
