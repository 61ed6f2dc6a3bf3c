"""Laws of values: a move is named only if chance does not explain it, and with its own text."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest

from dgpo_cli.core.types import ValueCurve, ValuePoint, ValueSource
from dgpo_cli.inspect.values.moves import (
    Along,
    Move,
    clear_moves,
    quoted,
    value_words,
    values_text,
)
from dgpo_cli.stats.intervals import wilson
from tests.samples import completion, solution, valued


def drawn(values: list[float], *, count: int, draw: random.Random, last: float) -> ValueCurve:
    """A curve whose points are estimated by `count` coin flips each."""
    points = []
    for at, value in enumerate(values):
        share = sum(draw.random() < value for _ in range(count)) / count
        found = wilson(share, size=count)
        points.append(ValuePoint(at, share, found.low, found.high, count))
    return ValueCurve((*points, ValuePoint(len(values), last, last, last, 0)))


def test_a_token_that_decides_is_named_and_no_other() -> None:
    draw = random.Random(1)
    named = wrong = 0
    for _ in range(200):
        at = draw.randrange(1, 40)
        curve = drawn([0.9] * at + [0.02] * (40 - at), count=16, draw=draw, last=0.0)
        found = [(move.start, move.stop) for move in clear_moves(curve)]
        named += (at - 1, at) in found
        wrong += any(place != (at - 1, at) for place in found)
    assert named >= 195 and wrong <= 2


@pytest.mark.parametrize("count", [8, 32])
@pytest.mark.parametrize("value", [0.1, 0.5])
def test_chance_alone_names_a_token_in_at_most_one_curve_of_twenty(
    value: float, count: int
) -> None:
    draw = random.Random(2)
    curves = [drawn([value] * 60, count=count, draw=draw, last=value) for _ in range(400)]
    # The last point is not drawn: only moves between drawn ones are of chance.
    wrong = sum(any(move.after.count for move in clear_moves(curve)) for curve in curves)
    assert wrong <= 0.05 * len(curves)


def test_moves_of_the_curve_are_the_differences_along_it() -> None:
    shown = valued(solution(), every=5)
    assert shown.values is not None
    along = Along.of(shown.values)
    assert len(along.value) == len(shown.tokens) + 1
    for token, move in enumerate(shown.values.moves()):
        assert along.move(token) == pytest.approx(move, abs=1e-12)
    for point in shown.values.points:
        found = (along.value[point.at], along.low[point.at], along.high[point.at])
        assert found == pytest.approx((point.value, point.low, point.high))


def test_a_move_whose_interval_is_unknown_is_not_named() -> None:
    points = (ValuePoint(0, 3.0, math.nan, math.nan, 1), ValuePoint(1, -5.0, -5.0, -5.0, 0))
    assert clear_moves(ValueCurve(points)) == ()


def test_the_token_is_quoted_between_bars() -> None:
    shown = completion([*"49*2=188;ok"], [0.0] * 11, tau=1.0)
    six, seven = ValuePoint(6, 0.9, 0.8, 1.0, 16), ValuePoint(7, 0.0, 0.0, 0.1, 16)
    assert quoted(shown, Move(six, seven)) == "49*2=1|8|8;ok"


def test_parts_of_a_character_are_quoted_whole() -> None:
    shown = completion(["a", "", "🎉", "b"], [0.0] * 4, tau=1.0)
    one, two = ValuePoint(1, 0.9, 0.8, 1.0, 16), ValuePoint(2, 0.0, 0.0, 0.1, 16)
    assert quoted(shown, Move(one, two)) == "a|🎉|b"


def test_words_say_where_the_outcome_was_lost_and_by_how_much() -> None:
    shown = valued(replace(solution(), outcome="wrong", reward=0.0))
    (sentence,) = value_words(shown)
    weight = f"{shown.tokens[14].weight:.2f}"
    assert sentence == (
        'The outcome was lost at "12+7=19;19*4=7|6|;76-8=68" '
        + f"(token 14, weight {weight}): 0.88 to 0.06."
    )


def test_a_move_against_the_outcome_is_not_said_to_have_decided_it() -> None:
    shown = valued(solution(), levels=((0.0, 0.0), (0.5, 1.0)), count=64)
    (first, second) = value_words(shown)
    assert first.startswith("The value rose at") and second.startswith("It also fell at")


def test_words_without_a_clear_move_name_the_largest_as_what_it_is() -> None:
    shown = valued(solution(), levels=((0.0, 0.25), (0.5, 0.0)), count=4)
    (sentence,) = value_words(shown)
    assert sentence.startswith("No token clearly decided the outcome: the value goes from 0.25 to")
    assert "0.25 to 0.00, at" in sentence
    still = valued(solution(), levels=((0.0, 0.0),))
    assert value_words(still) == ("The value is 0.00 from the first token to the last.",)


def test_the_source_of_values_says_how_far_it_is_from_what_sampled() -> None:
    text = values_text(ValueSource(16, "runs/a/checkpoints/step-000010", -2))
    assert text.endswith("step-000010 (2 updates earlier)") and text.startswith("16 continuations")
    assert values_text(ValueSource(8, "M")).endswith("by M")
    assert values_text(ValueSource(1, "M")).startswith("1 continuation of")
    assert "own completions" in values_text(ValueSource(0, ""))
