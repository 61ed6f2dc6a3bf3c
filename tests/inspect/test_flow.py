"""Running text fits its width, breaks where the text breaks, and loses nothing."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from dgpo_cli.core.text import ASCII, UNICODE, visible
from dgpo_cli.ui.flow import Run, marked, show, show_all, wrap


def lines(text: str, width: int) -> list[str]:
    wrapped = wrap([Run(text, 0, False)], width=width)
    return ["".join(run.text for run in line) for line in wrapped]


@given(st.lists(st.tuples(st.text(), st.integers(-3, 3))), st.integers(2, 40))
def test_wrapped_lines_fit_and_join_to_the_text(parts: list[tuple[str, int]], width: int) -> None:
    runs = [Run(show(text or None, glyphs=UNICODE), level, False) for text, level in parts]
    wrapped = list(wrap(runs, width=width))
    for line in wrapped:
        assert sum(cell_len(char) for run in line for char in run.text) <= width
    joined = "".join(run.text for line in wrapped for run in line)
    assert joined == "".join(run.text for run in runs).replace("\n", "")


def test_short_words_stay_whole_and_long_ones_break_at_the_edge() -> None:
    assert lines("one two three", 10) == ["one two ", "three"]
    assert lines("abcdefghijklm", 5) == ["abcde", "fghij", "klm"]
    assert lines("你好世界", 5) == ["你好", "世界"]


def test_a_newline_is_a_symbol_and_a_line_break() -> None:
    assert lines(show("a\n\nb", glyphs=UNICODE), 10) == ["a↵", "↵", "b"]
    assert lines(show("a\nb", glyphs=ASCII), 10) == ["a\\n", "b"]


def test_spaces_that_could_be_missed_are_shown() -> None:
    assert show("a b", glyphs=UNICODE) == "a b"
    assert show("a \n", glyphs=UNICODE) == "a·↵\n"
    assert show("a  b", glyphs=UNICODE) == "a··b"


@given(st.lists(st.text(alphabet=" a\n\té", max_size=3), max_size=12))
def test_spaces_are_not_missed_between_tokens(texts: list[str]) -> None:
    shown = show_all((text or None for text in texts), glyphs=UNICODE)
    joined = "".join(shown)
    assert "  " not in joined and " ↵" not in joined
    alone = [show(text or None, glyphs=UNICODE) for text in texts]
    assert [text.replace("·", " ") for text in shown] == [text.replace("·", " ") for text in alone]
    words = ["a b", " c ", "d"]  # what cannot be missed stays a space
    assert show_all(words, glyphs=UNICODE) == words


def test_level_glyphs_stand_under_the_cells_of_their_run() -> None:
    line = [Run("ab", 3, False), Run("你", -1, False), Run("c", 0, False), Run("d", 1, True)]
    shown = "".join(segment.text for segment in marked([line], glyphs=UNICODE))
    assert shown == "ab你cd\n██-- ▂\n"


def test_a_line_of_weight_one_has_no_row_of_glyphs() -> None:
    shown = "".join(segment.text for segment in marked([[Run("abc", 0, False)]], glyphs=UNICODE))
    assert shown == "abc\n"


def test_visible_text_is_what_is_wrapped() -> None:
    assert lines(visible("\x1b[2J"), 20) == ["\\x1b[2J"]
