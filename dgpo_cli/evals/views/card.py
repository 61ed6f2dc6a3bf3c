"""The card of an evaluation as lines, with unknown values marked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dgpo_cli.core.text import pad, split_cells
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


def draw_card(page: Page, card: Card) -> None:
    """Write every entry; long values are wrapped, very long ones end in an ellipsis."""
    page.heading(f"Card {card.key[:12]}")
    assumed = _assumed(card.protocol)
    for part, meaning in _PARTS:
        page.heading(part, meaning if len(part) + 2 + len(meaning) <= page.width else "")
        for key, value in flat(getattr(card, part)).items():
            if value in ([], {}):
                continue
            marked = part == "protocol" and key.rpartition(".")[2] in assumed
            _entry(page, key, value, assumed=marked)


def _assumed(protocol: Mapping[str, Any]) -> frozenset[str]:
    """Return the last names of settings that the protocol's source leaves open."""
    names = protocol.get(UNKNOWN)
    listed = names if isinstance(names, (list, tuple)) else ()
    return frozenset(str(name).rpartition(".")[2] for name in listed)


def _entry(page: Page, key: str, value: object, *, assumed: bool) -> None:
    label = min(26, page.width // 2 - 2)
    head = page.text("  ", (pad(page.fit(page.shown(key), label - 1), label), "dim"))
    room = page.width - head.cell_len
    unsure = assumed or value == UNKNOWN
    text = page.shown(written(value))
    text = f"{'? ' * unsure}{text}{' (assumed)' * assumed}"
    for line in range(1, _MOST_LINES + 1):
        part, text = split_cells(text, room) if line < _MOST_LINES else (page.fit(text, room), "")
        page.add(head, (part, "bold" if unsure else ""))
        head = page.text(" " * (page.width - room))
        if not text:
            return
