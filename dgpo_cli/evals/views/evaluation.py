"""The result of `dgpo eval` for a terminal; as JSON in evaluation_json.py."""

from __future__ import annotations

import math
from functools import partial

from rich.text import Text

from dgpo_cli.core.numbers import counted, ends, percent, rate, tokens
from dgpo_cli.core.text import pad, split_cells
from dgpo_cli.core.types import Card, Disagreement, Evaluation
from dgpo_cli.evals.views.card import draw_card
from dgpo_cli.evals.views.evaluation_json import from_json, to_json
from dgpo_cli.evals.views.grid import grid
from dgpo_cli.evals.views.histogram import histogram
from dgpo_cli.evals.views.outcome_grid import outcome_grid, outcome_legend
from dgpo_cli.evals.views.warnings import warnings
from dgpo_cli.ui.page import Page, View
from dgpo_cli.ui.ramp import Depth

__all__ = ["from_json", "render", "to_json"]

LABEL = 12
NUMBER = 7
_SHORT_LABEL = 6
_MOST_ROWS = 60  # problems with a row each; more are a bar each
_LISTED = 5  # disagreements


def render(evaluation: Evaluation, card: Card | None = None, *, color: Depth = "truecolor") -> View:
    """Problems, lengths, the card if it is asked for, and last the score with its errors.

    The end of a long output is what a terminal shows.
    color: the most colour to use; the console that prints may allow less.
    """
    return View(partial(_draw, result=evaluation, card=card), color)


def value(page: Page, label: str, number: str, style: str = "") -> Text:
    """Write a label and a short value in the column of numbers."""
    return page.row((label, LABEL, "dim"), (number, -NUMBER, style))


def note(page: Page, line: Text, *notes: str) -> None:
    """Write what belongs to a line: behind it as long as there is room, the rest below.

    The last of the notes says what the line means and is dim.
    """
    rest = list(notes)
    while rest and line.cell_len + 2 + len(rest[0]) <= page.width:
        line.append("  " + rest[0], page.style("dim") if len(rest) == 1 else "")
        rest.pop(0)
    for each in rest:
        page.paragraph(each, "dim" if each == rest[-1] else "", indent=4)


def error(page: Page, label: str, interval: str, *notes: str) -> None:
    """Write a 95% interval and what it is the error of; the view says "95%" once."""
    note(page, page.row((f"  {label}", LABEL, "dim")).append(f" {interval}"), *notes)


def _draw(page: Page, *, result: Evaluation, card: Card | None) -> None:
    _problems(page, result)
    page.blank()
    _lengths(page, result)
    if result.disagreements:
        page.blank()
        _disagreements(page, result.disagreements)
    if card is not None:
        page.blank()
        draw_card(page, card)
    page.blank()
    of = f"{counted(result.n_problems, 'problem')}, {counted(result.k, 'sample')} each"
    page.title(page.shown(result.bench), of)
    _score(page, result)
    for warning in warnings(result):
        page.paragraph(f"Warning: {warning}", "bold")


def _score(page: Page, result: Evaluation) -> None:
    score = value(page, f"Avg@{result.k}", percent(result.avg_at_k), "bold")
    note(page, score, "95% intervals:")
    error(page, "rerun", ends(result.rerun_95), "these problems sampled again")
    error(page, "problems", ends(result.problems_95), "other problems of this kind")
    page.blank()
    value(page, f"maj@{result.k}", percent(result.maj_at_k))
    _pass_table(page, result)
    page.blank()
    cut = value(page, "truncated", percent(result.truncated))
    if result.truncated > 0:  # what the truncated samples leave open of the score
        note(page, cut, f"score {ends(result.if_truncated)} with these all wrong or all right")
    value(page, "no answer", percent(result.no_answer))
    if result.out_of_range:
        value(page, "out of range", percent(result.out_of_range))
    if result.unjudged:
        value(page, "not judged", percent(result.unjudged))


def pass_levels(k: int) -> tuple[int, ...]:
    """The j for which pass@j is shown: powers of two up to k, and k."""
    powers = [2**exponent for exponent in range(k.bit_length())]
    return tuple(powers if powers[-1] == k else [*powers, k])


def _pass_table(page: Page, result: Evaluation) -> None:
    cell = 8
    columns = max(1, (page.width - LABEL) // cell)
    items = [(j, result.pass_at_k[j]) for j in pass_levels(result.k)]
    for start in range(0, len(items), columns):
        shown = items[start : start + columns]
        page.add((pad("pass@", LABEL - 1), "dim"), *((str(j).rjust(cell), "dim") for j, _ in shown))
        page.add(" " * (LABEL - 1), *(percent(value).rjust(cell) for _, value in shown))


def _problems(page: Page, result: Evaluation) -> None:
    page.heading("Problems", f"id, answer, correct of {result.k}")
    if result.n_problems <= _MOST_ROWS:
        outcome_grid(page, result.problems, k=result.k)
        outcome_legend(page, result.problems)
    else:
        grid(page, result.problems, k=result.k)
    never = [problem.id for problem in result.problems if problem.correct == 0]
    always = sum(problem.correct == result.k for problem in result.problems)
    page.add(f"always solved {always}, never solved {len(never)} of {result.n_problems}")
    if never:
        names = ", ".join(map(page.shown, never))
        page.add(("never: ", "dim"), page.fit(names, page.width - 7))


def _lengths(page: Page, result: Evaluation) -> None:
    page.heading("Length of completions in tokens")
    cell = min(10, (page.width - _SHORT_LABEL) // 5)
    heads = ("mean", "10%", "50%", "90%", "max")
    page.row(("", _SHORT_LABEL), *((head, -cell, "dim") for head in heads))
    rows = (("all", result.lengths), ("right", result.lengths_right))
    for name, found in (*rows, ("wrong", result.lengths_wrong)):
        values = (found.mean, found.p10, found.p50, found.p90, found.max)
        texts = (tokens(value, narrow=cell < 8) for value in values)
        page.row((name, _SHORT_LABEL, "dim"), *((text, -cell) for text in texts))
    if math.isfinite(result.tokens_per_s):
        page.add(f"sampled now at {rate(result.tokens_per_s, 'tokens')}")
    page.blank()
    sides: tuple[list[int], list[int]] = ([], [])
    for problem in result.problems:
        for outcome, length in zip(problem.outcomes, problem.lengths, strict=True):
            sides[outcome != "correct"].append(length)
    histogram(page, *sides)


def _disagreements(page: Page, found: tuple[Disagreement, ...]) -> None:
    page.paragraph(
        f"The second opinion differs on {counted(len(found), 'sample')}. That settles nothing: "
        "what the checker said counts. Look at them.",
        "bold",
    )
    for each in found[:_LISTED]:
        read = "nothing" if each.extracted is None else each.extracted
        line = (
            f"  {each.problem_id} sample {each.index}: {each.outcome}, second {each.second}; "
            f"answer {each.gold}, read {read}"
        )
        # Two lines at most, whatever a model wrote; the second one is indented.
        first, rest = split_cells(page.fit(page.shown(line), 2 * page.width - 4), page.width)
        page.add(first)
        if rest:
            page.add("    ", page.fit(rest, page.width - 4))
    if len(found) > _LISTED:
        page.add((f"  and {len(found) - _LISTED:,} more, all in report.json", "dim"))
