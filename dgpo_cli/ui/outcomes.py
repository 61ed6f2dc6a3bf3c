"""How each outcome of a sample looks: a glyph, a colour at each depth, and its name."""

from __future__ import annotations

from rich.style import Style

from dgpo_cli.core.text import Glyphs
from dgpo_cli.core.types import Outcome
from dgpo_cli.ui.ramp import Depth

NAMES: dict[Outcome, str] = {
    "correct": "correct",
    "wrong": "wrong",
    "no_answer": "no answer",
    "truncated": "truncated",
    "out_of_range": "out of range",
    "timeout": "check timed out",
    "crash": "check crashed",
}
_UNICODE: dict[Outcome, str] = {
    "correct": "█",
    "wrong": "·",
    "no_answer": "?",
    "truncated": "»",
    "out_of_range": "!",
    "timeout": "T",
    "crash": "X",
}
_ASCII = _UNICODE | {"correct": "#", "wrong": ".", "truncated": ">"}
# Of middle lightness: they stand out from light and dark terminals.
_TRUECOLOR: dict[Outcome, str] = {
    "correct": "#2f8fd0",
    "wrong": "#c8722b",
    "no_answer": "#858585",
    "truncated": "#9a8420",
    "out_of_range": "#b07a1c",
    "timeout": "#d65a62",
    "crash": "#d65a62",
}
_CUBE: dict[Outcome, str] = {
    "correct": "color(32)",
    "wrong": "color(166)",
    "no_answer": "color(244)",
    "truncated": "color(136)",
    "out_of_range": "color(130)",
    "timeout": "color(167)",
    "crash": "color(167)",
}
_ANSI: dict[Outcome, str] = {
    "correct": "color(12)",
    "wrong": "color(9)",
    "no_answer": "default",
    "truncated": "color(13)",
    "out_of_range": "color(9)",
    "timeout": "color(5)",
    "crash": "color(5)",
}
COLOURS: dict[Depth, dict[Outcome, str]] = {"truecolor": _TRUECOLOR, "256": _CUBE, "16": _ANSI}


def glyph(outcome: Outcome, *, glyphs: Glyphs) -> str:
    """One cell that stands for an outcome, different for each."""
    return (_ASCII if glyphs.ascii_only else _UNICODE)[outcome]


def style(outcome: Outcome, *, depth: Depth) -> Style:
    """The colour of an outcome; none where there is no colour."""
    return Style(color=COLOURS[depth][outcome]) if depth in COLOURS else Style.null()
