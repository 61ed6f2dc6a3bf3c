"""A pair is shown from where it parts, with the credit of both on one scale."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgpo_cli.core.types import InspectedCompletion, StoredCredit
from dgpo_cli.inspect.views import pair_view
from dgpo_cli.inspect.views.pair_view import parting
from tests.samples import completion, hostile_pair, inspection, pair, printed


def with_ids(texts: list[str], ids: list[int], **changes: object) -> InspectedCompletion:
    shown = completion(texts, [0.0] * len(texts), tau=0.5, **changes)
    tokens = (replace(token, id=id) for token, id in zip(shown.tokens, ids, strict=True))
    return replace(shown, tokens=tuple(tokens))


@given(st.lists(st.integers(0, 2), max_size=12), st.lists(st.integers(0, 2), max_size=12))
def test_what_both_begin_with_is_the_longest_start_in_common(a: list[int], b: list[int]) -> None:
    first, second = (with_ids([str(id) for id in ids], ids) for ids in (a, b))
    common = parting(first, second)
    assert a[:common] == b[:common]
    assert common == min(len(a), len(b)) or a[common] != b[common]


def test_a_character_is_in_what_both_begin_with_as_a_whole_or_not_at_all() -> None:
    both = [
        with_ids(["a", "", "", emoji, "b"], [1, 2, 3, id, 5])
        for emoji, id in (("😀", 7), ("😁", 8))
    ]
    assert parting(*both) == 1
    first, second = hostile_pair()
    assert parting(first, second) == 6


def view(
    both: tuple[InspectedCompletion, InspectedCompletion],
    *,
    width: int = 100,
    whole: bool = False,
    fit: bool = False,
) -> str:
    picture = pair_view.render(
        *both, inspection=inspection(*both), width=width, color="none", fit=fit, whole=whole
    )
    return printed(picture, width=width)


def test_the_start_in_common_is_shown_once_and_the_rest_on_its_side() -> None:
    texts = ["same", " start", "."]
    right = with_ids([*texts, " Then", " left"], [1, 2, 3, 4, 5])
    wrong = with_ids([*texts, " Or", " right"], [1, 2, 3, 6, 7], index=8, outcome="wrong")
    lines = view((right, wrong)).split("\n")
    assert sum("same start." in line for line in lines) == 1
    row = next(line for line in lines if "Then left" in line)
    assert [part.strip() for part in row.split("│")] == ["Then left", "Or right"]
    assert "Both begin with the same 3 tokens" in lines


def test_credit_of_the_start_and_of_every_step_adds_up() -> None:
    for width in (100, 60):
        both = pair(sentences=10, alike=5)
        output = view(both, width=width)
        for column, shown in enumerate(both):
            start = next(line for line in output.split("\n") if line.startswith("  sum of A"))
            total = float(start.split()[3 + column])
            mark = "✓" if column == 0 else "✗"
            for line in output.split("\n"):
                parts = line.split("│")
                for part in parts:
                    words = part.split()
                    if words[:1] == [mark] and len(words) > 4 and words[1].isdigit():
                        total += float(words[-1])
            assert total == pytest.approx(len(shown.tokens) * shown.advantage, rel=0.01)


def test_a_narrow_page_stacks_the_steps() -> None:
    both = pair(sentences=10, alike=5)
    assert "│" in view(both, width=80)
    assert "│" not in view(both, width=79)


def test_text_from_right_to_left_is_never_beside_other_text() -> None:
    texts = ["x", "שלום", "."]
    right, wrong = with_ids(texts, [1, 2, 3]), with_ids(["y", "b", "."], [4, 5, 6], outcome="wrong")
    assert "│" not in view((right, wrong))
    assert "│" in view((replace(wrong, outcome="correct"), wrong))


def test_only_the_end_of_a_long_start_is_shown_unless_all_of_it_is_asked_for() -> None:
    both = pair(sentences=30, alike=25)
    first = both[0].tokens[0].text
    short, whole = view(both), view(both, whole=True)
    assert "lines before" in short and "lines before" not in whole
    assert len(short.split("\n")) < len(whole.split("\n"))
    assert first in whole[whole.index("Both begin") :]


def test_both_are_on_one_scale() -> None:
    # the heaviest token of one completion is far lighter than that of the other
    right = completion("abcd", [1.0, 0, 0, 0], tau=0.25)
    wrong = completion("wxyz", [0.2, 0, 0, 0], tau=0.25, outcome="wrong")
    tokens = (replace(token, id=100 + token.id) for token in wrong.tokens)
    output = view((right, replace(wrong, tokens=tuple(tokens))), fit=True)
    row = output.split("\n").index(next(line for line in output.split("\n") if "abcd" in line))
    marks = [part.strip() for part in output.split("\n")[row + 1].split("│")]
    # three levels from 5 ** (1 / 6), half a step, to 5: 3.79 is in the last, 1.70 in the first
    high, low = (4 * math.exp(x) / (math.exp(x) + 3) for x in (4, 0.8))
    start = math.log(5) / 6
    step = (math.log(5) - start) / 3
    assert [math.floor((math.log(weight) - start) / step) for weight in (high, low)] == [2, 0]
    assert (marks[0][0], marks[1][0]) == ("█", "▂")


def test_a_what_if_tells_of_both_sides_what_it_changes() -> None:
    right = with_ids(["a", "b", "c", "d"], [1, 2, 3, 4])
    wrong = with_ids(["a", "b", "c"], [1, 2, 5], index=8, outcome="wrong")
    stored = [
        StoredCredit("dgpo", {}, 0.5, 0.25, (4.0, 0.0, 0.0, 0.0)),
        StoredCredit("dgpo", {}, 0.5, 0.6, (0.0, 1.5, 1.5)),
    ]
    both = [replace(each, stored=own) for each, own in zip((right, wrong), stored, strict=True)]
    rows = [line.split() for line in view((both[0], both[1])).splitlines()]
    assert ["trained", "0.25000", "0.60000"] in rows
    assert ["moves", "75.0%", "of", "w", "33.3%", "of", "w"] in rows
    assert not any(row[:1] == ["moves"] for row in map(str.split, view((right, wrong)).split("\n")))


def test_each_side_has_the_tau_that_was_found_for_it() -> None:
    both = [replace(with_ids(["a", "b"], [1, at]), tau=tau) for at, tau in enumerate((0.03, None))]
    asked = inspection(*both, tau=None, parameters={"target_ess": 0.8})
    picture = pair_view.render(*both, inspection=asked, width=80, color="none")
    lines = printed(picture, width=80).splitlines()
    assert ["tau", "0.03", "none"] in [line.split() for line in lines]
    assert "credit rule dgpo, tau for target_ess 0.8, kappa 1" in lines
