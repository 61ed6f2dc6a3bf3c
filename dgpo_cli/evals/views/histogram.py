"""A histogram of completion lengths: a row a bin, the right samples beside all others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.text import Text

from dgpo_cli.core.text import pad, plain
from dgpo_cli.core.types import Outcome
from dgpo_cli.ui.outcomes import style
from dgpo_cli.ui.page import Page
from dgpo_cli.ui.ramp import Depth

_BINS = 12  # at most


@dataclass(frozen=True, slots=True)
class Bin:
    """Lengths from `low` to `high`, both included, and how many samples have them."""

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
    """The least of 1, 2, 5, 10, 20, ... that splits low to high into few enough bins."""
    power = 1
    while True:
        for step in (power, 2 * power, 5 * power):
            if high // step - low // step < _BINS:
                return step
        power *= 10


def histogram(
    right: Sequence[int], wrong: Sequence[int], *, page: Page, depth: Depth
) -> Iterator[Text]:
    """The bins as bars on one scale: a bar of any sample has at least one cell."""
    shown = bins(right, wrong)
    if not shown:
        return
    labels = [f"{b.low:,}" if b.low == b.high else f"{b.low:,}-{b.high:,}" for b in shown]
    label = max(map(len, labels))
    most = max(max(b.right, b.wrong) for b in shown)
    number = len(f"{most:,}")
    column = (page.width - label - 2) // 2
    bar = max(1, column - number - 2)
    head = pad(f"right {len(right):,}", column) + f"wrong {len(wrong):,}"
    yield plain(" " * (label + 2) + head, style=page.style("dim"))
    for text, each in zip(labels, shown, strict=True):
        line = plain("").append(f"{text:>{label}}  ", page.style("dim"))
        _bar(line, each.right, "correct", bar=bar, most=most, page=page, depth=depth)
        line.append(" " * (label + 2 + column - line.cell_len))
        _bar(line, each.wrong, "wrong", bar=bar, most=most, page=page, depth=depth)
        line.rstrip()
        yield line


def _bar(
    line: Text, count: int, outcome: Outcome, *, bar: int, most: int, page: Page, depth: Depth
) -> None:
    if not count:
        return
    mark = "█▒" if not page.glyphs.ascii_only else "#="
    cells = max(1, round(bar * count / most))
    line.append(mark[outcome != "correct"] * cells, style(outcome, depth=depth))
    line.append(f" {count:,}", page.style("dim"))
