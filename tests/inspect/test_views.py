"""Every view of a completion in every mode: what it shows adds up, fits, and is safe."""

from __future__ import annotations

import itertools
import math
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import RenderableType

from dgpo_cli.core.types import InspectedCompletion
from dgpo_cli.inspect.views import heatmap, pair_view, step_table
from dgpo_cli.inspect.views.measure import What
from dgpo_cli.ui.ramp import Depth
from tests.samples import (
    SGR,
    check_snapshot,
    completion,
    hostile,
    hostile_pair,
    inspection,
    pair,
    printed,
    reasoning,
    solution,
    valued,
)

MODES: tuple[Depth, ...] = ("truecolor", "256", "16", "none")
WHATS: tuple[What, ...] = get_args(What)
Draw = Callable[..., RenderableType]


def tokens_view(shown: InspectedCompletion, **changes: object) -> RenderableType:
    settings = {"inspection": inspection(shown), "top": 6, **changes}
    return heatmap.render(shown, **settings)  # type: ignore[arg-type]


def steps_view(shown: InspectedCompletion, **changes: object) -> RenderableType:
    return step_table.render(shown, inspection=inspection(shown), **changes)  # type: ignore[arg-type]


def shown_pair(
    both: tuple[InspectedCompletion, InspectedCompletion], **changes: object
) -> RenderableType:
    return pair_view.render(*both, inspection=inspection(*both), **changes)  # type: ignore[arg-type]


def drawn(draw: Draw, shown: object, *, encoding: str = "utf-8", **changes: object) -> str:
    """What a console of 400 cells prints: wider than any view, it cuts nothing at its edge."""
    settings = {"width": 80, "color": "none", **changes}
    return printed(
        draw(shown, **settings), width=400, color=str(settings["color"]), encoding=encoding
    )


@pytest.mark.parametrize("color", MODES)
@pytest.mark.parametrize("what", WHATS)
def test_snapshot_of_every_number(what: What, color: Depth) -> None:
    shown = valued(solution()) if what == "value" else solution()
    check_snapshot(f"what-{what}-{color}.txt", drawn(tokens_view, shown, what=what, color=color))


@pytest.mark.parametrize("color", MODES)
@pytest.mark.parametrize("width", [40, 100])
def test_snapshot_of_passages(width: int, color: Depth) -> None:
    output = drawn(tokens_view, reasoning(), width=width, color=color)
    check_snapshot(f"passages-{color}-{width}.txt", output)


@pytest.mark.parametrize("color", MODES)
@pytest.mark.parametrize("width", [40, 80])
def test_snapshot_of_steps(width: int, color: Depth) -> None:
    output = drawn(steps_view, reasoning(sentences=9), width=width, color=color)
    check_snapshot(f"steps-{color}-{width}.txt", output)


@pytest.mark.parametrize("color", MODES)
@pytest.mark.parametrize("width", [40, 80])
def test_snapshot_of_a_pair(width: int, color: Depth) -> None:
    output = drawn(shown_pair, pair(sentences=10, alike=6), width=width, color=color)
    check_snapshot(f"pair-{color}-{width}.txt", output)


@pytest.mark.parametrize("color", MODES)
@pytest.mark.parametrize("width", [40, 80])
def test_snapshot_of_the_whole_text(width: int, color: Depth) -> None:
    looks = {"width": width, "color": color, "whole": True}
    check_snapshot(f"full-{color}-{width}.txt", drawn(tokens_view, reasoning(), **looks))
    both = pair(sentences=10, alike=6)
    check_snapshot(f"pair-full-{color}-{width}.txt", drawn(shown_pair, both, **looks))


@pytest.mark.parametrize("color", MODES)
@pytest.mark.parametrize("what", [what for what in WHATS if what != "weight"])
def test_snapshot_of_steps_and_a_pair_by_every_number(what: What, color: Depth) -> None:
    shown, both_of = reasoning(sentences=5), pair(sentences=5, alike=3)
    if what == "value":
        shown, both_of = valued(shown), (valued(both_of[0]), valued(both_of[1], every=3))
    steps = drawn(steps_view, shown, what=what, color=color)
    both = drawn(shown_pair, both_of, what=what, color=color)
    check_snapshot(f"by-{what}-{color}.txt", steps + "\n" + both)


