"""The rows that the parts of the panel are made of."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.text import Text

from dgpo_cli.core.text import elide, pad, plain
from dgpo_cli.ui.page import Page

LABEL = 10  # cells before the value of a row
NARROW = 56  # columns; below, rows have short labels and fewer facts
_SHORT_LABEL = 8


def label_width(page: Page) -> int:
    return LABEL if page.width >= NARROW else _SHORT_LABEL


def row(page: Page, label: str, *values: str | Text) -> Text:
    """A dim label and as many whole values, two spaces apart, as have room."""
    start = label_width(page)
    line = plain("").append(pad(elide(label, start - 1), start), page.style("dim"))
    for number, value in enumerate(values):
        text = plain(value) if isinstance(value, str) else value
        gap = 2 if number else 0
        room = page.width - line.cell_len - gap
        if text.cell_len > room:
            if number:
                break
            text = plain(elide(text.plain, room, glyphs=page.glyphs))
        line.append(" " * gap).append_text(text)
    return line


def rows(page: Page, values: Sequence[Text], label: str = "") -> list[Text]:
    """Values in as many rows as they need; the label is on the first."""
    room = page.width - label_width(page)
    lines: list[list[Text]] = [[]]
    for value in values:
        used = sum(each.cell_len + 2 for each in lines[-1])
        if lines[-1] and used + value.cell_len > room:
            lines.append([])
        lines[-1].append(value)
    return [row(page, "" if at else label, *line) for at, line in enumerate(lines)]


def joined(left: Text, right: Text, *, page: Page) -> Text:
    """Two texts at both edges; the left one is cut where they do not fit."""
    room = page.width - right.cell_len - (2 if right.cell_len else 0)
    if left.cell_len > room:
        left = left.copy()
        left.truncate(max(0, room), overflow="crop" if page.glyphs.ascii_only else "ellipsis")
    gap = page.width - left.cell_len - right.cell_len
    return left.copy().append(" " * max(0, gap)).append_text(right)


def meter(done: float, *, cells: int, page: Page) -> Text:
    """A bar of which the share `done` is full."""
    full, empty = ("#", "-") if page.glyphs.ascii_only else ("━", "─")
    count = min(cells, max(0, math.floor(done * cells + 1e-9)))
    return (
        plain("")
        .append(full * count, page.style("cyan"))
        .append(empty * (cells - count), page.style("dim"))
    )


def split_cells_by(counts: list[float], *, cells: int) -> list[int]:
    """Share out `cells` in proportion, at least one to whatever is not 0, exactly `cells` in all.

    What is not a positive number gets none; where there are more parts than cells, some get none.
    """
    counts = [count if 0 < count < math.inf else 0.0 for count in counts]
    total = sum(counts)
    if not 0 < total < math.inf or cells <= 0:
        return [0] * len(counts)
    exact = [count / total * cells for count in counts]
    given = [
        max(1, math.floor(value)) if count else 0
        for value, count in zip(exact, counts, strict=True)
    ]
    while sum(given) != cells:
        step = 1 if sum(given) < cells else -1
        # Who is furthest from his share; nothing goes below one cell as long as another can.
        able = [at for at in range(len(given)) if given[at] > (step < 0)] or [
            at for at in range(len(given)) if given[at]
        ]
        given[max(able, key=lambda at: step * (exact[at] - given[at]))] += step
    return given
