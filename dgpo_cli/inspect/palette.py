"""The colours of tokens on a page, in both schemes, as CSS classes.

`u1` to `u12` lie above the middle of a diverging scale (w = 1, or 0 for signed quantities), `d1` to
`d12` below, `q1` to `q12` on a sequential scale; no class is the middle, or nothing. Strength is
lightness: on a dark card it rises with the distance, on a light one it falls, equally on both arms.
Text on every colour has a contrast of at least 4.5.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

from dgpo_cli.ui.ramp import contrast

Scheme = Literal["light", "dark"]
ARMS = ("u", "d", "q")
STEPS = 12

# OKLCH: lightness 0.955 to 0.47, hue 84 to 48 above and 216 to 262 below; for numbers that only
# grow 0.955 to 0.40, hue 140 to 175.
_LIGHT_ABOVE = (
    "#ffeece #f8deb3 #f1cd97 #ebbc7c #e5aa60 #e09842 "
    "#da8519 #ce7500 #bf6701 #b05902 #a14c01 #913f01"
)
_LIGHT_BELOW = (
    "#d8f6ff #bdeafa #a2def5 #87d0f2 #6dc3ef #53b4ec "
    "#38a5e9 #3395dd #3185d0 #2f75c3 #2e66b6 #2c56a8"
)
_LIGHT_GROWING = (
    "#e4f6e0 #cde8cb #b5dbb7 #9ccda4 #81c093 #64b383 "
    "#42a675 #24976b #008761 #027559 #026550 #005545"
)
# OKLCH: lightness 0.27 to 0.90, the hues of the light scheme.
_DARK_ABOVE = (
    "#3f1b05 #4e2201 #5f2e01 #713b00 #834a02 #975a01 "
    "#ab6b00 #c07d02 #d39215 #e1a944 #f0c166 #ffd986"
)
_DARK_BELOW = (
    "#19263f #1b314f #1e3e62 #204e76 #205f8b #1d71a1 "
    "#1585b7 #209ac9 #44aed5 #62c3e1 #80d8ef #9eedfd"
)
_DARK_GROWING = (
    "#002e25 #003f31 #03503c #046247 #047550 #088958 "
    "#029e5d #37af67 #5ebf76 #80cf88 #a1de9d #bfedb5"
)
_BLACK, _WHITE = "#000000", "#ffffff"


@dataclass(frozen=True, slots=True)
class Colour:
    """A background and the text on it, as #rrggbb."""

    background: str
    text: str


@cache
def colours(scheme: Scheme) -> dict[str, tuple[Colour, ...]]:
    """Each arm's colours from weak to strong."""
    ramps = {
        "light": (_LIGHT_ABOVE, _LIGHT_BELOW, _LIGHT_GROWING),
        "dark": (_DARK_ABOVE, _DARK_BELOW, _DARK_GROWING),
    }[scheme]
    return {arm: _readable(ramp.split()) for arm, ramp in zip(ARMS, ramps, strict=True)}


def css() -> str:
    """The rules of all classes: for elements of text and, by `fill`, for shapes."""
    light, dark = colours("light"), colours("dark")
    rules = []
    for arm in ARMS:
        for step, (day, night) in enumerate(zip(light[arm], dark[arm], strict=True), start=1):
            back = f"light-dark({day.background},{night.background})"
            text = f"light-dark({day.text},{night.text})"
            rules.append(f".{arm}{step}{{background:{back};fill:{back};color:{text}}}\n")
    return "".join(rules)


def level_class(level: int) -> str:
    """The class of a level on the diverging scale; empty for the middle."""
    return f"u{level}" if level > 0 else f"d{-level}" if level else ""


def _readable(backgrounds: list[str]) -> tuple[Colour, ...]:
    return tuple(
        Colour(back, max((_BLACK, _WHITE), key=lambda text: contrast(text, back)))
        for back in backgrounds
    )
