"""Anything that rich can print, as one SVG file that needs no network."""

from __future__ import annotations

import io
import re

from rich.console import Console, RenderableType
from rich.terminal_theme import TerminalTheme

from dgpo_cli.core.text import visible

_FONTS = "ui-monospace, 'SF Mono', Menlo, Consolas, 'DejaVu Sans Mono', monospace"
_TEMPLATE = (
    """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">
<style>
.{unique_id}-matrix {{ font-family: FONTS; font-size: {char_height}px; }}
.{unique_id}-title {{ font-family: system-ui, sans-serif; font-size: 16px; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip">
<rect width="{terminal_width}" height="{terminal_height}"/>
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip)">
{backgrounds}
<g class="{unique_id}-matrix" xml:space="preserve">
{matrix}
</g>
</g>
</svg>
"""
).replace("FONTS", _FONTS)

_THEME = TerminalTheme(
    background=(13, 14, 17),
    foreground=(214, 215, 220),
    normal=[
        (0, 0, 0),
        (205, 0, 0),
        (0, 205, 0),
        (205, 205, 0),
        (0, 0, 238),
        (205, 0, 205),
        (0, 205, 205),
        (229, 229, 229),
    ],
    bright=[
        (127, 127, 127),
        (255, 0, 0),
        (0, 255, 0),
        (255, 255, 0),
        (92, 92, 255),
        (255, 0, 255),
        (0, 255, 255),
        (255, 255, 255),
    ],
)


def export_svg(renderable: RenderableType, *, title: str, width: int) -> str:
    """Return the renderable as a picture of a terminal of `width` cells, in truecolor.

    The same input gives the same bytes. `title` may be untrusted text.
    """
    console = Console(
        record=True,
        width=width,
        file=io.StringIO(),
        force_terminal=True,
        color_system="truecolor",
        legacy_windows=False,
        no_color=False,
        highlight=False,
        markup=False,
        emoji=False,
        _environ={},
    )
    console.print(renderable)
    console.print(" ")  # rich gives every line but the last its clip path
    svg = console.export_svg(title=visible(title), theme=_THEME, code_format=_TEMPLATE)
    return re.sub(r"<text [^>]*>\n</text>", "", svg)  # rich writes line ends as texts
