"""report.json gives back exactly the evaluation and the card that went into it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgpo_cli.core.errors import DataError
from dgpo_cli.core.types import OUTCOMES, Disagreement, Evaluation, Interval
from dgpo_cli.core.types.evaluation import LETTERS
from dgpo_cli.evals.views.evaluation_json import from_json, to_json
from tests.samples import card, evaluation


def stored(result: Evaluation, **more: Any) -> Any:
    """The data as it comes back from a file."""
    return json.loads(json.dumps(to_json(result, **more), allow_nan=False))


def same(first: object, second: object) -> bool:
    """Equality for which NaN is NaN."""
    return repr(first) == repr(second)


def test_the_data_is_exactly_the_documented() -> None:
    data = stored(evaluation([0, 3], k=4), card=card())
    assert list(data) == [
        "version", "bench", "k", "n_problems", "avg_at_k", "stderr_rerun", "rerun_95",
        "stderr_problems", "problems_95", "pass_at_k", "maj_at_k", "truncated", "no_answer",
        "out_of_range", "unjudged", "lengths", "lengths_right", "lengths_wrong", "tokens_per_s",
        "duplicates", "odd_duplicates", "disagreements", "if_truncated", "warnings",
        "outcome_letters", "problems", "card", "card_key",
    ]  # fmt: skip
    assert data["version"] == 1
    assert data["problems"][1] == {
        "id": "p1", "answer": "68", "correct": 3, "majority": 1.0, "outcomes": "cccn",
        "lengths": [10, 20, 30, 40],
    }  # fmt: skip
    assert data["pass_at_k"] == {"1": 0.375, "2": 0.5, "3": 0.5, "4": 0.5}
    assert data["tokens_per_s"] is None
    assert data["rerun_95"] == [evaluation([0, 3], k=4).rerun_95.low, data["rerun_95"][1]]
    assert data["card_key"] == card().key and data["card"]["protocol"]["temperature"] == 0.6
    assert any("were truncated" in sentence for sentence in data["warnings"])


def test_every_outcome_has_a_letter_of_its_own() -> None:
    assert LETTERS.keys() == set(OUTCOMES) and len(set(LETTERS.values())) == len(OUTCOMES)
    assert stored(evaluation())["outcome_letters"] == {v: k for k, v in LETTERS.items()}


@settings(deadline=None)  # the first example builds what the others reuse
@given(st.lists(st.integers(0, 5), min_size=1, max_size=6), st.integers(5, 9), st.booleans())
def test_the_round_trip_is_exact(correct: list[int], k: int, with_card: bool) -> None:
    odd = Disagreement("p0", 3, "68", None, "wrong", "correct")
    result = evaluation(correct, k=k, disagreements=(odd,), duplicates=2, odd_duplicates=True)
    ticket = card() if with_card else None
    again, ticket_again = from_json(stored(result, card=ticket))
    assert same(again, result) and ticket_again == ticket
    for field in fields(Evaluation):
        assert type(getattr(again, field.name)) is type(getattr(result, field.name))


def test_what_is_unknown_comes_back_as_nan() -> None:
    result = evaluation([1], k=1, problems_95=Interval(math.nan, 1.0))
    again, _ = from_json(stored(result))
    assert math.isnan(again.stderr_rerun) and math.isnan(again.tokens_per_s)
    assert math.isnan(again.problems_95.low) and math.isnan(again.lengths_wrong.mean)
    assert same(again, result)


Damage = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: d.update(version=2), "version=2: this dgpo reads version 1"),
        (lambda d: d.pop("version"), "no version"),
        (lambda d: d.pop("maj_at_k"), "the field maj_at_k is missing"),
        (lambda d: d.update(k="many"), 'k="many": must be a whole number'),
        (lambda d: d.update(rerun_95=3), "rerun_95=3: must be [low, high]"),
        (lambda d: d.update(n_problems=9), "n_problems=9"),
        (lambda d: d["pass_at_k"].pop("3"), "every j from 1 to k=4"),
        (lambda d: d["problems"][1].update(outcomes="cccq"), "problems[1].outcomes[3]="),
        (lambda d: d["problems"][1].update(outcomes=7), "problems[1].outcomes=7: must be a list"),
        (lambda d: d["problems"][1].update(outcomes="ccc"), "p1: 3 outcomes and 4 lengths"),
        (lambda d: d["problems"][1].update(outcomes="cwcw"), "p1: correct=3"),
        (lambda d: d["card"]["protocol"].update(temperature=0.7), "card_key"),
        (lambda d: d["card"].pop("subject"), "subject"),
    ],
)
def test_a_damaged_report_is_refused_with_the_field(damage: Damage, message: str) -> None:
    data = stored(evaluation([0, 3], k=4), card=card())
    damage(data)
    with pytest.raises(DataError) as caught:
        from_json(data)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [None, 3, [], "x", {}])
def test_what_is_no_report_is_refused(data: object) -> None:
    with pytest.raises(DataError, match="no version"):
        from_json(data)


def test_a_report_from_before_repetitions_were_judged_is_read() -> None:
    data = to_json(evaluation([1], k=1, duplicates=3))
    del data["odd_duplicates"]
    again, _ = from_json(data)
    assert again.duplicates == 3 and not again.odd_duplicates
