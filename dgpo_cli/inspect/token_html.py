"""A completion as coloured tokens for a page, which need no script; numbers are in the titles."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dgpo_cli.core.numbers import probability, small
from dgpo_cli.core.text import UNICODE
from dgpo_cli.core.types import InspectedToken
from dgpo_cli.inspect import palette
from dgpo_cli.inspect.views.measure import Piece, gate, pieces
from dgpo_cli.inspect.views.scale import Scale
from dgpo_cli.ui.document import asset
from dgpo_cli.ui.flow import show_all

Line = list[tuple[str, str, str]]  # class, title and text of each piece


def tokens_style() -> str:
    """The CSS of `token_lines`, for `document`."""
    return asset("tokens.css") + palette.css()


def token_lines(tokens: Sequence[InspectedToken], *, vocab_size: int) -> Iterator[Line]:
    """The lines of a completion for the template's `tokens`.

    The scale is the terminal's fixed one: 1/2 to 2, no colour from 0.8 to 1.25. A coloured token
    with more than GRPO's weight is bold as well.
    """
    scale = Scale.of([token.weight for token in tokens], steps=palette.STEPS)
    line: Line = []
    for piece, text, ends in shown_pieces(tokens):
        look = palette.level_class(scale.level(piece.weight))
        line.append((look, _title(piece, tokens, scale=scale, vocab_size=vocab_size), text))
        if ends:
            yield line
            line = []
    if line:
        yield line


def shown_pieces(tokens: Sequence[InspectedToken]) -> Iterator[tuple[Piece, str, bool]]:
    """Each piece, its visible text in running lines, and whether a line ends behind it."""
    found = pieces(tokens)
    texts = show_all((piece.text for piece in found), glyphs=UNICODE)
    for piece, text in zip(found, texts, strict=True):
        yield piece, text.removesuffix("\n"), text.endswith("\n")


def _title(piece: Piece, tokens: Sequence[InspectedToken], *, scale: Scale, vocab_size: int) -> str:
    token = tokens[piece.start]
    if piece.stop - piece.start > 1:
        last = piece.stop - 1
        return f"tokens {piece.start} to {last}: w {scale.number(piece.weight)} in all"
    return (
        f"token {piece.start}: w {scale.number(token.weight)}, s {small(token.score)}, "
        f"d {small(token.hellinger_sq)}, h {small(gate(token.entropy, vocab_size=vocab_size))}, "
        f"p {probability(token.logprob)}"
    )
