"""How each outcome of a sample looks: a glyph, a colour at each depth, and its name."""

from __future__ import annotations

from rich.style import Style

from dgpo_cli.core.text import Glyphs
from dgpo_cli.core.types import Outcome
from dgpo_cli.ui.ramp import Depth

# Name, glyph, glyph in ASCII, and colours at each depth, of middle lightness: they stand out from
# light and dark terminals.
_LOOKS: dict[Outcome, tuple[str, str, str, str, str, str]] = {
    "correct": ("correct", "█", "#", "#2f8fd0", "color(32)", "color(12)"),
    "wrong": ("wrong", "·", ".", "#c8722b", "color(166)", "color(9)"),
    "no_answer": ("no answer", "?", "?", "#858585", "color(244)", "default"),
    "truncated": ("truncated", "»", ">", "#9a8420", "color(136)", "color(13)"),
    "out_of_range": ("out of range", "!", "!", "#b07a1c", "color(130)", "color(9)"),
    "timeout": ("check timed out", "T", "T", "#d65a62", "color(167)", "color(5)"),
    "crash": ("check crashed", "X", "X", "#d65a62", "color(167)", "color(5)"),
    "scored": ("scored", "▪", "o", "#4f8f6b", "color(65)", "color(10)"),
    "error": ("reward failed", "E", "E", "#d65a62", "color(167)", "color(5)"),
}
NAMES: dict[Outcome, str] = {outcome: look[0] for outcome, look in _LOOKS.items()}
_DEPTHS: tuple[Depth, ...] = ("truecolor", "256", "16")
COLOURS: dict[Depth, dict[Outcome, str]] = {
    depth: {outcome: look[at] for outcome, look in _LOOKS.items()}
    for at, depth in enumerate(_DEPTHS, start=3)
}


def glyph(outcome: Outcome, *, glyphs: Glyphs) -> str:
    """Return the glyph of an outcome: one cell, different for each."""
    return _LOOKS[outcome][2 if glyphs.ascii_only else 1]


def style(outcome: Outcome, *, depth: Depth) -> Style:
    """Return the colour of an outcome; none if there is no colour."""
    return Style(color=COLOURS[depth][outcome]) if depth in COLOURS else Style.null()
