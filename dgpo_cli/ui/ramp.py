"""The colours and marks that stand for credit weights and other numbers, at each colour depth.

Two arms part at w = 1, GRPO's weight: orange above, blue below. Numbers that only grow have one
green arm. A terminal may be light or dark, so every colour is of middle lightness and stands out
from both; strength is saturation. Text on every colour has a WCAG contrast of at least 4.5.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Literal

from rich.color import Color
from rich.console import Console
from rich.style import Style

Depth = Literal["truecolor", "256", "16", "none"]
DEPTHS: tuple[Depth, ...] = ("none", "16", "256", "truecolor")

# OKLCH: lightness 0.54 to 0.70 and chroma from 0.05 up, nearly the same on both arms; hue 50 to 58
# above, 256 to 248 below.
_ABOVE = (
    "#876655 #906953 #986c51 #a16e4f #a9704c #b27349 "
    "#ba7545 #c37841 #cb7a3c #d37d36 #dc802f #e48225"
)
_BELOW = (
    "#5c708c #5c7595 #5c799e #5c7ea7 #5c82b0 #5b87b9 "
    "#5a8cc2 #5891cc #5795d5 #549ade #519fe7 #4ea4f1"
)
# Lightness 0.44 to 0.80, chroma from 0.03 up, hue 162 to 142.
_GROWING = (
    "#3c4c3f #405a45 #44684a #47764f #4a8454 #4d9258 "
    "#50a15d #53b061 #56bf64 #59ce67 #5cdd6a #5fed6c"
)
MARK_CONTRAST = 3.0  # of a bar on black and on white. Source: WCAG 2.2, 1.4.11
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
    """One depth's arms; `above[i]` and `below[i]` are as far from w = 1 as each other.

    below: empty for numbers that only grow. bold_is_safe: bold leaves the text colour alone; at 16
    colours many terminals turn bold black into grey. inks: the colours of bars above and below; if
    empty, those of `above` and `below` that stand out from black and from white.
    """

    above: tuple[Paint, ...]
    below: tuple[Paint, ...]
    bold_is_safe: bool
    inks: tuple[str, ...] = ()

    def style(self, level: int, *, listed: bool = False) -> Style:
        """Return the look of a token at `level`; `listed` tokens are in the table.

        Nothing is shown by hue alone: above GRPO's weight a token is bold (underlined if bold is
        not safe), and a listed one is underlined. Level 0 has no colour.
        """
        if level == 0:
            return Style(underline=listed or None)
        paint = self.above[level - 1] if level > 0 else self.below[-level - 1]
        above = level > 0 and bool(self.below)
        if self.bold_is_safe:
            return paint.style(bold=above, underline=listed)
        return paint.style(underline=above or listed)

    def ink(self, level: int) -> Style:
        """Return the look of a mark such as a bar; level 0 is dim."""
        if level == 0:
            return Style(dim=True)
        if self.inks:
            return Style(color=self.inks[level < 0])
        arm = self.above if level > 0 else self.below
        found = [p.background for p in arm if _reads_anywhere(p.background)]
        return Style(color=found[(abs(level) - 1) * len(found) // len(arm)])


def luminance(color: str) -> float:
    """Return the relative luminance in [0, 1] of a colour by rich's name. Source: WCAG 2.2."""
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
    """Return the contrast ratio in [1, 21] of two colours. Source: WCAG 2.2."""
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def _reads_anywhere(color: str) -> bool:
    return min(contrast(color, _BLACK), contrast(color, _WHITE)) >= MARK_CONTRAST


def _paints(
    backgrounds: Iterable[str], *, black: str = _BLACK, white: str = _WHITE
) -> tuple[Paint, ...]:
    return tuple(
        Paint(background, max((black, white), key=lambda text: contrast(text, background)))
        for background in backgrounds
    )


def _numbered(*numbers: int) -> tuple[Paint, ...]:
    """Return colours of the 256 by number."""
    return _paints(map("color({})".format, numbers), black="color(16)", white="color(231)")


RAMPS: dict[Depth, Ramp] = {
    "truecolor": Ramp(_paints(_ABOVE.split()), _paints(_BELOW.split()), bold_is_safe=True),
    "256": Ramp(
        _numbered(95, 137, 173, 172, 208), _numbered(60, 67, 68, 69, 33), bold_is_safe=True
    ),
    "16": Ramp(
        tuple(
            map(Paint, ("color(1)", "color(9)", "color(11)"), ("color(15)", "color(0)", "color(0)"))
        ),
        tuple(
            map(Paint, ("color(4)", "color(6)", "color(14)"), ("color(15)", "color(0)", "color(0)"))
        ),
        bold_is_safe=False,
        inks=("color(9)", "color(12)"),
    ),
}
GROWING: dict[Depth, Ramp] = {
    "truecolor": Ramp(_paints(_GROWING.split()), (), bold_is_safe=True),
    "256": Ramp(_numbered(65, 71, 77, 83, 118), (), bold_is_safe=True),
    "16": Ramp(
        tuple(Paint(f"color({number})", "color(0)") for number in (2, 10, 11)),
        (),
        bold_is_safe=False,
        inks=("color(2)",),
    ),
}
MARK_LEVELS = 3  # glyphs on each arm where there is no colour


def levels(depth: Depth) -> int:
    """Return the number of steps of each arm of the scale."""
    ramp = RAMPS.get(depth)
    return len(ramp.above) if ramp else MARK_LEVELS


def depth_of(console: Console) -> Depth:
    """Return what a console can show: none with NO_COLOR, in a pipe or on a dumb terminal."""
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
    """Return the lesser of two depths."""
    return min(first, second, key=DEPTHS.index)
