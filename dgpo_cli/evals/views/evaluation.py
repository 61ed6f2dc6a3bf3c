"""The result of `dgpo eval` for a terminal; as JSON in evaluation_json.py."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dgpo_cli.core.numbers import cost, counted, ends, margin, percent, rate, tokens
from dgpo_cli.core.text import pad, split_cells
from dgpo_cli.core.types import Card, Disagreement, Evaluation
from dgpo_cli.evals.views.card import draw_card
from dgpo_cli.evals.views.histogram import histogram
from dgpo_cli.evals.views.outcome_grid import grid, outcome_grid, outcome_legend
from dgpo_cli.evals.views.warnings import warnings
from dgpo_cli.ui.page import LABEL, Page, View
from dgpo_cli.ui.ramp import Depth

_SHORT_LABEL = 6
_MOST_ROWS = 60  # problems with a row each; more are a bar each
_LISTED = 5  # disagreements


def render(
    evaluation: Evaluation,
    card: Card | None = None,
    *,
    name: str = "",
    color: Depth = "truecolor",
) -> View:
    """Problems, lengths, the card if given, and last the score: a terminal shows the end.

    name: of the model, if known.
    """
    return View(lambda page: _EvaluationView(page, evaluation, card, name).draw(), color)


def pass_levels(k: int) -> tuple[int, ...]:
    """Return the j of each pass@j that is shown: powers of two up to k, and k."""
    powers = [2**exponent for exponent in range(k.bit_length())]
    return tuple(powers if powers[-1] == k else [*powers, k])


def stopped(evaluation: Evaluation) -> str:
    """Return how sampling that was to stop at a margin of error ended."""
    assert evaluation.stop_when is not None
    half = evaluation.rerun_95.half_width
    if half <= evaluation.stop_when:
        return f"stopped at k={evaluation.k}, ±{margin(half)}"
    return f"not stopped by k={evaluation.k}: ±{margin(half)}, above {margin(evaluation.stop_when)}"


@dataclass(frozen=True, slots=True)
class _EvaluationView:
    page: Page
    result: Evaluation
    card: Card | None
    name: str

    def draw(self) -> None:
        page, result = self.page, self.result
        self._problems()
        page.blank()
        self._lengths()
        if result.disagreements:
            page.blank()
            self._disagreements(result.disagreements)
        if self.card is not None:
            page.blank()
            draw_card(page, self.card)
        page.blank()
        of = f"{counted(result.n_problems, 'problem')}, {counted(result.k, 'sample')} each"
        page.title(page.shown("  ".join(filter(None, (result.bench, self.name)))), of)
        self._score()
        for warning in warnings(result):
            page.paragraph(f"Warning: {warning}", "bold")

    def _score(self) -> None:
        page, result = self.page, self.result
        page.value(f"Avg@{result.k}", percent(result.avg_at_k), "bold")
        page.note("95% intervals:")
        if result.greedy:
            page.interval("rerun", "greedy", "the likeliest token each time, no error")
        else:
            page.interval("rerun", ends(result.rerun_95), "these problems sampled again")
        page.interval("problems", ends(result.problems_95), "other problems of this kind")
        if result.stop_when is not None:
            page.paragraph(stopped(result).replace("±", page.glyphs.plus_minus), "dim")
        page.blank()
        page.value(f"maj@{result.k}", percent(result.maj_at_k))
        self._pass_table()
        page.blank()
        page.value("truncated", percent(result.truncated))
        if result.truncated > 0:  # what the truncated samples leave open of the score
            page.note(f"score {ends(result.if_truncated)} if these are all wrong or all correct")
        page.value("no answer", percent(result.no_answer))
        if result.out_of_range:
            page.value("out of range", percent(result.out_of_range))
        if result.unjudged:
            page.value("not judged", percent(result.unjudged))
        if result.cost is not None:
            page.value("cost", cost(result.cost))

    def _pass_table(self) -> None:
        page, result = self.page, self.result
        cell = 8
        columns = max(1, (page.width - LABEL) // cell)
        items = [(j, result.pass_at_k[j]) for j in pass_levels(result.k)]
        for start in range(0, len(items), columns):
            shown = items[start : start + columns]
            page.add(
                (pad("pass@", LABEL - 1), "dim"), *((str(j).rjust(cell), "dim") for j, _ in shown)
            )
            page.add(" " * (LABEL - 1), *(percent(value).rjust(cell) for _, value in shown))

    def _problems(self) -> None:
        page, result = self.page, self.result
        told = "answer, " if any(each.answer is not None for each in result.problems) else ""
        page.heading("Problems", f"id, {told}correct of {result.k}")
        if result.n_problems <= _MOST_ROWS:
            outcome_grid(page, result.problems, k=result.k)
            outcome_legend(page, result.problems)
        else:
            grid(page, result.problems, k=result.k)
        never = [problem.id for problem in result.problems if problem.correct == 0]
        always = sum(problem.correct == result.k for problem in result.problems)
        page.add(f"all-correct {always}, all-wrong {len(never)} of {result.n_problems}")
        if never:
            names = ", ".join(map(page.shown, never))
            page.add(("all-wrong: ", "dim"), page.fit(names, page.width - 11))

    def _lengths(self) -> None:
        page, result = self.page, self.result
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
                if length is not None:
                    sides[outcome != "correct"].append(length)
        histogram(page, *sides)

    def _disagreements(self, found: tuple[Disagreement, ...]) -> None:
        page = self.page
        page.paragraph(
            f"The second opinion differs on {counted(len(found), 'sample')}. The checker's verdict "
            "counts; check them by hand.",
            "bold",
        )
        for each in found[:_LISTED]:
            read = "nothing" if each.extracted is None else each.extracted
            line = (
                f"  {each.problem_id} sample {each.index}: {each.outcome}, second {each.second}; "
                + ("" if each.gold is None else f"answer {each.gold}, ")
                + f"read {read}"
            )
            # Two lines at most, whatever a model wrote; the second one is indented.
            first, rest = split_cells(page.fit(page.shown(line), 2 * page.width - 4), page.width)
            page.add(first)
            if rest:
                page.add("    ", page.fit(rest, page.width - 4))
        if len(found) > _LISTED:
            page.add((f"  and {len(found) - _LISTED:,} more, all in report.json", "dim"))
