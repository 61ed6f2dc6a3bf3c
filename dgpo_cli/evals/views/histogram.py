"""A histogram of completion lengths: a row a bin, correct samples next to all others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.text import Text

from dgpo_cli.core.types import Outcome
from dgpo_cli.ui.outcomes import style
from dgpo_cli.ui.page import Page

_BINS = 12  # at most


@dataclass(frozen=True, slots=True)
class Bin:
    """Lengths from `low` to `high`, both included, and the number of samples."""

    low: int
    high: int
    right: int
    wrong: int


def bins(right: Sequence[int], wrong: Sequence[int]) -> tuple[Bin, ...]:
    """Split lengths in tokens into at most 12 bins of one round width."""
    both = (*right, *wrong)
    if not both:
        return ()
    low, high = min(both), max(both)
    width = _round_width(low, high)
    first = low // width
    counts = [[0, 0] for _ in range(first, high // width + 1)]
    for side, lengths in enumerate((right, wrong)):
        for length in lengths:
            counts[length // width - first][side] += 1
    return tuple(
        Bin((first + at) * width, (first + at + 1) * width - 1, *count)
        for at, count in enumerate(counts)
    )


def _round_width(low: int, high: int) -> int:
    """Return the least of 1, 2, 5, 10, 20, ... that splits low to high into few enough bins."""
    power = 1
    while True:
        for step in (power, 2 * power, 5 * power):
            if high // step - low // step < _BINS:
                return step
        power *= 10


def histogram(page: Page, right: Sequence[int], wrong: Sequence[int]) -> None:
    """Write the bins as bars on one scale: a bar of any sample has at least one cell."""
    shown = bins(right, wrong)
    if not shown:
        return
    labels = [f"{b.low:,}" if b.low == b.high else f"{b.low:,}-{b.high:,}" for b in shown]
    label = max(map(len, labels))
    most = max(max(b.right, b.wrong) for b in shown)
    column = (page.width - label - 2) // 2
    bar = max(1, column - len(f"{most:,}") - 2)
    mark = "█▒" if not page.glyphs.ascii_only else "#="

    def drawn(count: int, outcome: Outcome) -> Text:
        if not count:
            return page.text()
        cells = mark[outcome != "correct"] * max(1, round(bar * count / most))
        return page.text((cells, style(outcome, depth=page.depth)), (f" {count:,}", "dim"))

    heads = (f"right {len(right):,}", column, "dim"), (f"wrong {len(wrong):,}", column, "dim")
    page.row(("", label + 2), *heads).rstrip()
    for text, each in zip(labels, shown, strict=True):
        line = page.row((text, -label, "dim"), ("", 2)).append_text(drawn(each.right, "correct"))
        line.append(" " * (label + 2 + column - line.cell_len))
        line.append_text(drawn(each.wrong, "wrong")).rstrip()
