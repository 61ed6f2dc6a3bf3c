"""Model text is shown and never obeyed."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from dgpo_cli.core import text
from dgpo_cli.core.text import (
    ASCII,
    UNICODE,
    elide,
    markdown_code,
    markdown_plain,
    pad,
    plain,
    split_cells,
    split_cells_end,
    visible,
)
from dgpo_cli.core.types import InspectedToken
from dgpo_cli.inspect.views.measure import pieces

NASTY = st.text(
    st.one_of(
        st.characters(),
        st.sampled_from("\x1b\x00\x07\x9b\x7f\r\n\t \u200b\u200d\u202e\u2066\ufeff\u0301\ufe0f你é"),
    )
)


def token(text: str, weight: float = 1.0) -> InspectedToken:
    return InspectedToken(0, text, -1.0, 1.0, 0.0, 0.0, weight)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[31mb", "a\\x1b[31mb"),
        ("\x00\x07\x7f\x85\x9b", "\\x00\\x07\\x7f\\x85\\x9b"),
        ("\r\n", "\\r↵"),
        ("\t", "⇥"),
        ("\u202eabc\u2066", "\\u202eabc\\u2066"),
        ("a\u200bb\u200d\ufeff", "a\\u200bb\\u200d\\ufeff"),
        ("\u2028\u2029\xa0\u3000", "\\u2028\\u2029\\xa0\\u3000"),
        ("\u115f\u3164\u2800\ufe0f", "\\u115f\\u3164\\u2800\\ufe0f"),
        ("\U000e0041\ud800\ue000", "\\U000e0041\\ud800\\ue000"),
        ("e\u0301", "e\u0301"),
        ("\u0301", "◌\u0301"),
        ("e\u0301\u0301\u0301\u0301", "e\u0301\u0301\u0301\\u0301"),
        ("[red]\\boxed{1}", "[red]\\boxed{1}"),
        ("你好 שלום", "你好 שלום"),
    ],
)
def test_what_a_terminal_would_obey_or_hide_is_an_escape(text: str, shown: str) -> None:
    assert visible(text) == shown


@given(NASTY)
def test_visible_text_has_no_control_format_or_zero_width_character(text: str) -> None:
    shown = visible(text)
    assert all(unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Co") for char in shown)
    zero_width = [char for char in shown if cell_len(char) == 0]
    assert all(unicodedata.category(char)[0] == "M" for char in zero_width)
    assert visible(shown) == shown


@given(NASTY)
def test_ascii_output_is_printable_ascii(text: str) -> None:
    shown = visible(text, glyphs=ASCII, spaces=True)
    assert shown.isascii() and shown.isprintable()


def test_spaces_are_shown_on_request() -> None:
    assert visible(" a b", spaces=True) == "·a·b"
    assert visible(" a b") == " a b"
    assert visible(" a", glyphs=ASCII, spaces=True) == "_a"


def test_markup_stays_text() -> None:
    text = plain("[bold red]x[/] :smile:")
    assert text.plain == "[bold red]x[/] :smile:"
    assert text.spans == []


@given(NASTY, st.integers(2, 30))
def test_splitting_by_cells_fits_and_loses_nothing(text: str, room: int) -> None:
    shown = visible(text)
    head, tail = split_cells(shown, room)
    assert head + tail == shown
    assert sum(map(cell_len, head)) <= room
    assert not tail or sum(map(cell_len, head)) + cell_len(tail[0]) > room
    rest, end = split_cells_end(shown, room)
    assert rest + end == shown
    assert sum(map(cell_len, end)) <= room
    assert not end or cell_len(end[0]) > 0


def test_an_elided_text_says_so_and_wide_characters_count_twice() -> None:
    assert elide("abcdef", 6) == "abcdef"
    assert elide("abcdef", 5) == "abcd…"
    assert elide("你好世界", 6) == "你好…"
    assert elide("abcdef", 5, glyphs=ASCII) == "abc.."
    assert pad("你", 4) == "你  "
    assert pad("你", 4, right=True) == "  你"


def test_a_merged_character_has_the_sum_of_its_parts_weights() -> None:
    tokens = [token("a", 0.5), token("", 1.0), token("", 2.0), token("😀", 4.0), token("b", 0.25)]
    merged = pieces(tokens)
    assert [(p.text, p.start, p.stop, p.weight) for p in merged] == [
        ("a", 0, 1, 0.5),
        ("😀", 1, 4, 7.0),
        ("b", 4, 5, 0.25),
    ]


def test_partial_bytes_are_one_piece_and_textless_tokens_stay_alone() -> None:
    tokens = [token("\ufffd", 1.0), token("\ufffd", 2.0), token(""), token("b"), token("")]
    assert [(p.text, p.weight) for p in pieces(tokens)] == [
        ("\ufffd", 3.0),
        (None, 1.0),
        ("b", 1.0),
        (None, 1.0),
    ]


@given(st.lists(st.tuples(st.sampled_from(["", "a", "é", "\ufffd", "😀"]), st.floats(0, 9))))
def test_pieces_cover_every_token_once_and_keep_all_weight(
    parts: list[tuple[str, float]],
) -> None:
    tokens = [token(text, weight) for text, weight in parts]
    merged = pieces(tokens)
    covered = [position for piece in merged for position in range(piece.start, piece.stop)]
    assert covered == list(range(len(tokens)))
    assert sum(piece.weight for piece in merged) == pytest.approx(sum(t.weight for t in tokens))


def test_glyphs_are_one_cell_each_where_levels_must_align() -> None:
    for glyphs in (UNICODE, ASCII):
        assert all(cell_len(char) == 1 for char in glyphs.above + glyphs.below + glyphs.fractions)
        assert len(glyphs.above) == len(glyphs.below)


def test_markdown_code_ends_neither_itself_nor_its_cell() -> None:
    shown = markdown_code("a|b`c</code><b>&amp;")
    assert shown == "<code>a&#124;b&#96;c&lt;/code&gt;&lt;b&gt;&amp;amp;</code>"
    assert markdown_plain("[x](http://y)\n# z") == "-x--http-//y--- z"


def test_no_other_module_escapes_text() -> None:
    package = Path(text.__file__).parents[1]
    ways = re.compile(r"html\.escape|\.isprintable\(|&lt;|rich\.markup|markup=True|unicode_escape")
    found = [
        f"{path.relative_to(package)}: {line.strip()}"
        for path in package.rglob("*.py")
        if path.name != "text.py"
        for line in path.read_text(encoding="utf-8").splitlines()
        if ways.search(line)
    ]
    assert found == []


def test_a_text_of_ordinary_letters_is_what_its_letters_are_one_by_one() -> None:
    for code in range(0x20, 0x10000):
        char = chr(code)
        if text._ORDINARY.fullmatch(char) and char.isprintable():
            marked = f"{char}\u0301\u0301\u0301\u0301"  # a fifth sign: letter by letter
            assert text.visible(char) == char == text.visible(marked)[0], hex(code)
