"""What another credit would change: the weights that trained beside those that are shown."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.text import Text

from dgpo_cli.core.numbers import fraction, percent, short
from dgpo_cli.core.text import elide, plain, visible
from dgpo_cli.core.types import InspectedCompletion, Inspection, StoredCredit
from dgpo_cli.inspect.views.scale import EQUAL, Scale, log_weight
from dgpo_cli.ui.page import LEAST_WIDTH, Page, page_for, stack
from dgpo_cli.ui.ramp import Depth, depth_of, shallower

_WIDE = 60  # cells from which a row has its text beside the numbers


def render(
    completion: InspectedCompletion,
    *,
    inspection: Inspection,
    width: int,
    top: int,
    color: Depth,
) -> RenderableType:
    """The difference between the weights shown and those that trained; `completion.stored` is set.

    width, color: as in heatmap.render. top: rows of the table of the largest changes.
    """
    return _WhatIf(completion, inspection, max(width, LEAST_WIDTH), top, color)


@dataclass(frozen=True, slots=True)
class _WhatIf:
    completion: InspectedCompletion
    inspection: Inspection
    width: int
    top: int
    color: Depth

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        depth = shallower(self.color, depth_of(console))
        page = page_for(options, width=self.width, depth=depth)
        assert self.completion.stored is not None
        yield Text("")
        yield stack(self._lines(self.completion.stored, page))

    def _lines(self, stored: StoredCredit, page: Page) -> Iterator[Text]:
        shown = self.completion
        weights = [token.weight for token in shown.tokens]
        yield plain("Against the weights that trained", style=page.style("bold"))
        yield from page.paragraph(
            "stored: "
            + named(stored.rule, stored.parameters, stored.tau)
            + f", effective fraction {fraction(stored.effective_fraction)}"
        )
        yield from page.paragraph(
            "shown: "
            + named(self.inspection.rule, self.inspection.parameters, shown.tau)
            + f", effective fraction {fraction(shown.effective_fraction)}"
        )
        if not weights or _same(stored.weights, weights):
            yield from page.paragraph("The weights are the same.", style="bold")
            return
        yield page.fact("credit that moves", percent(moved(stored.weights, weights)))
        order = rank_correlation(stored.weights, weights)
        yield page.fact("rank correlation", "none" if math.isnan(order) else f"{order:+.3f}")
        yield from self._table(stored, weights, page)

    def _table(self, stored: StoredCredit, weights: Sequence[float], page: Page) -> Iterator[Text]:
        changes = largest_changes(stored.weights, weights, top=self.top)
        if not changes:
            return
        scale = Scale.of([*stored.weights, *weights], steps=1)
        yield plain("Largest changes", style=page.style("bold"))
        wide = page.width >= _WIDE
        times = f" {'times':>9}" if wide else ""
        head = f"{'token':>6} {'stored':>9} {'shown':>9}{times}  text"
        yield plain(head, style=page.style("dim"))
        for at in changes:
            line = f"{at:>6} {scale.number(stored.weights[at]):>9} {scale.number(weights[at]):>9}"
            line += f" {_times(stored.weights[at], weights[at]):>9}  " if wide else "  "
            text = visible(self.completion.tokens[at].text, glyphs=page.glyphs, spaces=True)
            room = page.width - len(line)
            yield plain(line).append(elide(text or page.glyphs.empty, room, glyphs=page.glyphs))


def named(rule: str, parameters: Mapping[str, Any], tau: float | None) -> str:
    """A rule with its settings; tau: the one that was used, whether set or found."""
    parts = [visible(rule)]
    if tau is not None:
        parts.append(f"tau {short(tau)}")
    looked_for = parameters.get("target_ess") is not None
    names = ("kappa", "target_ess", "max_weight") if looked_for else ("kappa",)
    parts += [f"{name} {parameters[name]:g}" for name in names if name in parameters]
    return ", ".join(parts)


def _times(stored: float, shown: float) -> str:
    if not stored > 0.0:
        return "from 0"
    ratio = shown / stored
    return f"{ratio:.4f}" if 0.1 <= ratio < 10.0 else f"{ratio:.3g}"


def _same(stored: Sequence[float], shown: Sequence[float]) -> bool:
    """Whether the weights differ by the rounding of float32 alone."""
    return all(
        one == other or abs(log_weight(one) - log_weight(other)) < 10 * EQUAL
        for one, other in zip(stored, shown, strict=True)
    )


def moved(stored: Sequence[float], shown: Sequence[float]) -> float:
    """The share of the credit that other tokens get: half the mean of |difference|, in [0, 1]."""
    gaps = [abs(one - other) for one, other in zip(stored, shown, strict=True)]
    return math.fsum(gaps) / (2 * len(gaps)) if gaps else 0.0


def largest_changes(stored: Sequence[float], shown: Sequence[float], *, top: int) -> list[int]:
    """Positions whose weight changes most, by difference; the first comes first among equals."""
    gaps = [abs(one - other) for one, other in zip(stored, shown, strict=True)]
    order = sorted(range(len(gaps)), key=lambda at: -gaps[at] if gaps[at] == gaps[at] else 0.0)
    return [at for at in order[: max(0, top)] if gaps[at] > EQUAL]


def rank_correlation(one: Sequence[float], other: Sequence[float]) -> float:
    """Spearman's: the correlation of the ranks, ties averaged; NaN where one side is all equal."""
    first, second = _ranks(one), _ranks(other)
    mean = (len(one) - 1) / 2
    products = [(a - mean) * (b - mean) for a, b in zip(first, second, strict=True)]
    squares = [math.fsum((rank - mean) ** 2 for rank in ranks) for ranks in (first, second)]
    size = math.sqrt(squares[0] * squares[1])
    return math.fsum(products) / size if size > 0 else math.nan


def _ranks(values: Sequence[float]) -> list[float]:
    """The rank of each value from 0; equal ones share the mean of theirs."""
    order = sorted(range(len(values)), key=lambda at: values[at])
    ranks = [0.0] * len(values)
    start = 0
    while start < len(order):
        stop = start
        while stop < len(order) and values[order[stop]] == values[order[start]]:
            stop += 1
        stop = max(stop, start + 1)  # NaN equals nothing
        for at in order[start:stop]:
            ranks[at] = (start + stop - 1) / 2
        start = stop
    return ranks
