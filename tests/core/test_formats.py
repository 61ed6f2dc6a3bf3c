"""Laws of formats: a field is a line, NaN is null, a later version is refused, schemas are true."""

from __future__ import annotations

import json
import math
import runpy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from dgpo_cli.core.codec import Format, encoded, filled, parsed
from dgpo_cli.core.errors import DataError
from dgpo_cli.core.formats import (
    CARD,
    FORMATS,
    METRICS,
    PENDING,
    PREFETCHED,
    ROLLOUT,
    STATE,
    PendingGroup,
    Position,
    PrefetchedBatch,
    RolloutRecord,
    TrainerState,
)
from dgpo_cli.core.schema import Number, Real
from dgpo_cli.core.types import Completion, Message, Prompt, ScoredGroup, Verdict
from tests.golden import stored

DOCS = Path(__file__).parents[2] / "docs"
LINE = {"version": 1, "prompt_id": "p", "index": 0, "completion": "c"}
HALF = "\ud83d half a pair"
GROUP = ScoredGroup(
    Prompt("p", (Message("user", HALF),), "2", "test", "line 7"),
    (1, 2),
    (Completion((5, 6), (-0.1, math.nan), HALF, "stop", 3, -4),),
    (Verdict("wrong", None, 0.1),),
    (0.30000000000000004,),
)
CARRIED_GROUP = PendingGroup(GROUP, ((-1e-300, math.nan),))
BATCH = PrefetchedBatch(
    7, 5, Position(6, 12), 1, 1.0, (GROUP,), ((-0.1, -0.2),), {"rollout/groups": math.nan}
)


def through_a_file(format: Format[Any], value: Any) -> Any:
    text = encoded(format.dump(value))
    assert text.isascii() and "NaN" not in text
    jsonschema.Draft202012Validator(format.schema()).validate(json.loads(text))
    return format.read(parsed(text.encode(), where="f"), where="f")


def test_the_schemas_in_docs_are_those_of_the_types() -> None:
    made = runpy.run_path(str(DOCS / "make_schemas.py"))["schemas"]()
    stored = {path.name: path.read_text() for path in (DOCS / "schemas").iterdir()}
    assert made.keys() == stored.keys(), "run make schemas"
    for name, text in made.items():
        assert stored[name] == text, f"{name}: run make schemas"
        jsonschema.Draft202012Validator.check_schema(json.loads(text))
    assert {f"{each.name}.schema.json" for each in FORMATS} <= made.keys()


@dataclass(frozen=True, slots=True, kw_only=True)
class WithMargin(RolloutRecord):
    margin: Number | None = None  # the one line


def test_a_new_field_is_one_line() -> None:
    format = Format(WithMargin, name="margin", what="a line", stamp="version")
    assert format.read(LINE, where="f").margin is None
    new = format.read(LINE | {"margin": 0.5}, where="f")
    assert through_a_file(format, new) == new and format.dump(new)["margin"] == 0.5
    assert "margin" in format.schema()["properties"] and "margin" in format.schema()["required"]
    with pytest.raises(DataError, match='f: margin="x": must be a number'):
        format.read(LINE | {"margin": "x"}, where="f")
    assert ROLLOUT.read(LINE | {"margin": 0.5}, where="f") == ROLLOUT.read(LINE, where="f")


@pytest.mark.parametrize(
    ("format", "value"),
    [
        (PENDING, (CARRIED_GROUP, CARRIED_GROUP)),
        (PENDING, ()),
        (PREFETCHED, BATCH),
        (PREFETCHED, replace(BATCH, sampled=(GROUP, GROUP))),
        (STATE, TrainerState(step=7, policy_version=5, bad_streak=2)),
        (METRICS, {"step": 3, "loss/value": math.inf, "a/b": 1e-7}),
    ],
)
def test_what_is_written_comes_back_and_what_is_not_finite_as_unknown(
    format: Format[Any], value: Any
) -> None:
    there = through_a_file(format, value)
    if isinstance(value, dict):
        value = {name: None if math.isinf(each) else each for name, each in value.items()}
    assert repr(there) == repr(value)  # NaN is NaN here


