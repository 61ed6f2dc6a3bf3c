"""A drawing as PNG, by resvg: one wheel without system libraries, which must be given fonts."""

from __future__ import annotations

import html
import importlib.util
import logging
import math
import os
import re
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

from rich.cells import cell_len

from dgpo_cli.core.errors import ConfigError, DataError

SCALE = 2.0  # pixels for a unit of the drawing
MAX_PIXELS = 100_000_000  # 400 MB while it is drawn

# Files of common fonts and their family, those with the most characters first.
_MONOSPACED = {
    "DejaVuSansMono.ttf": "DejaVu Sans Mono",
    "NotoSansMono-Regular.ttf": "Noto Sans Mono",
    "Menlo.ttc": "Menlo",
    "CascadiaMono.ttf": "Cascadia Mono",
    "consola.ttf": "Consolas",
    "LiberationMono-Regular.ttf": "Liberation Mono",
    "FreeMono.ttf": "FreeMono",
    "UbuntuMono-R.ttf": "Ubuntu Mono",
    "cour.ttf": "Courier New",
}
_PLAIN = {
    "DejaVuSans.ttf": "DejaVu Sans",
    "NotoSans-Regular.ttf": "Noto Sans",
    "Helvetica.ttc": "Helvetica",
    "segoeui.ttf": "Segoe UI",
    "arial.ttf": "Arial",
    "LiberationSans-Regular.ttf": "Liberation Sans",
}
_BOX = "\u25a1"  # for a character that no font has
_NAMED = 8  # of those characters in a note
_FONTS = frozenset((".ttf", ".otf", ".ttc", ".otc"))
_UNDRAWN = frozenset(("Cc", "Cf", "Zs", "Zl", "Zp"))  # categories that no font needs to have
_CJK = re.compile(
    "[\u1100-\u11ff\u2e80-\ua4cf\ua960-\ua97f\uac00-\ud7ff\uf900-\ufaff\ufe30-\ufe4f\uff00-\uffef"
    "\U0001b000-\U0001b2ff\U00020000-\U0003ffff]"
)
_EMOJI = re.compile("[\u2600-\u27bf\u2b00-\u2bff\U0001f000-\U0001faff]")


def svg_to_png(svg: str, *, scale: float = SCALE) -> bytes:
    """Draw our own SVG; `scale` pixels for a unit of its viewBox.

    Raises:
        ConfigError: the extra is not installed, or this machine has no monospaced font.
        DataError: the picture would be larger than MAX_PIXELS.
    """
    try:
        import fontTools  # noqa: F401 - needed below
        import resvg_py
    except ImportError as error:
        raise ConfigError(
            "PNG needs resvg-py and fonttools: pip install 'dgpo-cli[png]'"
        ) from error
    width, height = _size(svg)
    pixels = math.ceil(width * scale) * math.ceil(height * scale)
    if pixels > MAX_PIXELS:
        raise DataError(
            f"a PNG of {width * scale:.0f} x {height * scale:.0f} pixels is too large "
            f"(at most {MAX_PIXELS // 1_000_000} million); write SVG or HTML instead"
        )
    file, family = _font(_MONOSPACED)
    plain_file, plain_family = _plain_font() or (file, family)
    return bytes(
        resvg_py.svg_to_bytes(
            # resvg draws nothing after the first character that no font has.
            svg_string=svg.translate({ord(each): _box(each) for each in lacking(svg)}),
            zoom=scale,
            font_files=[str(file), str(plain_file)],
            monospace_family=family,
            font_family=family,
            sans_serif_family=plain_family,
            serif_family=plain_family,
        )
    )


def lacking(svg: str) -> tuple[str, ...]:
    """Return the characters of a drawing that no font of this machine has: they become boxes."""
    texts = html.unescape(re.sub(r"<style>.*?</style>|<[^>]*>", "", svg, flags=re.DOTALL))
    wanted = {each for each in texts if not each.isascii() and _is_drawn(each)}
    files = _font_files()
    first = [files[name] for name in (*_MONOSPACED, *_PLAIN) if name in files]
    rest = (path for path in files.values() if path.suffix.lower() in _FONTS)
    for path in (*first, *rest):
        if not wanted:
            break
        wanted -= held(path, wanted)
    return tuple(sorted(wanted))


def held(path: Path, characters: Iterable[str]) -> set[str]:
    """Return the characters that a font file has, or the first font of a collection."""
    from fontTools.ttLib import TTFont

    logging.getLogger("fontTools").setLevel(logging.CRITICAL)  # it reports broken fonts on stderr
    try:
        with TTFont(path, fontNumber=0, lazy=True) as font:
            codes = font.getBestCmap() or {}
    except Exception:  # a broken file may raise anything
        return set()
    return {each for each in characters if ord(each) in codes}


def lacking_note(characters: Sequence[str]) -> str:
    """Return a note that these characters are boxes, and how to draw them."""
    text = "".join(characters)
    packages = [
        name
        for name, pattern in (("fonts-noto-cjk", _CJK), ("fonts-noto-color-emoji", _EMOJI))
        if pattern.search(text)
    ]
    if _EMOJI.sub("", _CJK.sub("", text)):
        packages.append("fonts-noto-core")
    some = " ".join(characters[:_NAMED]) + " ..." * (len(characters) > _NAMED)
    return (
        f"no font here has {some}: the picture has boxes there; "
        f"on Debian: apt-get install {' '.join(packages)}"
    )


def _box(character: str) -> str:
    """Return a box as wide as the character on a terminal."""
    return _BOX + " " * (cell_len(character) - 1)


def _is_drawn(character: str) -> bool:
    variation = "\ufe00" <= character <= "\ufe0f" or "\U000e0100" <= character <= "\U000e01ef"
    return unicodedata.category(character) not in _UNDRAWN and not variation


def _size(svg: str) -> tuple[float, float]:
    """Return width and height of the viewBox."""
    found = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
    if found is None:
        raise ValueError("the SVG has no viewBox that starts at 0 0")
    return float(found[1]), float(found[2])


def _font(families: Mapping[str, str]) -> tuple[Path, str]:
    """Return file and family of the first of these fonts that is on this machine."""
    files = _font_files()
    for name, family in families.items():
        if name in files:
            return files[name], family
    raise ConfigError(
        "no monospaced font found to draw a PNG with; install one, "
        "for example: apt-get install fonts-dejavu-core"
    )


def _plain_font() -> tuple[Path, str] | None:
    try:
        return _font(_PLAIN)
    except ConfigError:
        return None


@cache
def _font_files() -> dict[str, Path]:
    """Return the fonts of this machine by file name; the first folder wins."""
    found: dict[str, Path] = {}
    for folder in _font_folders():
        for place, _, names in os.walk(folder):
            for name in names:
                found.setdefault(name, Path(place, name))
    return found


def _font_folders() -> Iterator[Path]:
    home = Path.home()
    if sys.platform == "darwin":
        yield from (home / "Library/Fonts", Path("/Library/Fonts"), Path("/System/Library/Fonts"))
    elif os.name == "nt":
        yield Path(os.environ.get("WINDIR", "C:\\Windows"), "Fonts")
    else:
        yield from (home / ".local/share/fonts", home / ".fonts")
        yield from (Path("/usr/local/share/fonts"), Path("/usr/share/fonts"))
    plots = importlib.util.find_spec("matplotlib")  # brings DejaVu along
    if plots is not None and plots.origin is not None:
        yield Path(plots.origin).parent / "mpl-data/fonts/ttf"
