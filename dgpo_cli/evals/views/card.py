"""The card of an evaluation as lines: what moved the score, with what is unknown marked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.cells import cell_len
from rich.text import Text

from dgpo_cli.core.text import elide, pad, plain, split_cells, visible
from dgpo_cli.core.types import Card
from dgpo_cli.stats.cards import flat, written
from dgpo_cli.ui.page import Page

UNKNOWN = "unknown"  # a value of the card, and the entry that lists what was assumed
_MOST_LINES = 6  # of one value
_PARTS = (
    ("protocol", "what comparable scores share"),
    ("subject", "what is evaluated"),
    ("environment", "what it ran on"),
)


def card_lines(card: Card, *, page: Page) -> Iterator[Text]:
    """Every entry of the card; long values are wrapped, very long ones end in an ellipsis."""
    yield plain(f"Card {card.key[:12]}", style=page.style("bold"))
    assumed = _assumed(card.protocol)
    for part, meaning in _PARTS:
        entries = flat(getattr(card, part))
        head = plain("").append(part, page.style("bold"))
        if len(part) + 2 + len(meaning) <= page.width:
            head.append(f"  {meaning}", page.style("dim"))
        yield head
        for key, value in entries.items():
            if value in ([], {}):
                continue
            marked = part == "protocol" and key.rpartition(".")[2] in assumed
            yield from _entry(key, value, assumed=marked, page=page)


def _assumed(protocol: Mapping[str, Any]) -> frozenset[str]:
    """The last names of the settings that the protocol's source leaves open."""
    names = protocol.get(UNKNOWN)
    listed = names if isinstance(names, (list, tuple)) else ()
    return frozenset(str(name).rpartition(".")[2] for name in listed)


def _entry(key: str, value: object, *, assumed: bool, page: Page) -> Iterator[Text]:
    label = min(26, page.width // 2 - 2)
    head = plain("  ").append(
        pad(elide(visible(key, glyphs=page.glyphs), label - 1, glyphs=page.glyphs), label),
        page.style("dim"),
    )
    room = page.width - head.cell_len
    strong = page.style("bold") if assumed or value == UNKNOWN else ""
    text = visible(written(value), glyphs=page.glyphs)
    if assumed:
        text = f"? {text} (assumed)"
    elif value == UNKNOWN:
        text = f"? {text}"
    for piece in _wrapped(text, room, page=page):
        yield head.append(piece, strong)
        head = plain(" " * (page.width - room))


def _wrapped(text: str, room: int, *, page: Page) -> Iterator[str]:
    """Pieces of visible text that fit, cut at any character; the last may end in an ellipsis."""
    for _ in range(_MOST_LINES - 1):
        piece, text = split_cells(text, room)
        yield piece
        if not text:
            return
    yield elide(text, room, glyphs=page.glyphs) if cell_len(text) > room else text
