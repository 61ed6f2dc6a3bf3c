"""Passages hold the tokens that matter, and say what they leave out."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgpo_cli.core.types import InspectedCompletion
from dgpo_cli.inspect.views import heatmap
from dgpo_cli.inspect.views.body import Passage, passages_around
from dgpo_cli.inspect.views.ranking import ranked
from tests.samples import completion, inspection, printed, reasoning


@given(
    st.lists(st.integers(0, 59), max_size=10),
    st.sets(st.integers(0, 59), max_size=20),
    st.integers(3, 30),
)
def test_passages_are_apart_in_order_and_not_too_long(
    wanted: list[int], empty: set[int], rows: int
) -> None:
    found = passages_around(wanted, count=60, rows=rows, empty=empty)
    lines = [line for each in found for line in range(each.start, each.stop)]
    assert lines == sorted(set(lines)) and all(0 <= line < 60 for line in lines)
    for before, after in pairwise(found):
        assert after.start - before.stop >= 2
    assert not wanted or wanted[0] in lines
    assert len(lines) <= rows + len(found) + 2  # single lines between and beside are filled


def test_passages_that_touch_or_that_one_line_parts_are_one() -> None:
    assert passages_around([10, 12], count=60, rows=20) == (Passage(9, 14),)
    assert passages_around([10, 13], count=60, rows=20) == (Passage(9, 15),)
    assert passages_around([10, 14], count=60, rows=20) == (Passage(9, 16),)
    assert passages_around([10, 15], count=60, rows=20) == (Passage(9, 12), Passage(14, 17))
    assert passages_around([2, 57], count=60, rows=20) == (Passage(0, 4), Passage(56, 60))


def test_the_most_important_lines_come_first_when_there_is_room_for_few() -> None:
    assert passages_around([50, 5, 30], count=60, rows=6) == (Passage(4, 7), Passage(49, 52))


def test_empty_lines_are_no_context() -> None:
    found = passages_around([10], count=60, rows=20, empty={9, 11})
    assert found == (Passage(10, 11),)


def view(shown: InspectedCompletion, *, whole: bool = False, top: int = 3) -> str:
    picture = heatmap.render(
        shown, inspection=inspection(shown), width=80, top=top, color="none", whole=whole
    )
    return printed(picture)


def text_of(output: str) -> list[str]:
    """The lines between the strip and the legend, without those of marks."""
    start = output.index("\n\n", output.index("each bar")) + 2
    marks = set(" ▂▅█-=≡")
    lines = output[start : output.index("\n\nweight ")].split("\n")
    return [line for line in lines if not set(line) <= marks]


def numbered(count: int, *, heavy: list[int]) -> InspectedCompletion:
    """Lines "0:", "1:", ... each of three tokens; the tokens at `heavy` weigh the most."""
    texts = [part for at in range(count) for part in (str(at), ":", "\n")]
    scores = [0.5 - 0.01 * heavy.index(at) if at in heavy else 0.0 for at in range(3 * count)]
    return completion(texts, scores, tau=0.2)


def test_a_long_completion_is_cut_to_the_lines_around_its_top_tokens() -> None:
    shown = numbered(200, heavy=[300, 60, 540, *range(303, 318, 3)])
    lines = text_of(view(shown))
    text = [line.rstrip("↵") for line in lines if not line.startswith("─")]
    assert text == [
        *["19:", "20:", "21:"],
        *map("{}:".format, range(99, 107)),
        "179:",
        "180:",
        "181:",
    ]


def test_gaps_say_how_many_tokens_and_how_much_weight_they_hold() -> None:
    shown = numbered(200, heavy=[300, 60, 540, *range(303, 318, 3)])
    gaps = [line for line in text_of(view(shown)) if line.startswith("─")]
    counts = [int(re.search(r"(\d+) tokens", gap)[1]) for gap in gaps]  # type: ignore[index]
    assert counts == [19 * 3, (99 - 22) * 3, (179 - 107) * 3, (200 - 182) * 3]
    shares = [float(re.search(r"([\d.e-]+)% of", gap)[1]) for gap in gaps]  # type: ignore[index]
    bounds = [(0, 19), (22, 99), (107, 179), (182, 200)]
    for share, (start, stop) in zip(shares, bounds, strict=True):
        held = sum(token.weight for token in shown.tokens[3 * start : 3 * stop]) / 600
        assert share == pytest.approx(100 * held, rel=0.05)


@given(st.integers(0, 6), st.integers(1, 8))
def test_the_heaviest_tokens_are_in_the_passages(seed: int, top: int) -> None:
    shown = reasoning(seed=seed)
    output = view(shown, top=top)
    text = " ".join(text_of(output))
    # whatever else is cut, the most weighted token's line is there as a whole
    first = ranked(shown.tokens, top=1)[0]
    start = next(at for at in range(first, -1, -1) if at == 0 or "\n" in shown.tokens[at - 1].text)
    line = "".join(token.text for token in shown.tokens[start : first + 3])
    assert line.split("\n")[0].strip() in " ".join(text.replace("↵", "").split())


def test_the_whole_text_is_shown_where_it_is_asked_for_or_fits_a_screen() -> None:
    shown = numbered(200, heavy=[300])
    everything = [f"{at}:↵" for at in range(200)]
    assert text_of(view(shown, whole=True)) == everything
    short = numbered(10, heavy=[3])
    assert text_of(view(short)) == everything[:10]


def test_without_a_table_there_are_still_passages() -> None:
    shown = numbered(200, heavy=[300])
    assert "100:↵" in text_of(view(shown, top=0)) and len(text_of(view(shown, top=0))) < 30
