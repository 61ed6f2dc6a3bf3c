"""A completion as coloured tokens on a page: text, classes and the colours of both schemes.

It needs no script; numbers are in the titles. Classes `u1` to `u12` are above the middle of a
diverging scale (w = 1, or 0 for signed quantities), `d1` to `d12` below, `q1` to `q12` on a
sequential scale; the middle has no class. Strength is lightness: it rises with the distance on a
dark card and falls on a light one. Text on every colour has a contrast of at least 4.5.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

from dgpo_cli.core.numbers import probability, small
from dgpo_cli.core.text import UNICODE
from dgpo_cli.core.types import InspectedToken
from dgpo_cli.inspect.views.measure import Piece, gate, pieces
from dgpo_cli.ui.document import asset
from dgpo_cli.ui.flow import show_all
from dgpo_cli.ui.ramp import contrast
from dgpo_cli.ui.scale import Scale

TokenLine = list[tuple[str, str, str]]  # class, title and text of each piece
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
    """Return the colours of each arm from weak to strong."""
    ramps = {
        "light": (_LIGHT_ABOVE, _LIGHT_BELOW, _LIGHT_GROWING),
        "dark": (_DARK_ABOVE, _DARK_BELOW, _DARK_GROWING),
    }[scheme]
    return {arm: _readable(ramp.split()) for arm, ramp in zip(ARMS, ramps, strict=True)}


def css() -> str:
    """Return the rules of all classes: for text and, by `fill`, for shapes."""
    light, dark = colours("light"), colours("dark")
    rules = []
    for arm in ARMS:
        for step, (day, night) in enumerate(zip(light[arm], dark[arm], strict=True), start=1):
            back = f"light-dark({day.background},{night.background})"
            text = f"light-dark({day.text},{night.text})"
            rules.append(f".{arm}{step}{{background:{back};fill:{back};color:{text}}}\n")
    return "".join(rules)


def level_class(level: int) -> str:
    """Return the class of a level on the diverging scale; empty for the middle."""
    return f"u{level}" if level > 0 else f"d{-level}" if level else ""


def _readable(backgrounds: list[str]) -> tuple[Colour, ...]:
    return tuple(
        Colour(back, max((_BLACK, _WHITE), key=lambda text: contrast(text, back)))
        for back in backgrounds
    )


def tokens_style() -> str:
    """Return the CSS of `token_lines`, for `document`."""
    return asset("tokens.css") + css()


def token_lines(tokens: Sequence[InspectedToken], *, vocab_size: int) -> Iterator[TokenLine]:
    """Yield the lines of a completion for the template's `tokens`.

    The scale is the terminal's fixed one: 1/2 to 2, no colour from 0.8 to 1.25.
    """
    own = [token.weight for token in tokens if not token.environment]
    scale = Scale.of(own, steps=STEPS)
    line: TokenLine = []
    for piece, text, ends in shown_pieces(tokens):
        look = "env" if piece.environment else level_class(scale.level(piece.weight))
        line.append((look, _title(piece, tokens, scale=scale, vocab_size=vocab_size), text))
        if ends:
            yield line
            line = []
    if line:
        yield line


def shown_pieces(tokens: Sequence[InspectedToken]) -> Iterator[tuple[Piece, str, bool]]:
    """Yield each piece, its visible text, and whether a line ends after it."""
    found = pieces(tokens)
    texts = show_all((piece.text for piece in found), glyphs=UNICODE)
    for piece, text in zip(found, texts, strict=True):
        yield piece, text.removesuffix("\n"), text.endswith("\n")


def _title(piece: Piece, tokens: Sequence[InspectedToken], *, scale: Scale, vocab_size: int) -> str:
    token = tokens[piece.start]
    if piece.environment:
        return f"token {piece.start}: written by the environment"
    if piece.stop - piece.start > 1:
        last = piece.stop - 1
        return f"tokens {piece.start} to {last}: w {scale.number(piece.weight)} in all"
    return (
        f"token {piece.start}: w {scale.number(token.weight)}, s {small(token.score)}, "
        f"d {small(token.hellinger_sq)}, h {small(gate(token.entropy, vocab_size=vocab_size))}, "
        f"p {probability(token.logprob)}"
    )
