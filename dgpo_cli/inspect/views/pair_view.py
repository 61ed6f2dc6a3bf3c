"""A correct and a wrong completion of one prompt: their common start, then the credit by step.

The steps stand side by side, or one below the other if the page is narrow or a text runs from right
to left, which terminals reorder by whole lines.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

from dgpo_cli.core.numbers import counted, fraction, percent, probability, short, signed
from dgpo_cli.core.types import InspectedCompletion, Inspection
from dgpo_cli.inspect.views.header import outcome, question
from dgpo_cli.inspect.views.legend import legend
from dgpo_cli.inspect.views.measure import Measure, Piece, What, added, measure_of, pieces, scale_of
from dgpo_cli.inspect.views.pair_steps import BESIDE, PairSteps, Side
from dgpo_cli.inspect.views.step_table import StepBars, totals_of
from dgpo_cli.inspect.views.value_curve import ValueBars, beside, words
from dgpo_cli.inspect.views.what_if import compared, moved
from dgpo_cli.ui.flow import Run, joined, show_all, wrap
from dgpo_cli.ui.page import LABEL, NOTE, Page, View
from dgpo_cli.ui.ramp import RAMPS, Depth, levels
from dgpo_cli.ui.scale import Scale

_SHARED_LINES = 4  # of the common start


def render(
    right: InspectedCompletion,
    wrong: InspectedCompletion,
    *,
    inspection: Inspection,
    width: int,
    color: Depth,
    what: What = "weight",
    fit: bool = False,
    whole: bool = False,
) -> View:
    """Return the view of two completions of one prompt; the first is correct.

    width, color, what, fit: as in heatmap.render; both share one scale. whole: show all of the
    common start.
    """
    view = _PairView((right, wrong), inspection, what, fit, whole)
    return View(view.draw, color, width)


def parting(right: InspectedCompletion, wrong: InspectedCompletion) -> int:
    """Return the number of tokens that both begin with, without parts of a character."""
    shown = (*pieces(right.tokens), *pieces(wrong.tokens))
    same = (a.id == b.id for a, b in zip(right.tokens, wrong.tokens, strict=False))
    common = sum(1 for _ in takewhile(bool, same))
    while straddling := next((p for p in shown if p.start < common < p.stop), None):
        common = straddling.start
    return common


@dataclass(frozen=True, slots=True)
class _PairView:
    both: tuple[InspectedCompletion, InspectedCompletion]
    inspection: Inspection
    what: What
    fit: bool
    whole: bool

    def draw(self, page: Page) -> None:
        depth = page.depth
        sides = self._sides(depth)
        left = sides[0]
        weights = Scale.of(
            [token.weight for each in self.both for token in each.own], steps=levels(depth)
        )
        ink = None if weights.is_uniform else RAMPS.get(depth)
        known = all(each.values is not None for each in self.both)
        bars = StepBars(weights, page, ink, has_values=known)
        merged = any(p.stop - p.start > 1 for side in sides for p in (*side.shared, *side.pieces))
        self._head(page, sides)
        page.blank()
        self._values(page)
        _shared(page, left.shared, whole=self.whole)
        page.blank()
        PairSteps(sides, bars, page).draw()
        page.paragraph(bars.notes(), "dim")
        page.blank()
        legend(
            page, left.measure, rule=self.inspection.rule, ramp=left.ramp, merged=merged, listed=""
        )

    def _sides(self, depth: Depth) -> tuple[Side, Side]:
        """Return both completions on one scale, split after the common start."""
        measures = [measure_of(each, what=self.what, steps=levels(depth)) for each in self.both]
        values = [value for measure in measures for value in measure.values]
        scale = scale_of(self.what, values, steps=levels(depth), fit=self.fit)
        every = [pieces(each.tokens) for each in self.both]
        start = parting(*self.both)

        def side(
            completion: InspectedCompletion, measure: Measure, shown: tuple[Piece, ...]
        ) -> Side:
            measure = replace(measure, scale=scale)
            return Side(
                completion=completion,
                measure=measure,
                ramp=measure.ramp(depth),
                shared=tuple(piece for piece in shown if piece.start < start),
                pieces=tuple(piece for piece in shown if piece.start >= start),
                totals=totals_of(completion, start=start),
            )

        right, wrong = map(side, self.both, measures, every)
        return right, wrong

    def _values(self, page: Page) -> None:
        """Write both curves, side by side where they fit, and what decided each outcome."""
        known = [each for each in self.both if each.values is not None]
        if not known:
            return
        wide = page.width >= BESIDE
        width = (page.width - 3) // 2 if wide else page.width
        columns = [page.inner(width) for _ in known]
        for column, each in zip(columns, known, strict=True):
            mark = outcome(each, glyphs=page.glyphs)
            column.add((column.fit(f"{mark}, completion {each.index}"), "bold"))
            assert each.values is not None
            ValueBars(each.values, column).draw()
            words(column, each)
        if wide:
            beside(columns, on=page)
        else:
            page.lines += [line for column in columns for line in column.lines]
        page.blank()

    def _head(self, page: Page, sides: tuple[Side, Side]) -> None:
        right, wrong = self.both
        name = page.shown(right.prompt_id)
        page.title(f"{name}, completions {right.index} and {wrong.index}")
        question(page, right, tau=None, inspection=self.inspection)
        page.blank()
        room = (page.width - LABEL) // 2
        rows = [_facts(page, side, inspection=self.inspection) for side in sides]
        for (label, first), (_, second) in zip(*rows, strict=True):
            line = page.row((label, LABEL, "dim"), (page.fit(first, room - 1), room))
            line.append(page.fit(second, room))


def _facts(page: Page, side: Side, *, inspection: Inspection) -> list[tuple[str, str]]:
    completion = side.completion
    weight = added([piece.weight for piece in side.shared])
    total = added([token.weight for token in completion.tokens])
    share = percent(weight / total if total else 0.0)
    own_tau = "none" if completion.tau is None else short(completion.tau)
    return [
        ("completion", str(completion.index)),
        ("outcome", outcome(completion, glyphs=page.glyphs)),
        ("reward", short(completion.reward)),
        ("advantage", signed(completion.advantage)),
        ("tokens", f"{len(completion.own):,}"),
        *([("tau", own_tau)] if inspection.parameters.get("target_ess") is not None else []),
        ("eff. frac.", fraction(completion.effective_fraction)),
        *_what_if(completion),
        ("same start", f"{share} of w"),
        ("  sum of A", signed(weight * completion.advantage)),
        ("parts with", _parts_with(page, side)),
    ]


def _what_if(completion: InspectedCompletion) -> list[tuple[str, str]]:
    """Return what the credit shown changes against the one that trained."""
    stored = completion.stored
    if stored is None:
        return []
    share = moved(*compared(completion, stored)[1:])
    return [
        ("  trained", fraction(stored.effective_fraction)),
        ("  moves", f"{percent(share)} of w"),
    ]


def _parts_with(page: Page, side: Side) -> str:
    """Return the first token after the common start."""
    if not side.pieces:
        return "its end"
    piece = side.pieces[0]
    token = side.completion.tokens[piece.start]
    name = piece.text and page.shown(piece.text, spaces=True)
    if token.environment:
        return f"environment [{name or page.glyphs.empty}]"
    weight = f", w {token.weight:.4g}" if page.width >= 80 else ""
    return f"p {probability(token.logprob)}{weight} [{name or page.glyphs.empty}]"


def _shared(page: Page, shown: Sequence[Piece], *, whole: bool) -> None:
    """Write the common start without credit: its end, or all of it."""
    count = shown[-1].stop if shown else 0
    title = f"Both begin with the same {counted(count, 'token')}"
    page.paragraph(title if count else "They part at the first token", "bold")
    texts = show_all((piece.text for piece in shown), glyphs=page.glyphs)
    runs = (Run(text, 0, False) for text in texts)
    lines = list(wrap(joined(runs), width=page.width))
    hidden = len(lines) - _SHARED_LINES
    rows = ["".join(run.text for run in line) for line in lines]
    if hidden > 1 and not whole:
        rule = page.glyphs.rule * 3
        rows[:hidden] = [f"{rule} {counted(hidden, 'line')} before {rule}"]
    for row in rows:
        page.add((row, NOTE))
