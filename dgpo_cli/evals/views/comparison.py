"""The result of `dgpo compare` for a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from dgpo_cli.core.numbers import (
    counted,
    margin,
    p_value,
    percent,
    points,
    signed_ends,
    tokens,
)
from dgpo_cli.stats.comparison import ComparedPair, Comparison
from dgpo_cli.ui.page import LABEL, Page, View
from dgpo_cli.ui.ramp import Depth

_CELL = 9
_LEVEL = 0.05
_LISTED = 8  # largest changes
_NARROW = 60  # columns
_LETTERS = "BCDEFGHIJKLMNOPQRSTUVWXYZ"  # of the runs; the baseline is A


def render(pairs: Sequence[ComparedPair], *, color: Depth = "truecolor") -> View:
    """Every run against the baseline: scores, difference, both errors, flips."""
    return View(partial(_draw, pairs=pairs), color)


def _draw(page: Page, *, pairs: Sequence[ComparedPair]) -> None:
    for number, pair in enumerate(pairs):
        if number:
            page.blank()
        _ComparisonView(page, pair, _LETTERS[min(number, len(_LETTERS) - 1)]).draw()
    if len(pairs) > 1:
        page.blank()
        page.paragraph(
            f"{len(pairs)} runs are compared with one baseline; each p stands alone. "
            f"For one verdict over all of them ask for p below {_LEVEL / len(pairs):.3g} "
            "instead of 0.05 (Bonferroni)."
        )


def in_words(found: Comparison, *, letter: str) -> str:
    """Return one sentence: does the run differ from the baseline?"""
    if found.difference == 0.0:
        return f"A and {letter} have the same score."
    better = "better" if found.difference > 0 else "worse"
    greedy = math.isnan(found.p_rerun)
    if found.p_problems < _LEVEL and (greedy or found.p_rerun < _LEVEL):
        return f"{letter} is {better} than A, also on other problems of this kind."
    if greedy or found.p_rerun < _LEVEL:
        return (
            f"{letter} is {better} than A on these problems; on others of this kind no "
            "difference is shown."
        )
    return "No difference is shown: sampling again could give as much."


@dataclass(frozen=True, slots=True)
class _ComparisonView:
    page: Page
    pair: ComparedPair
    letter: str

    def draw(self) -> None:
        page, pair, letter = self.page, self.pair, self.letter
        found = pair.comparison
        bench = page.shown(pair.after.evaluation.bench)
        page.title(bench, counted(found.n_problems, "problem") + " in both")
        runs = (("A", pair.before, found.k_before), (letter, pair.after, found.k_after))
        for called, run, k in runs:
            of = f", {counted(k, 'sample')} each"
            room = page.width - len(called) - 2 - len(of)
            name = page.fit(page.shown(run.name), room, end=True)
            page.add((f"{called}  ", "bold"), name, (of, "dim"))
        page.blank()
        self._scores()
        page.blank()
        self._errors()
        page.blank()
        page.paragraph(in_words(found, letter=letter), "bold")
        self._listed("Warning: not comparable, --force:", pair.forced)
        self._listed("Note:", pair.notes)
        self._listed("The subjects differ in", pair.subject)
        page.blank()
        self._flips()
        self._changes()

    def _scores(self) -> None:
        page, pair, letter = self.page, self.pair, self.letter
        found, old, new = pair.comparison, pair.before.evaluation, pair.after.evaluation
        page.row(("", LABEL), *((head, -_CELL, "dim") for head in ("A", letter, f"{letter} - A")))

        def row(label: str, before: float, after: float, style: str = "") -> None:
            texts = (percent(before), percent(after), points(after - before))
            page.row((label, LABEL, "dim"), *((text, -_CELL, style) for text in texts))

        row(f"Avg@{old.k if old.k == new.k else 'k'}", found.before, found.after, "bold")
        if not found.n_problems == old.n_problems == new.n_problems:
            return  # the rest is of other problems too
        row(f"maj@{old.k if old.k == new.k else 'k'}", old.maj_at_k, new.maj_at_k)
        row("truncated", old.truncated, new.truncated)
        row("no answer", old.no_answer, new.no_answer)
        change = new.lengths.mean - old.lengths.mean
        digits = 1 if abs(change) < 100 else 0
        change = round(change, digits) + 0.0  # no minus before a zero
        texts = (tokens(old.lengths.mean), tokens(new.lengths.mean), f"{change:+,.{digits}f}")
        page.row(("mean tokens", LABEL, "dim"), *((text, -_CELL) for text in texts))

    def _errors(self) -> None:
        page, found = self.page, self.pair.comparison
        page.add((f"difference {points(found.difference)} points", "bold"))
        page.note("95% intervals:")
        drawn = "" if found.exact else " (drawn)"
        for label, interval, p, meaning in (
            ("rerun", found.rerun_95, found.p_rerun, ", these problems again"),
            ("problems", found.problems_95, found.p_problems, f"{drawn}, other problems"),
        ):
            if label == "rerun" and math.isnan(p):
                page.interval(label, "greedy", "the likeliest token each time, no error")
                continue
            said = f"p = {p_value(p)}".replace("= <", "<") + meaning
            page.interval(label, signed_ends(interval), said)
        least = " and ".join(
            f"{'none' if math.isinf(value) else margin(value)} {name}"
            for value, name in (
                (found.smallest_rerun, "on these problems"),
                (found.smallest_problems, "on others"),
            )
            if not math.isnan(value)
        )
        page.paragraph(
            "Smallest difference that this many problems and samples show (80% power at 5%), "
            f"in points: {least}."
        )

    def _listed(self, head: str, lines: Sequence[str]) -> None:
        """Write lines of untrusted text under a head."""
        if not lines:
            return
        self.page.heading(head)
        for line in lines:
            self.page.wrapped(line, indent=2)

    def _flips(self) -> None:
        page, found, letter = self.page, self.pair.comparison, self.letter
        for kind, run in (("gained", letter), ("lost", "A")):
            ids = [change.id for change in found.changes if change.flipped == kind]
            page.add(f"{len(ids)} {kind}: most samples right only in {run}")
            page.wrapped(", ".join(ids), indent=2)

    def _changes(self) -> None:
        page, found, letter = self.page, self.pair.comparison, self.letter
        moved = [change for change in found.changes if change.difference]
        if not moved:
            return
        moved.sort(key=lambda change: -abs(change.difference))
        page.blank()
        page.heading("Largest changes")
        name = 10 if page.width < _NARROW else 20
        heads = ("A", letter, "points", "p", "p (all)")
        widths = (6, 6, 8, 9, 9) if page.width >= _NARROW else (4, 4, 7, 7, 8)
        columns = ((head, -width, "dim") for head, width in zip(heads, widths, strict=True))
        page.row(("problem", name, "dim"), *columns)
        for change in moved[:_LISTED]:
            values = (
                str(change.before),
                str(change.after),
                points(change.difference),
                *(p_value(p).replace("< 0.0", "<.0") for p in (change.p, change.p_holm)),
            )
            shown = page.fit(page.shown(change.id), name - 1, end=True)
            cells = ((value, -width) for value, width in zip(values, widths, strict=True))
            page.row((shown, name), *cells)
        page.paragraph(
            f"p: Fisher's exact test of that problem; p (all): adjusted by Holm for all "
            f"{found.n_problems} problems.",
            "dim",
        )