def test_numbers_that_are_no_json_are_read_as_unknown_where_earlier_versions_wrote_them() -> None:
    text = encoded(PENDING.dump((CARRIED_GROUP,))).replace("null", "-Infinity", 1)
    assert "-Infinity" in text
    (found,) = PENDING.read(parsed(text.encode(), where="f", constants=False), where="f")
    assert math.isnan(found.group.completions[0].sampling_logprobs[1])


@pytest.mark.parametrize("version", [0, 2, "1", True, 1.0])
def test_another_version_is_refused_before_anything_else(version: object) -> None:
    said = json.dumps(version)
    with pytest.raises(DataError, match=f"f: version={said}: this dgpo reads version 1"):
        ROLLOUT.read({"version": version, "completion": 3}, where="f")
    with pytest.raises(DataError, match=f"f: version={said}: this dgpo reads version 1"):
        CARD.read({"version": version}, where="f")


def test_a_format_without_a_version_refuses_one_that_a_later_dgpo_gives_it() -> None:
    change = {"step": 1, "setting": "seed", "old": 0, "new": 1}
    format = next(each for each in FORMATS if each.name == "change")
    assert format.fits(change) and format.fits(change | {"version": 1})
    assert not format.fits(change | {"version": 2})


def test_only_files_of_our_own_must_have_a_version() -> None:
    with pytest.raises(DataError, match="f: the field version is missing"):
        CARD.read({"protocol": {}, "subject": {}, "environment": {}}, where="f")
    assert ROLLOUT.read({"prompt_id": "p", "index": 0, "completion": "c"}, where="f").index == 0


def test_null_is_a_missing_field_unless_a_number_may_be_unknown() -> None:
    @dataclass(frozen=True)
    class Two:
        known: Number
        unknown: Real

    globals()["Two"] = Two
    format = Format(Two)
    assert math.isnan(format.read({"known": 1.0, "unknown": None}, where="f").unknown)
    with pytest.raises(DataError, match="f: the field known is missing"):
        format.read({"known": None, "unknown": 1.0}, where="f")
    with pytest.raises(DataError, match="f: the field unknown is missing"):
        format.read({"known": 1.0}, where="f")
    with pytest.raises(DataError, match="f: unknown: the number is too large"):
        format.read({"known": 1.0, "unknown": math.inf}, where="f")


def test_what_is_made_takes_each_field_from_its_first_source() -> None:
    verdict = filled(Verdict, GROUP.verdicts[0], GROUP.completions[0], outcome="correct")
    assert verdict == Verdict("correct", None, 0.1)
    with pytest.raises(TypeError, match="reward"):
        filled(Verdict, GROUP.completions[0], outcome="correct", extracted=None)


STORED = {
    "rollout": ("rollout", "rollouts.jsonl"),
    "trained-rollout": ("run", "rollouts/step-000004.jsonl"),
    "sample": ("evaluations", "after/samples.jsonl"),
    "eval": ("run", "evals.jsonl"),
    "change": ("run", "changes.jsonl"),
    "card": ("run", "evals/step-000004/card.json"),
    "evaluation": ("evaluations", "after/report.json"),
    "trackers": ("run", "trackers.json"),
    "state": ("run", "checkpoints/step-000004/state.json"),
    "carried": ("run", "checkpoints/step-000004/carried.json"),
}


@pytest.mark.parametrize("name", STORED)
def test_stored_files_are_read_and_written_as_they_are(name: str) -> None:
    """Of tests/golden; numbers of the machine are masked there, and unknown here."""
    folder, inside = STORED[name]
    text = stored.read(folder)[inside].replace('"<tokens_per_s>"', "null")
    format = next(each for each in FORMATS if each.name == name)
    for part in text.splitlines() if inside.endswith("l") else [text]:
        value = json.loads(part)
        again = json.loads(encoded(format.dump(format.read(value, where="f"))))
        assert again == value
