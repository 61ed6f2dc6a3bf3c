"""The result of `dgpo compare` for a terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.text import Text

from dgpo_cli.core.numbers import (
    counted,
    margin,
    p_value,
    percent,
    points,
    signed_ends,
    tokens,
)
from dgpo_cli.core.text import elide, pad, plain, split_words, visible
from dgpo_cli.evals.views.evaluation import LABEL, error_line, noted
from dgpo_cli.stats.comparison import Change, Comparison, Pair
from dgpo_cli.ui.page import Page, page_for, stack, title_line
from dgpo_cli.ui.ramp import Depth, depth_of, shallower

_CELL = 9
_LEVEL = 0.05
_LISTED = 8  # largest changes
_NARROW = 60  # columns
_LETTERS = "BCDEFGHIJKLMNOPQRSTUVWXYZ"  # of the runs; the baseline is A


def render(pairs: Sequence[Pair], *, color: Depth = "truecolor") -> RenderableType:
    """Every run beside the baseline: scores, the difference with both errors, what flipped.

    color: the most colour to use; the console that prints may allow less.
    """
    return _View(tuple(pairs), color)


@dataclass(frozen=True, slots=True)
class _View:
    pairs: tuple[Pair, ...]
    color: Depth

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        page = page_for(options, depth=shallower(self.color, depth_of(console)))
        yield stack(self._lines(page))

    def _lines(self, page: Page) -> Iterator[Text]:
        for number, pair in enumerate(self.pairs):
            if number:
                yield plain("")
            yield from _pair(pair, letter=_LETTERS[min(number, len(_LETTERS) - 1)], page=page)
        if len(self.pairs) > 1:
            yield plain("")
            yield from page.paragraph(
                f"{len(self.pairs)} runs are compared with one baseline; each p stands alone. "
                f"For one verdict over all of them ask for p below {_LEVEL / len(self.pairs):.3g} "
                "instead of 0.05 (Bonferroni)."
            )


def _pair(pair: Pair, *, letter: str, page: Page) -> Iterator[Text]:
    found = pair.comparison
    bench = visible(pair.after.evaluation.bench, glyphs=page.glyphs)
    yield title_line(page, bench, counted(found.n_problems, "problem") + " in both")
    yield page.rule()
    runs = (("A", pair.before, found.k_before), (letter, pair.after, found.k_after))
    for called, run, k in runs:
        of = f", {counted(k, 'sample')} each"
        name = visible(run.name, glyphs=page.glyphs)
        line = plain("").append(f"{called}  ", page.style("bold"))
        room = page.width - line.cell_len - len(of)
        yield line.append(elide(name, room, glyphs=page.glyphs, end=True)).append(
            of, page.style("dim")
        )
    yield plain("")
    yield from _scores(pair, letter=letter, page=page)
    yield from _errors(found, page=page)
    yield plain("")
    yield from page.paragraph(in_words(found, letter=letter), style="bold")
    yield from _listed("Warning: not comparable, --force:", pair.forced, page=page)
    yield from _listed("Note:", pair.notes, page=page)
    yield from _listed("The subjects differ in", pair.subject, page=page)
    yield plain("")
    yield from _flips(found, letter=letter, page=page)
    yield from _changes(found, letter=letter, page=page)


def _scores(pair: Pair, *, letter: str, page: Page) -> Iterator[Text]:
    found, old, new = pair.comparison, pair.before.evaluation, pair.after.evaluation
    heads = "".join(name.rjust(_CELL) for name in ("A", letter, f"{letter} - A"))
    yield plain(" " * LABEL + heads, style=page.style("dim"))
    k = str(old.k) if old.k == new.k else "k"
    yield _row(f"Avg@{k}", found.before, found.after, page=page, style="bold")
    if not found.n_problems == old.n_problems == new.n_problems:
        return  # the rest is of other problems too
    yield _row(f"maj@{k}", old.maj_at_k, new.maj_at_k, page=page)
    yield _row("truncated", old.truncated, new.truncated, page=page)
    yield _row("no answer", old.no_answer, new.no_answer, page=page)
    line = plain("").append(pad("mean tokens", LABEL), page.style("dim"))
    change = new.lengths.mean - old.lengths.mean
    digits = 1 if abs(change) < 100 else 0
    change = round(change, digits) + 0.0  # no minus before a zero
    for text in (tokens(old.lengths.mean), tokens(new.lengths.mean), f"{change:+,.{digits}f}"):
        line.append(text.rjust(_CELL))
    yield line


def _row(label: str, before: float, after: float, *, page: Page, style: str = "") -> Text:
    line = plain("").append(pad(label, LABEL), page.style("dim"))
    for text in (percent(before), percent(after), points(after - before)):
        line.append(text.rjust(_CELL), page.style(style))
    return line


def _errors(found: Comparison, *, page: Page) -> Iterator[Text]:
    yield plain("")
    head = plain(f"difference {points(found.difference)} points", style=page.style("bold"))
    yield from noted(head, "95% intervals:", page=page)
    drawn = "" if found.exact else " (drawn)"
    for label, interval, p, meaning in (
        ("rerun", found.rerun_95, found.p_rerun, ", these problems again"),
        ("problems", found.problems_95, found.p_problems, f"{drawn}, other problems"),
    ):
        said = f"p = {p_value(p)}".replace("= <", "<") + meaning
        yield from error_line(label, signed_ends(interval), said, page=page)
    least = " and ".join(
        f"{'none' if math.isinf(value) else margin(value)} {name}"
        for value, name in (
            (found.smallest_rerun, "on these problems"),
            (found.smallest_problems, "on others"),
        )
    )
    yield from page.paragraph(
        f"Smallest difference that so many problems and samples show (80% power at 5%), "
        f"in points: {least}."
    )


def in_words(found: Comparison, *, letter: str) -> str:
    """One plain sentence on whether the run differs from the baseline."""
    if found.difference == 0.0:
        return f"A and {letter} have the same score."
    better = "better" if found.difference > 0 else "worse"
    if max(found.p_rerun, found.p_problems) < _LEVEL:
        return f"{letter} is {better} than A, also on other problems of this kind."
    if found.p_rerun < _LEVEL:
        return (
            f"{letter} is {better} than A on these problems; that it would be on others of this "
            "kind is not shown."
        )
    return "No difference is shown: sampling again could give as much."


def _listed(head: str, lines: Sequence[str], *, page: Page) -> Iterator[Text]:
    """Lines that may hold untrusted text, wrapped at any character, under a head."""
    if not lines:
        return
    yield plain(head, style=page.style("bold"))
    for line in lines:
        rest = visible(line, glyphs=page.glyphs)
        while rest:
            piece, rest = split_words(rest, page.width - 2)
            yield plain("  ").append(piece)


def _flips(found: Comparison, *, letter: str, page: Page) -> Iterator[Text]:
    for kind, run in (("gained", letter), ("lost", "A")):
        ids = [visible(c.id, glyphs=page.glyphs) for c in found.changes if c.flipped == kind]
        yield plain(f"{len(ids)} {kind}: most samples right only in {run}")
        rest = ", ".join(ids)
        while rest:
            piece, rest = split_words(rest, page.width - 2)
            yield plain("  ").append(piece)


def _changes(found: Comparison, *, letter: str, page: Page) -> Iterator[Text]:
    moved = [change for change in found.changes if change.difference]
    if not moved:
        return
    moved.sort(key=lambda change: -abs(change.difference))
    yield plain("")
    yield plain("Largest changes", style=page.style("bold"))
    name = 10 if page.width < _NARROW else 20
    heads = ("A", letter, "points", "p", "p (all)")
    widths = (6, 6, 8, 9, 9) if page.width >= _NARROW else (4, 4, 7, 7, 8)
    cells = "".join(text.rjust(width) for text, width in zip(heads, widths, strict=True))
    yield plain(pad("problem", name) + cells, style=page.style("dim"))
    for change in moved[:_LISTED]:
        yield _change(change, name=name, widths=widths, page=page)
    yield from page.paragraph(
        f"p: Fisher's exact test of that problem; p (all): adjusted by Holm for all "
        f"{found.n_problems} problems.",
        style="dim",
    )


def _change(change: Change, *, name: int, widths: Sequence[int], page: Page) -> Text:
    shown = elide(visible(change.id, glyphs=page.glyphs), name - 1, glyphs=page.glyphs, end=True)
    line = plain("").append(pad(shown, name))
    values = (
        str(change.before),
        str(change.after),
        points(change.difference),
        *(p_value(p).replace("< 0.0", "<.0") for p in (change.p, change.p_holm)),
    )
    for value, width in zip(values, widths, strict=True):
        line.append(value.rjust(width))
    return line
