"""The result of `dgpo eval` for a terminal; as JSON in evaluation_json.py."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.text import Text

from dgpo_cli.core.numbers import counted, ends, percent, rate, tokens
from dgpo_cli.core.text import elide, pad, plain, split_cells, visible
from dgpo_cli.core.types import Card, Disagreement, Evaluation
from dgpo_cli.evals.views.card import card_lines
from dgpo_cli.evals.views.evaluation_json import from_json, to_json
from dgpo_cli.evals.views.grid import grid, grid_legend
from dgpo_cli.evals.views.histogram import histogram
from dgpo_cli.evals.views.outcome_grid import outcome_grid, outcome_legend
from dgpo_cli.evals.views.warnings import warnings
from dgpo_cli.ui.page import Page, page_for, stack, title_line
from dgpo_cli.ui.ramp import Depth, depth_of, shallower

__all__ = ["from_json", "render", "to_json"]

LABEL = 12
NUMBER = 7
_SHORT_LABEL = 6
_MOST_ROWS = 60  # problems with a row each; more are a bar each
_LISTED = 5  # disagreements


def render(
    evaluation: Evaluation, card: Card | None = None, *, color: Depth = "truecolor"
) -> RenderableType:
    """Problems, lengths, the card if it is asked for, and last the score with its errors.

    The end of a long output is what a terminal shows.
    color: the most colour to use; the console that prints may allow less.
    """
    return _Report(evaluation, card, color)


def value_line(label: str, value: str, *, page: Page, style: str = "") -> Text:
    """A label and a short value in the column of numbers."""
    line = plain("").append(pad(label, LABEL), page.style("dim"))
    return line.append(value.rjust(NUMBER), page.style(style))


def noted(line: Text, *notes: str, page: Page) -> Iterator[Text]:
    """A line and what belongs to it: behind it as long as there is room, the rest below.

    The last of the notes says what the line means and is dim.
    """
    rest = list(notes)
    while rest and line.cell_len + 2 + len(rest[0]) <= page.width:
        line.append("  " + rest[0], page.style("dim") if len(rest) == 1 else "")
        rest.pop(0)
    yield line
    inner = Page(width=page.width - 4, glyphs=page.glyphs, styled=page.styled)
    for note in rest:
        for text in inner.paragraph(note, style="dim" if note == rest[-1] else ""):
            yield plain("    ").append_text(text)


def error_line(label: str, interval: str, *notes: str, page: Page) -> Iterator[Text]:
    """A 95% interval and what it is the error of; the view says "95%" once."""
    line = plain("").append(pad(f"  {label}", LABEL), page.style("dim"))
    yield from noted(line.append(f" {interval}"), *notes, page=page)


@dataclass(frozen=True, slots=True)
class _Report:
    evaluation: Evaluation
    card: Card | None
    color: Depth

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        depth = shallower(self.color, depth_of(console))
        page = page_for(options, depth=depth)
        yield stack(self._lines(page=page, depth=depth))

    def _lines(self, *, page: Page, depth: Depth) -> Iterator[Text]:
        result = self.evaluation
        yield from _problems(result, page=page, depth=depth)
        yield plain("")
        yield from _lengths(result, page=page, depth=depth)
        if result.disagreements:
            yield plain("")
            yield from _disagreements(result.disagreements, page=page)
        if self.card is not None:
            yield plain("")
            yield from card_lines(self.card, page=page)
        yield plain("")
        name = visible(result.bench, glyphs=page.glyphs)
        of = f"{counted(result.n_problems, 'problem')}, {counted(result.k, 'sample')} each"
        yield title_line(page, name, of)
        yield page.rule()
        yield from _score(result, page=page)
        for warning in warnings(result):
            yield from page.paragraph(f"Warning: {warning}", style="bold")


def _score(result: Evaluation, *, page: Page) -> Iterator[Text]:
    score = value_line(f"Avg@{result.k}", percent(result.avg_at_k), page=page, style="bold")
    yield from noted(score, "95% intervals:", page=page)
    for label, interval, meaning in (
        ("rerun", result.rerun_95, "these problems sampled again"),
        ("problems", result.problems_95, "other problems of this kind"),
    ):
        yield from error_line(label, ends(interval), meaning, page=page)
    yield plain("")
    yield value_line(f"maj@{result.k}", percent(result.maj_at_k), page=page)
    yield from _pass_table(result, page=page)
    yield plain("")
    cut = value_line("truncated", percent(result.truncated), page=page)
    yield from noted(cut, *_bracket(result), page=page)
    yield value_line("no answer", percent(result.no_answer), page=page)
    if result.out_of_range:
        yield value_line("out of range", percent(result.out_of_range), page=page)
    if result.unjudged:
        yield value_line("not judged", percent(result.unjudged), page=page)


def _bracket(result: Evaluation) -> Iterator[str]:
    """What the truncated samples leave open of the score."""
    if result.truncated > 0:
        yield f"score {ends(result.if_truncated)} with these all wrong or all right"


def pass_levels(k: int) -> tuple[int, ...]:
    """The j for which pass@j is shown: powers of two up to k, and k."""
    powers = [2**exponent for exponent in range(k.bit_length())]
    return tuple(powers if powers[-1] == k else [*powers, k])


def _pass_table(result: Evaluation, *, page: Page) -> Iterator[Text]:
    cell = 8
    columns = max(1, (page.width - LABEL) // cell)
    items = [(j, result.pass_at_k[j]) for j in pass_levels(result.k)]
    for start in range(0, len(items), columns):
        shown = items[start : start + columns]
        heads = "".join(str(j).rjust(cell) for j, _ in shown)
        values = "".join(percent(value).rjust(cell) for _, value in shown)
        yield plain(pad("pass@", LABEL) + heads[1:], style=page.style("dim"))
        yield plain(" " * LABEL + values[1:])


def _problems(result: Evaluation, *, page: Page, depth: Depth) -> Iterator[Text]:
    yield plain("Problems", style=page.style("bold")).append(
        f"  id, answer, correct of {result.k}", page.style("dim")
    )
    if result.n_problems <= _MOST_ROWS:
        yield from outcome_grid(result.problems, k=result.k, page=page, depth=depth)
        yield from outcome_legend(result.problems, page=page, depth=depth)
    else:
        yield from grid(result.problems, k=result.k, page=page, depth=depth)
        yield grid_legend(k=result.k, page=page)
    never = [problem.id for problem in result.problems if problem.correct == 0]
    always = sum(problem.correct == result.k for problem in result.problems)
    yield plain(f"always solved {always}, never solved {len(never)} of {result.n_problems}")
    if never:
        names = ", ".join(visible(name, glyphs=page.glyphs) for name in never)
        line = plain("").append("never: ", page.style("dim"))
        yield line.append(elide(names, page.width - 7, glyphs=page.glyphs))


def _lengths(result: Evaluation, *, page: Page, depth: Depth) -> Iterator[Text]:
    yield plain("Length of completions in tokens", style=page.style("bold"))
    cell = min(10, (page.width - _SHORT_LABEL) // 5)
    heads = "".join(name.rjust(cell) for name in ("mean", "10%", "50%", "90%", "max"))
    yield plain(" " * _SHORT_LABEL + heads, style=page.style("dim"))
    rows = (("all", result.lengths), ("right", result.lengths_right))
    for name, found in (*rows, ("wrong", result.lengths_wrong)):
        values = (found.mean, found.p10, found.p50, found.p90, found.max)
        line = plain("").append(pad(name, _SHORT_LABEL), page.style("dim"))
        yield line.append("".join(tokens(v, narrow=cell < 8).rjust(cell) for v in values))
    if math.isfinite(result.tokens_per_s):
        yield plain(f"sampled now at {rate(result.tokens_per_s, 'tokens')}")
    yield plain("")
    sides: tuple[list[int], list[int]] = ([], [])
    for problem in result.problems:
        for outcome, length in zip(problem.outcomes, problem.lengths, strict=True):
            sides[outcome != "correct"].append(length)
    yield from histogram(*sides, page=page, depth=depth)


def _disagreements(found: tuple[Disagreement, ...], *, page: Page) -> Iterator[Text]:
    text = (
        f"The second opinion differs on {counted(len(found), 'sample')}. That settles nothing: "
        "what the checker said counts. Look at them."
    )
    yield from page.paragraph(text, style="bold")
    for each in found[:_LISTED]:
        read = "nothing" if each.extracted is None else each.extracted
        line = (
            f"  {each.problem_id} sample {each.index}: {each.outcome}, second {each.second}; "
            f"answer {each.gold}, read {read}"
        )
        # Two lines at most, whatever a model wrote; the second one is indented.
        shown = elide(visible(line, glyphs=page.glyphs), 2 * page.width - 4, glyphs=page.glyphs)
        first, rest = split_cells(shown, page.width)
        yield plain(first)
        if rest:
            yield plain("    ").append(elide(rest, page.width - 4, glyphs=page.glyphs))
    if len(found) > _LISTED:
        rest = f"  and {len(found) - _LISTED:,} more, all in report.json"
        yield plain(rest, style=page.style("dim"))
