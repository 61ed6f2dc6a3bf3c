"""What another credit changes: the weights that trained against those shown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from dgpo_cli.core.numbers import fraction, percent, short
from dgpo_cli.core.text import visible
from dgpo_cli.core.types import InspectedCompletion, Inspection, StoredCredit
from dgpo_cli.inspect.views.header import own_named, sign_named
from dgpo_cli.ui.page import Page, View
from dgpo_cli.ui.ramp import Depth
from dgpo_cli.ui.scale import EQUAL, Scale

_WIDE = 60  # cells from which a row has the ratio of its weights


def render(
    completion: InspectedCompletion,
    *,
    inspection: Inspection,
    width: int,
    top: int,
    color: Depth,
) -> View:
    """Return the differences between the weights shown and those that trained, `completion.stored`.

    width, color: as in heatmap.render. top: rows of the table of the largest changes.
    """
    draw = partial(_draw, completion=completion, inspection=inspection, top=top)
    return View(draw, color, width)


def _draw(page: Page, *, completion: InspectedCompletion, inspection: Inspection, top: int) -> None:
    stored = completion.stored
    assert stored is not None
    places, trained, weights = compared(completion, stored)
    page.blank()
    page.heading("Against the weights that trained")
    page.paragraph(
        "stored: "
        + named(stored.rule, stored.parameters, stored.tau)
        + f", effective token fraction {fraction(stored.effective_fraction)}"
    )
    page.paragraph(
        "shown: "
        + named(inspection.rule, inspection.parameters, completion.tau)
        + f", effective token fraction {fraction(completion.effective_fraction)}"
    )
    if not weights or _same(trained, weights):
        page.paragraph("The weights are the same.", "bold")
        return
    page.fact("credit that moves", percent(moved(trained, weights)))
    order = rank_correlation(trained, weights)
    page.fact("rank correlation", "none" if math.isnan(order) else f"{order:+.3f}")
    texts = [(at, completion.tokens[at].text) for at in places]
    _table(page, trained, weights, texts=texts, top=top)


def compared(
    completion: InspectedCompletion, stored: StoredCredit
) -> tuple[list[int], list[float], list[float]]:
    """Return the places of the policy's tokens, and their weights that trained and that are
    shown."""
    places = [at for at, token in enumerate(completion.tokens) if not token.environment]
    shown = [completion.tokens[at].weight for at in places]
    return places, [stored.weights[at] for at in places], shown


def _table(
    page: Page,
    stored: Sequence[float],
    shown: Sequence[float],
    *,
    texts: Sequence[tuple[int, str]],
    top: int,
) -> None:
    """texts: the place and the text of each token."""
    changes = largest_changes(stored, shown, top=top)
    if not changes:
        return
    number = Scale.of([*stored, *shown], steps=1).number
    page.heading("Largest changes")
    wide = page.width >= _WIDE
    times = f" {'times':>9}" if wide else ""
    page.add((f"{'token':>6} {'stored':>9} {'shown':>9}{times}  text", "dim"))
    for at in changes:
        times = f" {_times(stored[at], shown[at]):>9}" if wide else ""
        place, own = texts[at]
        line = page.add(f"{place:>6} {number(stored[at]):>9} {number(shown[at]):>9}{times}  ")
        text = page.shown(own, spaces=True) or page.glyphs.empty
        line.append(page.fit(text, page.width - line.cell_len))


def named(rule: str, parameters: Mapping[str, Any], tau: float | None) -> str:
    """Return a rule with its settings; tau: the one used, set or found."""
    parts = [visible(rule)]
    if tau is not None:
        parts.append(f"tau {short(tau)}")
    looked_for = parameters.get("target_ess") is not None
    names = ("kappa", "target_ess", "max_weight") if looked_for else ("kappa",)
    parts += [f"{name} {parameters[name]:g}" for name in names if name in parameters]
    return ", ".join([*parts, *own_named(rule, parameters), *sign_named(parameters)])


def _times(stored: float, shown: float) -> str:
    if not stored > 0.0:
        return "" if stored < 0.0 else "from 0"
    ratio = shown / stored
    return f"{ratio:.4f}" if 0.1 <= abs(ratio) < 10.0 else f"{ratio:.3g}"


def _same(stored: Sequence[float], shown: Sequence[float]) -> bool:
    """Return whether the weights differ only by the rounding of float32."""
    return all(
        math.isclose(one, other, rel_tol=10 * EQUAL)
        for one, other in zip(stored, shown, strict=True)
    )


def moved(stored: Sequence[float], shown: Sequence[float]) -> float:
    """Return the share of the credit that moves: half the mean of |difference|; at most 1 where no
    weight is negative."""
    gaps = [abs(one - other) for one, other in zip(stored, shown, strict=True)]
    return math.fsum(gaps) / (2 * len(gaps)) if gaps else 0.0


def largest_changes(stored: Sequence[float], shown: Sequence[float], *, top: int) -> list[int]:
    """Return the positions whose weight changes most; ties by place."""
    gaps = [abs(one - other) for one, other in zip(stored, shown, strict=True)]
    order = sorted(range(len(gaps)), key=lambda at: -gaps[at] if gaps[at] == gaps[at] else 0.0)
    return [at for at in order[: max(0, top)] if gaps[at] > EQUAL]


def rank_correlation(one: Sequence[float], other: Sequence[float]) -> float:
    """Return Spearman's rank correlation, ties averaged; NaN if all values of a side are equal."""
    first, second = _ranks(one), _ranks(other)
    mean = (len(one) - 1) / 2
    products = [(a - mean) * (b - mean) for a, b in zip(first, second, strict=True)]
    squares = [math.fsum((rank - mean) ** 2 for rank in ranks) for ranks in (first, second)]
    size = math.sqrt(squares[0] * squares[1])
    return math.fsum(products) / size if size > 0 else math.nan


def _ranks(values: Sequence[float]) -> list[float]:
    """Return the rank of each value from 0; equal ones share their mean."""
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
