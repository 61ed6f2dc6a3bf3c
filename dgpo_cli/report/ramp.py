"""The colours and marks that stand for credit weights and other numbers, at each colour depth.

Two arms part at w = 1, GRPO's weight: orange above, blue below. On each arm lightness grows with
|log w|, equally on both. Numbers that only grow have one green arm. The text on every colour has a
WCAG contrast of at least 4.5. The colours are laid on a dark card of our own, so that they read
alike on any terminal.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

from rich.color import Color
from rich.console import Console
from rich.style import Style

Depth = Literal["truecolor", "256", "16", "none"]
DEPTHS: tuple[Depth, ...] = ("none", "16", "256", "truecolor")

# OKLCH: lightness 0.27 to 0.90, the same on both arms; hue 48 to 86 above, 262 to 212 below.
_ABOVE = (
    "#3f1b05 #4e2201 #5f2e01 #713b00 #834a02 #975a01 "
    "#ab6b00 #c07d02 #d39215 #e1a944 #f0c166 #ffd986"
)
_BELOW = (
    "#19263f #1b314f #1e3e62 #204e76 #205f8b #1d71a1 "
    "#1585b7 #209ac9 #44aed5 #62c3e1 #80d8ef #9eedfd"
)
# The same lightness, hue 175 to 140.
_GROWING = (
    "#002e25 #003f31 #03503c #046247 #047550 #088958 "
    "#029e5d #37af67 #5ebf76 #80cf88 #a1de9d #bfedb5"
)
MARK_CONTRAST = 3.0  # of a bar on the card. Source: WCAG 2.2, 1.4.11
_BLACK, _WHITE = "#000000", "#ffffff"


@dataclass(frozen=True, slots=True)
class Paint:
    """A background and the text on it, as rich names colours."""

    background: str
    text: str

    def style(self, *, bold: bool = False, underline: bool = False) -> Style:
        return _style(self.text, self.background, bold, underline)


@dataclass(frozen=True, slots=True)
class Ramp:
    """One depth's card and arms; `above[i]` and `below[i]` are as far from w = 1 as each other.

    below: empty for numbers that only grow. muted: the colour of notes of ours on the card.
    bold_is_safe: whether a terminal leaves the text colour alone when the text is bold. Many turn
    bold black into grey at 16 colours.
    """

    card: Paint
    above: tuple[Paint, ...]
    below: tuple[Paint, ...]
    bold_is_safe: bool
    muted: str

    def paint(self, level: int) -> Paint:
        """The colours of a level: 0 is the card's, positive ones are above."""
        if level == 0:
            return self.card
        return self.above[level - 1] if level > 0 else self.below[-level - 1]

    def style(self, level: int, *, listed: bool = False) -> Style:
        """What a token at `level` looks like; `listed` tokens are in the table.

        More than GRPO's weight is also said by bold (by underline where bold is not safe), and a
        listed token by underline: nothing is said by hue alone. One arm alone needs no such sign.
        """
        paint = self.paint(level)
        above = level > 0 and bool(self.below)
        if self.bold_is_safe:
            return paint.style(bold=above, underline=listed)
        return paint.style(underline=above or listed)

    def ink(self, level: int) -> Style:
        """What a mark on the card looks like, such as a bar: the level's hue, never too dark."""
        return _style(self._ink(level), self.card.background, False, False)

    def note(self) -> Style:
        """What a note of ours on the card looks like."""
        return Style(color=self.muted, bgcolor=self.card.background, italic=True)

    def _ink(self, level: int) -> str:
        if level == 0:
            return self.muted
        arm = self.above if level > 0 else self.below
        card = self.card.background
        least = next(
            at for at, p in enumerate(arm) if contrast(p.background, card) >= MARK_CONTRAST
        )
        rest = len(arm) - 1 - least
        at = least + round((abs(level) - 1) * rest / max(1, len(arm) - 1))
        return arm[at].background


