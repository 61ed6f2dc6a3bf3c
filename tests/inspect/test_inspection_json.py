"""Laws of `dgpo inspect --json`: it is what the schema says, no more and no less, and true."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dgpo_cli.core.types import (
    Alternative,
    InspectedCompletion,
    Inspection,
    SettingChange,
    StoredCredit,
    TokenDetail,
)
from dgpo_cli.inspect.as_json import chunks, to_json
from tests.samples import (
    HOSTILE,
    VALUES_BY,
    check_snapshot,
    completion,
    hostile,
    inspection,
    solution,
    valued,
)

jsonschema = pytest.importorskip("jsonschema")
SCHEMA = json.loads(
    (Path(__file__).parents[2] / "docs" / "schemas" / "inspection.schema.json").read_text(
        encoding="utf-8"
    )
)
WEIGHTS = tuple(token.weight for token in solution().tokens)
STORED = StoredCredit("dgpo", {"tau": 0.5, "kappa": 1.0}, 0.5, 0.99, WEIGHTS)
DETAIL = TokenDetail(
    position=3,
    alternatives=(
        Alternative(3, "=", "3d", 0.75, 0.5),
        Alternative(9, "", "e2", 0.25, 0.0),
        Alternative(7, "\x1b", "", 0.0, 0.5),
    ),
    policy_rank=1,
    reference_rank=2,
    temperature=0.7,
    weights="runs/x/checkpoints/step-000002",
)


def nothing_known() -> InspectedCompletion:
    shown = hostile()
    broken = replace(shown.tokens[0], logprob=-math.inf, score=math.nan, hex="00ff")
    return replace(
        shown,
        outcome=None,
        reward=math.nan,
        advantage=math.nan,
        tau=None,
        tokens=(broken, *shown.tokens[1:]),
    )


CASES: dict[str, Inspection] = {
    "plain": inspection(solution(), hostile(), parameters={"tau": 0.1, "kappa": 1.0}),
    "what-if": inspection(replace(solution(), stored=STORED)),
    "detail": inspection(solution(), detail=DETAIL, computed=True, source="--completion"),
    "hint": inspection(solution(), detail=TokenDetail(position=0, hint="dgpo inspect ...")),
    "unknown": inspection(nothing_known(), tau=None, kappa=None, rule="uniform"),
    "no tokens": inspection(replace(solution(), tokens=())),
    "changed": inspection(solution(), changes=(SettingChange(2, "seed", None, 0),)),
    "values": inspection(valued(solution(), every=7), hostile(), values=VALUES_BY),
    "none": inspection(),
}


def check(value: Any) -> None:
    """Valid by the schema, and every key is one that the schema documents."""
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.Draft202012Validator(SCHEMA).validate(value)
    objects = [(SCHEMA, value)]
    parts = {name: SCHEMA["$defs"][name] for name in ("InspectedJson", "Token", "AlternativeJson")}
    objects += [(parts["InspectedJson"], each) for each in value["completions"]]
    objects += [(parts["Token"], t) for each in value["completions"] for t in each["tokens"]]
    if value["detail"]:
        objects.append((SCHEMA["$defs"]["DetailJson"], value["detail"]))
        objects += [(parts["AlternativeJson"], each) for each in value["detail"]["alternatives"]]
    for schema, found in objects:
        assert set(found) == set(schema["properties"]) == set(schema["required"])


@pytest.mark.parametrize("name", CASES)
def test_the_output_is_what_the_schema_documents(name: str) -> None:
    check(to_json(CASES[name]))


@pytest.mark.parametrize("name", CASES)
def test_the_text_in_parts_is_the_same_data_in_ascii(name: str) -> None:
    text = "".join(chunks(CASES[name]))
    assert text.isascii() and text.endswith("}\n") and "\x1b" not in text
    found = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert found == json.loads(json.dumps(to_json(CASES[name]), allow_nan=False))


def test_snapshot_of_the_output() -> None:
    small = completion(["a", "", "é"], [0.1, 0.0, 0.3], tau=0.25)
    stored = replace(STORED, weights=(1.0, 1.25, 0.75))
    shown = inspection(replace(small, stored=stored), detail=DETAIL, computed=True)
    check_snapshot("json.txt", "".join(chunks(shown)))


def test_the_schema_refuses_what_is_not_it() -> None:
    good = to_json(CASES["detail"])
    for change in (
        lambda v: v.update(version=1),
        lambda v: v["completions"][0].pop("invariants"),
        lambda v: v["completions"][0]["tokens"][0].update(bytes="3"),
        lambda v: v["completions"][0]["tokens"][0].update(rank=0),
        lambda v: v["detail"]["alternatives"][0].update(policy=None),
    ):
        bad = json.loads(json.dumps(good))
        change(bad)
        with pytest.raises(jsonschema.ValidationError):
            check(bad)


def test_the_points_of_a_curve_are_there_with_their_intervals() -> None:
    shown = valued(solution(), every=7)
    found = to_json(inspection(shown, hostile(), values=VALUES_BY))
    assert found["values"] == {"continuations": 16, "model": VALUES_BY.model, "later": 1}
    curve, none = (each["values"] for each in found["completions"])
    assert none is None and shown.values is not None
    assert [tuple(point.values()) for point in curve] == [
        (point.at, point.value, point.low, point.high, point.count) for point in shown.values.points
    ]
    assert to_json(inspection(shown))["values"] is None


def test_raw_text_and_every_digit_are_kept_and_what_is_not_finite_is_null() -> None:
    (found,) = to_json(CASES["unknown"])["completions"]
    tokens = found["tokens"]
    assert tuple(token["text"] for token in tokens) == HOSTILE
    assert tokens[0]["logprob"] is None and tokens[0]["score"] is None
    assert (tokens[0]["bytes"], tokens[1]["bytes"]) == ("00ff", None)
    assert (found["outcome"], found["reward"], found["advantage"]) == (None, None, None)
    assert found["invariants"]["advantage_sum"] is None
    assert [t["weight"] for t in tokens] == [t.weight for t in nothing_known().tokens]


def test_every_number_of_a_token_is_arithmetic_on_the_others() -> None:
    shown = solution()
    (found,) = to_json(inspection(shown, vocab_size=1024))["completions"]
    weights = [token["weight"] for token in found["tokens"]]
    for token in found["tokens"]:
        assert token["gate"] == pytest.approx(min(1.0, token["entropy"] / math.log(1024)))
        assert token["advantage"] == 0.75 * token["weight"]
        heavier = sum(weight > token["weight"] for weight in weights)
        equal = sum(weight == token["weight"] for weight in weights)
        assert heavier < token["rank"] <= heavier + equal
    assert sorted(t["rank"] for t in found["tokens"]) == list(range(1, len(weights) + 1))
    total = sum(weights)
    hundredths = [each / 100 for each in sorted(weights, reverse=True) for _ in range(100)]
    for percent in (1, 5, 10):
        share = found["shares"][f"top_{percent}_percent"]
        assert share == pytest.approx(sum(hundredths[: percent * len(weights)]) / total)
    assert found["invariants"]["mean_weight"] == pytest.approx(1.0)
    assert found["invariants"]["advantage_sum"] == pytest.approx(0.75 * len(weights))
