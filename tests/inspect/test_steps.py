"""Steps hold every token once, and end where a reader would say that a thought ends."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgpo_cli.core.types import InspectedToken
from dgpo_cli.engine.values.steps import step_starts
from dgpo_cli.inspect.views.measure import pieces
from dgpo_cli.inspect.views.steps import steps_of


def tokens(*texts: str) -> list[InspectedToken]:
    return [InspectedToken(at, text, 0.0, 0.0, 0.0, 0.0, 1.0) for at, text in enumerate(texts)]


def split(text: str) -> list[str]:
    return [text[start:stop] for start, stop in pairwise([*step_starts(text), len(text)])]


@pytest.mark.parametrize(
    "steps",
    [
        ["One line\n", "and another"],
        ["First.\n\n\n", "Second.\n"],
        ["\n\nThe first line says nothing.\n", "Done"],
        ["We add.", " Then we double.", " Why?", " It works!", " x = 3.", " y = 4."],
        ['He said "no."', " She said (yes.)", " **Bold.**", " 42 is it.", " $x$ too."],
        ["12+7=19;", "19*4=76;", "\\boxed{68}"],
        ["今天很好。", "明天呢？", "不知道"],
        ["Is it so?!", " Yes..."],
        ["A line\n---\n", "under a rule\n```\n"],
        ["By hand:\n", "\\[\nx = 1. Y = 2;\n z\n\\]\n", "Then."],
        ["So\n", "\\begin{align}\na &= 1 \\\\\nb &= 2\n\\end{align}\n", "End"],
        ["a\r\n", "b"],
    ],
)
def test_a_step_ends_with_a_line_a_sentence_or_a_semicolon(steps: list[str]) -> None:
    assert split("".join(steps)) == steps


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no end at all",
        "pi is 3.14 and e is 2.718, .5 of it",
        "Hmm... let me think … again",
        "see e.g. Newton, cf. Euler, Eq. 3 and Fig. 4 by Dr. Gauss",
        "1. Compute the sum",
        "  (b). Compute the sum",
        "5! = 120 and n! + 1",
        "inline $a. B; c$ and \\(d. E; f\\) stay",
        "f(a; b) = [1; 2]",
        "&lt;b&gt; is text",
        "right? yes, and v. small",
        "\n\n \n",
        "a;",
        "ends. ",
    ],
)
def test_what_only_looks_like_an_end_is_none(text: str) -> None:
    assert step_starts(text) == [0]


def test_a_formula_that_never_closes_holds_nothing_together() -> None:
    assert split("Cost is $5. Then $6.\nSo \\[ x = 1. Then\n\nmore") == [
        "Cost is $5.",
        " Then $6.\n",
        "So \\[ x = 1.",
        " Then\n\n",
        "more",
    ]


def test_a_token_belongs_to_the_step_in_which_it_begins() -> None:
    steps = steps_of(tokens("One", ".\nTw", "o.", " Three", ".\n\n", "Four"))
    assert [(step.start, step.stop) for step in steps] == [(0, 2), (2, 3), (3, 5), (5, 6)]


def test_a_step_that_no_token_begins_in_is_no_step() -> None:
    steps = steps_of(tokens("a\nb\nc", "d"))
    assert [(step.start, step.stop) for step in steps] == [(0, 1), (1, 2)]  # "b" has none


def test_the_parts_of_a_character_stay_together() -> None:
    steps = steps_of(tokens("End.\n", "", "", "😀", " x"))
    assert [(step.start, step.stop) for step in steps] == [(0, 1), (1, 5)]


def test_a_completion_without_tokens_has_no_steps() -> None:
    assert steps_of([]) == ()


TEXTS = st.text(alphabet='aB1 .;!?\n$\\[](){}…。😀\ufffd"', max_size=6) | st.text(max_size=6)


@given(st.lists(TEXTS, max_size=30))
def test_steps_hold_every_token_exactly_once(texts: list[str]) -> None:
    own = tokens(*texts)
    steps = steps_of(own)
    assert [at for step in steps for at in range(step.start, step.stop)] == list(range(len(own)))
    assert all(step.start < step.stop for step in steps)


@given(st.lists(TEXTS | st.just(""), max_size=30))
def test_no_piece_lies_in_two_steps(texts: list[str]) -> None:
    own = tokens(*texts)
    starts = {step.start for step in steps_of(own)}
    for piece in pieces(own):
        if piece.text is not None and len(piece.text) == 1 and piece.text != "\ufffd":
            assert starts.isdisjoint(range(piece.start + 1, piece.stop))


@given(TEXTS.map(lambda text: text * 3))
def test_starts_ascend_inside_the_text(text: str) -> None:
    starts = step_starts(text)
    assert starts[0] == 0
    assert all(a < b for a, b in pairwise(starts))
    assert starts[-1] < max(1, len(text))
