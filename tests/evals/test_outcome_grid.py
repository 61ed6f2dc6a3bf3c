"""The grid of samples leaves none out, tells outcomes apart without colour, and fits."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace

import pytest
from rich.cells import cell_len

from dgpo_cli.core.text import ASCII, UNICODE, elide
from dgpo_cli.core.types import OUTCOMES, Outcome, ProblemResult
from dgpo_cli.evals.views.histogram import bins
from dgpo_cli.evals.views.outcome_grid import outcome_grid, outcome_legend
from dgpo_cli.ui.outcomes import COLOURS, NAMES, glyph
from dgpo_cli.ui.page import Page
from dgpo_cli.ui.ramp import contrast
from tests.samples import evaluation, texts


def page(width: int, *, ascii_only: bool = False) -> Page:
    return Page(width, ASCII if ascii_only else UNICODE, "none")


def rows(problems: tuple[ProblemResult, ...], *, k: int, width: int) -> list[str]:
    paper = page(width)
    outcome_grid(paper, problems, k=k)
    return texts(paper)


def test_every_outcome_has_its_own_glyph_of_one_cell() -> None:
    for glyphs in (UNICODE, ASCII):
        found = [glyph(outcome, glyphs=glyphs) for outcome in OUTCOMES]
        assert len(set(found)) == len(OUTCOMES)
        assert all(cell_len(each) == 1 for each in found)
    assert all(glyph(outcome, glyphs=ASCII).isascii() for outcome in OUTCOMES)
    assert NAMES.keys() == set(OUTCOMES)


@pytest.mark.parametrize("depth", ["truecolor", "256", "16"])
def test_every_outcome_stands_out_from_a_light_and_a_dark_terminal(depth) -> None:  # type: ignore[no-untyped-def]
    assert COLOURS[depth].keys() == set(OUTCOMES)
    if depth != "16":  # the terminal's own colours, which follow its background
        for ground in ("#000000", "#ffffff"):
            assert all(contrast(color, ground) >= 3.0 for color in COLOURS[depth].values())


def test_30_problems_with_32_samples_are_30_rows_of_80_columns() -> None:
    problems = tuple(
        ProblemResult(f"2025-II-{at}", "999", 32, 1.0, ("correct",) * 32, (5,) * 32)
        for at in range(1, 31)
    )
    found = rows(problems, k=32, width=80)
    assert len(found) == 30 and max(map(len, found)) <= 80
    assert found[0] == "2025-II-1   999  32  " + " ".join(["█" * 8] * 4)
    quiet = rows(tuple(replace(each, answer=None) for each in problems), k=32, width=80)
    assert quiet[0] == "2025-II-1   32  " + " ".join(["█" * 8] * 4)


@pytest.mark.parametrize("width", [24, 40, 80, 120])
@pytest.mark.parametrize("k", [1, 7, 8, 9, 32, 100])
def test_no_sample_is_left_out_and_their_order_is_kept(width: int, k: int) -> None:
    outcomes: tuple[Outcome, ...] = tuple(OUTCOMES[at * at % 7] for at in range(k))
    one = (ProblemResult("p", "1", outcomes.count("correct"), 0.0, outcomes, (5,) * k),)
    found = rows(one, k=k, width=width)
    assert all(cell_len(row) <= width for row in found)
    first = re.sub(r"^p +1 +\d+ +", "", found[0])
    shown = "".join([first, *found[1:]]).replace(" ", "")
    assert shown == "".join(glyph(outcome, glyphs=UNICODE) for outcome in outcomes)


def test_a_long_id_keeps_its_end_where_ids_differ() -> None:
    assert elide("some/long/benchmark-17", 8, end=True) == "…mark-17"
    assert elide("abc", 3, end=True) == "abc"
    assert elide("abcdef", 4, glyphs=ASCII, end=True) == "..ef"


def test_the_legend_counts_what_occurs_and_nothing_else() -> None:
    problems = evaluation([3, 8]).problems
    paper = page(80)
    outcome_legend(paper, problems)
    (line,) = texts(paper)
    found = [outcome for problem in problems for outcome in problem.outcomes]
    assert "█ correct 11" in line and "crash" not in line
    for outcome in set(found):
        assert f"{NAMES[outcome]} {found.count(outcome)}" in line


@pytest.mark.parametrize(
    "lengths",
    [[5], [9, 120], [1, 32_768], [20_470, 20_480], [0, 3, 11], list(range(1, 999, 7)), [7, 7, 7]],
)
def test_bins_are_few_round_and_hold_every_length_once(lengths: list[int]) -> None:
    found = bins(lengths, lengths[:1])
    assert 1 <= len(found) <= 12
    for each in found:
        inside = [x for x in lengths if each.low <= x <= each.high]
        assert each.right == len(inside)
    assert sum(b.right for b in found) == len(lengths) and sum(b.wrong for b in found) == 1
    assert all(b.high + 1 == after.low for b, after in itertools.pairwise(found))
    width = found[0].high - found[0].low + 1
    assert str(width).rstrip("0") in ("1", "2", "5") and found[0].low % width == 0


def test_no_lengths_have_no_bins() -> None:
    assert bins([], []) == ()
