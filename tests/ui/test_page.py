"""A page keeps its width, shows foreign text and never obeys it, and is the same down a pipe."""

from __future__ import annotations

from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from dgpo_cli.core.text import ASCII
from dgpo_cli.ui.page import LEAST_WIDTH, Page, View
from tests.samples import printed, texts

WORDS = st.lists(st.text("ab你", min_size=1, max_size=9), min_size=1, max_size=30)
LONG = "a sentence that is longer than the line of a terminal, and goes on"


@given(WORDS, st.integers(LEAST_WIDTH, 90), st.integers(0, 6))
def test_a_paragraph_keeps_the_width_and_every_word(words: list[str], width: int, at: int) -> None:
    page = Page(width, depth="none")
    text = page.shown(" ".join(words))
    page.paragraph(text, indent=at)
    lines = texts(page)
    assert all(cell_len(line) <= width and line.startswith(" " * at) for line in lines)
    assert " ".join(lines).split() == text.split()


def test_a_head_stands_on_the_first_line_of_its_paragraph() -> None:
    page = Page(30, depth="none")
    page.paragraph(LONG, indent=6, head=page.cells(("warn", 6, "yellow")))
    first, *rest = texts(page)
    assert first.startswith("warn  a sentence") and all(line[:6] == " " * 6 for line in rest)


def test_a_note_that_is_cut_says_so() -> None:
    page = Page(40, depth="none")
    page.heading("integers", LONG)
    (line,) = texts(page)
    assert cell_len(line) <= 40 and line.startswith("integers  a sentence") and line.endswith("…")


@given(st.text(max_size=300), st.integers(LEAST_WIDTH, 60))
def test_foreign_text_is_wrapped_whatever_its_words_are(text: str, width: int) -> None:
    page = Page(width, depth="none")
    page.wrapped(text, indent=2)
    assert all(cell_len(line) <= width and line.isprintable() for line in texts(page))
    assert "".join(texts(page)).replace(" ", "") == page.shown(text).replace(" ", "")


def test_nothing_written_on_a_page_reaches_the_terminal_as_a_command() -> None:
    def draw(page: Page) -> None:
        page.title("\x1b[31mtitle", "\a")
        page.field("field", "\x1b]0;x\a")
        page.row(("\x1b[2J", 8), ("[bold]1[/]", -12))
        page.paragraph("[red]\x1b[0m")
        page.wrapped("‮reversed\r")

    sent = printed(View(draw, "none"), width=60)
    assert "\x1b" not in sent and "\a" not in sent and "\r" not in sent and "‮" not in sent
    assert "[bold]1[/]" in sent and "[red]\\x1b[0m" in sent


def test_numbers_of_a_column_end_in_one_cell() -> None:
    page = Page(60, depth="none")
    for name, number in (("one", "1"), ("much", "1,234.5"), ("你", "12%")):
        page.row((name, 10), (number, -9))
    assert {cell_len(line) for line in texts(page)} == {19}


def test_notes_stand_behind_a_line_where_there_is_room_and_else_below() -> None:
    for width, lines in ((80, 1), (40, 2)):
        page = Page(width, depth="none")
        page.interval("rerun", "54.1 to 62.4", "these problems sampled again")
        assert len(texts(page)) == lines
        assert " ".join(" ".join(texts(page)).split()).endswith("62.4 these problems sampled again")


def test_a_long_fact_stands_below_its_label() -> None:
    page = Page(30, depth="none")
    page.fact("a label", "7", wraps=True)
    page.fact("a label", "a value that has no room", wraps=True)
    assert [line.split() for line in texts(page)][:2] == [["a", "label", "7"], ["a", "label"]]


@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_view_has_the_width_colours_and_symbols_of_its_console(width: int) -> None:
    def draw(page: Page, seen: list[Page]) -> None:
        seen.append(page)
        page.heading("a heading", "a note")
        page.rule()

    seen: list[Page] = []
    view = View(partial(draw, seen=seen), "256")
    assert "\x1b" not in printed(view, width=width)
    assert "\x1b[1m" in printed(view, width=width, color="truecolor")
    printed(view, width=width, encoding="ascii")
    assert [page.width for page in seen] == [width] * 3
    assert [page.depth for page in seen] == ["none", "256", "none"]
    assert [page.glyphs is ASCII for page in seen] == [False, False, True]