@pytest.mark.parametrize("color", ["truecolor", "none"])
def test_snapshot_of_hostile_steps_and_pair(color: Depth) -> None:
    check_snapshot(f"steps-hostile-{color}.txt", drawn(steps_view, hostile(), color=color))
    check_snapshot(f"pair-hostile-{color}.txt", drawn(shown_pair, hostile_pair(), color=color))


def test_snapshot_of_steps_and_a_pair_in_ascii() -> None:
    check_snapshot("steps-ascii.txt", drawn(steps_view, reasoning(sentences=4), encoding="ascii"))
    both = pair(sentences=8, alike=6)
    check_snapshot("pair-ascii.txt", drawn(shown_pair, both, encoding="ascii"))


def only_safe_and_narrow(output: str, *, width: int, color: Depth) -> None:
    rest = output if color == "none" else SGR.sub("", output)
    kinds = {unicodedata.category(char) for char in rest.replace("\n", "")}
    assert kinds.isdisjoint({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})
    for line in rest.split("\n"):
        assert sum(cell_len(char) for char in line) <= width, line


LOOKS = st.tuples(st.sampled_from(MODES), st.integers(24, 200), st.sampled_from(WHATS))
TEXTS = st.lists(
    st.text(max_size=12) | st.sampled_from(hostile().tokens).map(lambda token: token.text),
    min_size=1,
    max_size=14,
)


def random_completion(texts: Sequence[str], name: str) -> InspectedCompletion:
    scores = [0.3 * math.sin(7.0 * at) ** 2 for at in range(len(texts))]
    shown = completion(texts, scores, tau=0.3, prompt=name, prompt_id=name, answer=name)
    ids = [sum(map(ord, text)) for text in texts]
    tokens = (replace(token, id=id) for token, id in zip(shown.tokens, ids, strict=True))
    shown = replace(shown, tokens=tuple(tokens))
    return valued(shown, every=2) if len(texts) % 2 else shown


@settings(max_examples=60, deadline=None)
@given(TEXTS, st.text(max_size=30), LOOKS)
def test_hostile_text_fits_and_is_safe_token_by_token(
    texts: list[str], name: str, look: tuple[Depth, int, What]
) -> None:
    color, width, what = look
    shown = random_completion(texts, name)
    output = drawn(tokens_view, shown, color=color, width=width, what=what)
    only_safe_and_narrow(output, width=width, color=color)


@settings(max_examples=60, deadline=None)
@given(TEXTS, st.text(max_size=30), LOOKS)
def test_hostile_text_fits_and_is_safe_step_by_step(
    texts: list[str], name: str, look: tuple[Depth, int, What]
) -> None:
    color, width, what = look
    shown = random_completion(texts, name)
    output = drawn(steps_view, shown, color=color, width=width, what=what)
    only_safe_and_narrow(output, width=width, color=color)


@settings(max_examples=60, deadline=None)
@given(TEXTS, TEXTS, TEXTS, LOOKS, st.booleans())
def test_hostile_text_fits_and_is_safe_side_by_side(
    alike: list[str],
    first: list[str],
    second: list[str],
    look: tuple[Depth, int, What],
    whole: bool,
) -> None:
    color, width, what = look
    both = random_completion(alike + first, "a"), random_completion(alike + second, "b")
    output = drawn(shown_pair, both, color=color, width=width, what=what, whole=whole)
    only_safe_and_narrow(output, width=width, color=color)


@pytest.mark.parametrize("width", [24, 40, 80, 133])
@pytest.mark.parametrize("color", MODES)
def test_a_long_completion_fits_in_every_view(color: Depth, width: int) -> None:
    for output in (
        drawn(tokens_view, reasoning(), color=color, width=width),
        drawn(tokens_view, reasoning(), color=color, width=width, whole=True),
        drawn(steps_view, reasoning(), color=color, width=width),
        drawn(shown_pair, pair(), color=color, width=width),
        drawn(tokens_view, valued(reasoning(), every=7), color=color, width=width),
        drawn(steps_view, valued(reasoning(), every=7), color=color, width=width),
        drawn(shown_pair, tuple(map(valued, pair())), color=color, width=width),
    ):
        only_safe_and_narrow(output, width=width, color=color)


