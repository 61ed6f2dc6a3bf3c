"""The fragment of coloured tokens: the terminal's levels, every text once, nothing obeyed."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from dgpo_cli.core.text import visible
from dgpo_cli.core.types import InspectedCompletion
from dgpo_cli.inspect.token_html import STEPS, level_class, token_lines, tokens_style
from dgpo_cli.inspect.views.measure import pieces
from dgpo_cli.ui.document import templates
from dgpo_cli.ui.scale import Scale
from tests.samples import completion, hostile, solution


class Fragment(HTMLParser):
    """The spans of a fragment by line, as (class, title, text), and its other elements."""

    def __init__(self, fragment: str) -> None:
        super().__init__()
        self.lines: list[list[list[str]]] = []
        self.others: list[str] = []
        self.feed(fragment)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag == "span":
            assert found.keys() <= {"class", "title"}
            self.lines[-1].append([found.get("class") or "", found["title"] or "", ""])
        elif found.get("class") == "line":
            self.lines.append([])
        else:
            self.others.append(tag)

    def handle_data(self, data: str) -> None:
        self.lines[-1][-1][2] += data


def fragment(shown: InspectedCompletion) -> Fragment:
    macros = templates().get_template("parts.html").module
    return Fragment(macros.tokens(token_lines(shown.tokens, vocab_size=1024)))  # type: ignore[attr-defined]


@pytest.mark.parametrize("shown", [solution(), hostile()], ids=["solution", "hostile"])
def test_every_piece_is_one_span_with_its_level_and_its_visible_text(
    shown: InspectedCompletion,
) -> None:
    found = fragment(shown)
    scale = Scale.of([token.weight for token in shown.tokens], steps=STEPS)
    spans = [span for line in found.lines for span in line]
    assert found.others == ["div"]
    assert len(spans) == len(pieces(shown.tokens))
    for (look, title, text), piece in zip(spans, pieces(shown.tokens), strict=True):
        assert look == level_class(scale.level(piece.weight))
        assert scale.number(piece.weight) in title
        expected = visible(piece.text or "∅").replace("·", " ")
        assert re.sub(r"[\n·]", lambda m: {"\n": "", "·": " "}[m[0]], text) == expected


def test_a_line_ends_where_the_text_has_a_newline() -> None:
    shown = completion(["a", "b\n", "c", "\n", "\n", "d\ne"], [0.0] * 6, tau=1.0)
    texts = [[text for *_, text in line] for line in fragment(shown).lines]
    assert texts == [["a", "b↵"], ["c", "↵"], ["↵"], ["d↵\ne"]]


def test_equal_weights_have_no_colour() -> None:
    assert {
        look for line in fragment(completion("abc", [0.1] * 3, tau=1.0)).lines for look, *_ in line
    } == {""}


def test_no_tokens_make_no_lines() -> None:
    assert fragment(completion([], [], tau=1.0)).lines == []


def test_the_style_names_no_address() -> None:
    assert not re.search(r"url\(|@import|https?:", tokens_style())
