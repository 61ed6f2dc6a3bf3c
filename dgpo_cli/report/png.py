"""A drawing as PNG, by resvg: it comes as one wheel and needs no library of the system.

resvg draws nothing where it knows no font, so that the fonts are looked for here first.
"""

from __future__ import annotations

import importlib.util
import math
import os
import re
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

from dgpo_cli.errors import ConfigError, DataError

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


def svg_to_png(svg: str, *, scale: float = SCALE) -> bytes:
    """Draw an SVG of our own making; `scale` pixels stand for a unit of its viewBox.

    Raises:
        ConfigError: the extra is not installed, or this machine has no monospaced font.
        DataError: the picture would be larger than MAX_PIXELS.
    """
    try:
        import resvg_py
    except ImportError as error:
        raise ConfigError(
            "PNG needs resvg-py, which is not installed: pip install 'dgpo-cli[png]'"
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
            svg_string=svg,
            zoom=scale,
            font_files=[str(file), str(plain_file)],
            monospace_family=family,
            font_family=family,
            sans_serif_family=plain_family,
            serif_family=plain_family,
        )
    )


def _size(svg: str) -> tuple[float, float]:
    """Width and height of the viewBox."""
    found = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
    if found is None:
        raise ValueError("the SVG has no viewBox that starts at 0 0")
    return float(found[1]), float(found[2])


def _font(families: Mapping[str, str]) -> tuple[Path, str]:
    """File and family of the first of these fonts that is on this machine."""
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
    """The fonts of this machine by file name; the first folder that holds a name wins."""
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