@pytest.mark.parametrize("what", WHATS)
def test_a_number_that_is_the_same_for_all_tokens_has_no_colour(what: What) -> None:
    shown = completion("abcd", [0.0] * 4, tau=0.5, advantage=0.0)
    tokens = (replace(token, logprob=0.0, entropy=0.0) for token in shown.tokens)
    shown = replace(shown, tokens=tuple(tokens))
    for view in (tokens_view, steps_view):
        output = drawn(view, shown, what=what, color="truecolor")
        assert not re.search(r"\x1b\[[0-9;]*(38|48);2", output)
    said = {"weight": "Every token has weight 1", "hellinger": "d is 0", "logprob": "probability 1"}
    said["value"] = "The move is unknown."
    assert said.get(what, f"{what} is 0") in drawn(tokens_view, shown, what=what)


@pytest.mark.parametrize("what", WHATS)
def test_numbers_that_are_not_finite_are_shown_and_not_painted(what: What) -> None:
    values = {"logprob": -math.inf, "entropy": math.nan, "hellinger_sq": math.nan}
    shown = reasoning(sentences=3)
    broken = replace(shown.tokens[0], weight=math.nan, score=math.inf, **values)
    shown = replace(shown, tokens=(broken, *shown.tokens[1:]))
    for color in MODES:
        for view in (tokens_view, steps_view):
            only_safe_and_narrow(drawn(view, shown, what=what, color=color), width=80, color=color)
        both = (shown, replace(shown, index=4, outcome="wrong", tokens=shown.tokens[:5]))
        output = drawn(shown_pair, both, what=what, color=color)
        only_safe_and_narrow(output, width=80, color=color)


def test_an_advantage_that_is_not_known_is_not_said_to_be_zero() -> None:
    shown = reasoning(sentences=3, advantage=math.nan)
    output = drawn(tokens_view, shown, what="advantage")
    assert "The advantage is unknown." in output
    assert "nan" not in drawn(steps_view, shown).split("3 steps")[1]


def test_a_completion_without_tokens_is_shown_in_every_view() -> None:
    nothing = completion([], [], tau=0.5)
    assert "no tokens" in drawn(tokens_view, nothing)
    assert "no tokens" in drawn(steps_view, nothing)
    output = drawn(shown_pair, (solution(), replace(nothing, outcome="wrong")))
    assert "They part at the first token" in output and "has ended" in output


def test_the_header_says_what_the_top_tokens_hold() -> None:
    # 200 tokens: 2, 10 and 20 of them are 1, 5 and 10%
    shown = completion(["x"] * 200, [0.5] * 10 + [0.0] * 190, tau=0.5)
    total = 10 * math.e + 190
    shares = 2 * math.e / total, 10 * math.e / total, (10 * math.e + 10) / total
    numbers = " / ".join(f"{100 * share:.1f}%" for share in shares)
    assert f"held by top 1 / 5 / 10%   {numbers} of the weight" in drawn(tokens_view, shown)


def test_what_is_not_known_is_said_in_every_view() -> None:
    nothing = {"reward": math.nan, "advantage": math.nan}
    shown = replace(reasoning(sentences=4), outcome=None, answer="", **nothing)  # type: ignore[arg-type]
    for draw, what in itertools.product((tokens_view, steps_view), ("weight", "advantage")):
        output = drawn(draw, shown, what=what)
        for label in ("answer", "outcome", "reward", "advantage"):
            assert re.search(rf"{label} +unknown", output), label
        assert not re.search(r"\bnan\b|sum of advantages|✗", output)
    rows = [row.split() for row in drawn(tokens_view, shown, what="advantage").splitlines()]
    ranks = [row for row in rows if len(row) > 6 and row[0] in "123456"]
    assert len(ranks) == 6 and all(row[6] == "unknown" for row in ranks)
    both = pair(sentences=4)
    output = drawn(shown_pair, tuple(replace(each, **nothing) for each in both), what="advantage")  # type: ignore[arg-type]
    for label in ("reward", "advantage"):
        assert re.search(rf"{label} +unknown +unknown", output), label
    assert not re.search(r"\bnan\b", output) and "The advantage is unknown." in output