def luminance(color: str) -> float:
    """Relative luminance in [0, 1] of a colour by rich's name. Source: WCAG 2.2."""
    triplet = Color.parse(color).get_truecolor()
    red, green, blue = (
        value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
        for value in (triplet.red / 255, triplet.green / 255, triplet.blue / 255)
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@cache
def _style(text: str, background: str, bold: bool, underline: bool) -> Style:
    return Style(color=text, bgcolor=background, bold=bold or None, underline=underline or None)


@cache
def contrast(first: str, second: str) -> float:
    """Contrast ratio in [1, 21] of two colours. Source: WCAG 2.2."""
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def _paints(backgrounds: list[str], *, black: str, white: str) -> tuple[Paint, ...]:
    return tuple(
        Paint(background, max((black, white), key=lambda text: contrast(text, background)))
        for background in backgrounds
    )


def _truecolor() -> Ramp:
    return Ramp(
        card=Paint("#16171b", "#d6d7dc"),
        above=_paints(_ABOVE.split(), black=_BLACK, white=_WHITE),
        below=_paints(_BELOW.split(), black=_BLACK, white=_WHITE),
        bold_is_safe=True,
        muted="#9a9ba4",
    )


def _cube() -> Ramp:
    def paints(*numbers: int) -> tuple[Paint, ...]:
        names = [f"color({number})" for number in numbers]
        return _paints(names, black="color(16)", white="color(231)")

    return Ramp(
        card=Paint("color(233)", "color(252)"),
        above=paints(52, 94, 130, 166, 172, 208, 214, 220),
        below=paints(17, 24, 31, 67, 38, 75, 81, 153),
        bold_is_safe=True,
        muted="color(247)",
    )


def _ansi() -> Ramp:
    black, white = "color(0)", "color(15)"
    return Ramp(
        card=Paint(black, "color(7)"),
        above=(
            Paint("color(1)", white),
            Paint("color(9)", black),
            Paint("color(11)", black),
        ),
        below=(
            Paint("color(4)", white),
            Paint("color(6)", black),
            Paint("color(14)", black),
        ),
        bold_is_safe=False,
        muted="color(7)",
    )


def _growing(depth: Depth) -> Ramp:
    """The one-armed ramp that lies on the same card as the two-armed one."""
    both = RAMPS[depth]
    if depth == "truecolor":
        above = _paints(_GROWING.split(), black=_BLACK, white=_WHITE)
    elif depth == "256":
        numbers = (22, 29, 35, 77, 114, 151, 157, 194)
        names = [f"color({number})" for number in numbers]
        above = _paints(names, black="color(16)", white="color(231)")
    else:
        above = tuple(Paint(f"color({number})", "color(0)") for number in (2, 10, 15))
    return Ramp(
        card=both.card, above=above, below=(), bold_is_safe=both.bold_is_safe, muted=both.muted
    )


RAMPS: dict[Depth, Ramp] = {"truecolor": _truecolor(), "256": _cube(), "16": _ansi()}
GROWING: dict[Depth, Ramp] = {depth: _growing(depth) for depth in RAMPS}
MARK_LEVELS = 3  # glyphs on each arm where there is no colour


def levels(depth: Depth) -> int:
    """How many steps each arm of the scale has."""
    ramp = RAMPS.get(depth)
    return len(ramp.above) if ramp else MARK_LEVELS


def depth_of(console: Console) -> Depth:
    """What a console can show: NO_COLOR, pipes and dumb terminals show no colour."""
    if console.no_color:
        return "none"
    known: dict[str | None, Depth] = {
        "truecolor": "truecolor",
        "256": "256",
        "standard": "16",
        "windows": "16",
    }
    return known.get(console.color_system, "none")


def shallower(first: Depth, second: Depth) -> Depth:
    """The lesser of two depths."""
    return min(first, second, key=DEPTHS.index)
