"""report.json: an evaluation and its card as JSON data, and back without loss. Version 1.

Scores, shares and errors are between 0 and 1, null is unknown, lengths are tokens, intervals are
[low, high]. The keys:

version, bench, k, n_problems, avg_at_k, stderr_rerun, rerun_95, stderr_problems, problems_95;
pass_at_k: "1" to "k"; maj_at_k; truncated, no_answer, out_of_range, unjudged: shares of samples;
if_truncated: avg_at_k with the truncated counted as all wrong and as all right;
lengths, lengths_right, lengths_wrong: count, mean, p10, p50, p90, max; tokens_per_s; duplicates;
odd_duplicates: earlier reports lack it;
disagreements: problem_id, index, gold, extracted, outcome, second; warnings: sentences;
outcome_letters: what the letters of `outcomes` mean; problems: id, answer, correct, majority,
outcomes (a letter a sample), lengths (a number a sample); card; card_key.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from functools import cache
from typing import Any

from pydantic import TypeAdapter, ValidationError

from dgpo_cli.core.codec import Format, Object, told
from dgpo_cli.core.errors import DataError
from dgpo_cli.core.types import Card, Evaluation, Outcome
from dgpo_cli.evals.views.warnings import warnings
from dgpo_cli.ui.jsonable import jsonable

VERSION = 1
LETTERS: dict[Outcome, str] = {
    "correct": "c",
    "wrong": "w",
    "no_answer": "n",
    "truncated": "t",
    "out_of_range": "o",
    "timeout": "d",
    "crash": "x",
}
_OUTCOMES: dict[str, Outcome] = {letter: outcome for outcome, letter in LETTERS.items()}
_FIELDS = tuple(field.name for field in fields(Evaluation))
_INTERVALS = ("rerun_95", "problems_95")
_LENGTHS = ("lengths", "lengths_right", "lengths_wrong")
_MAY_BE_UNKNOWN = ("stderr_rerun", "stderr_problems", "tokens_per_s")


def to_json(evaluation: Evaluation, card: Card | None = None) -> dict[str, Any]:
    """The documented data of report.json and `dgpo eval --json`; it is valid JSON as it is."""
    data: dict[str, Any] = jsonable(asdict(evaluation))
    problems = data.pop("problems")
    for name in _INTERVALS:
        data[name] = list(data[name].values())
    for problem in problems:
        problem["outcomes"] = "".join(LETTERS[outcome] for outcome in problem["outcomes"])
    return {
        "version": VERSION,
        **data,
        "if_truncated": jsonable(list(asdict(evaluation.if_truncated).values())),
        "warnings": list(warnings(evaluation)),
        "outcome_letters": dict(_OUTCOMES),
        "problems": problems,
        "card": None if card is None else asdict(card),
        "card_key": None if card is None else card.key,
    }


def from_json(data: object) -> tuple[Evaluation, Card | None]:
    """The evaluation and the card that `to_json` wrote.

    Raises:
        DataError: the data is of another version, or not a report; the message names the field.
    """
    if not isinstance(data, dict) or "version" not in data:
        raise DataError("not a report of dgpo eval: it has no version")
    if data["version"] != VERSION:
        raise DataError(f"is of version {data['version']!r}; this dgpo reads {VERSION}")
    try:
        evaluation = _reader(Evaluation).validate_python(_restored(data))
        card = None if data["card"] is None else _card(data["card"])
    except ValidationError as error:
        raise DataError(told(error)) from error
    except KeyError as error:
        raise DataError(f"the field {error} is missing") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise DataError(f"not a report of dgpo eval: {error}") from error
    _check(evaluation)
    if card is not None and card.key != data.get("card_key"):
        raise DataError("card_key is not that of the card: one of them was changed")
    return evaluation, card


@dataclass(frozen=True, slots=True)
class _Card:
    protocol: Object
    subject: Object
    environment: Object


_CARD = Format(_Card)


def _card(data: Any) -> Card:
    found = _CARD.read(data, where="card")
    return Card(found.protocol, found.subject, found.environment)


@cache
def _reader(kind: type) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _restored(data: dict[str, Any]) -> dict[str, Any]:
    """The fields of an Evaluation, with NaN where a number is unknown."""
    data = {"odd_duplicates": False, **data}
    found = {name: data[name] for name in _FIELDS}
    for name in _MAY_BE_UNKNOWN:
        found[name] = _number(found[name])
    for name in _INTERVALS:
        low, high = map(_number, found[name])
        found[name] = {"low": low, "high": high}
    for name in _LENGTHS:
        found[name] = {key: _number(value) for key, value in found[name].items()}
    found["problems"] = [
        {**problem, "outcomes": [_OUTCOMES.get(letter, letter) for letter in problem["outcomes"]]}
        for problem in found["problems"]
    ]
    return found


def _number(value: Any) -> Any:
    return math.nan if value is None else value


def _check(evaluation: Evaluation) -> None:
    """Refuse counts that contradict each other: the file was changed by hand, or cut."""
    k, listed = evaluation.k, len(evaluation.problems)
    if listed != evaluation.n_problems or not listed:
        raise DataError(f"n_problems={evaluation.n_problems}, but {listed} problems are listed")
    if sorted(evaluation.pass_at_k) != list(range(1, k + 1)):
        raise DataError(f"pass_at_k: does not have every j from 1 to k={k}")
    for problem in evaluation.problems:
        sizes = (len(problem.outcomes), len(problem.lengths))
        if sizes != (k, k):
            raise DataError(
                f"problem {problem.id}: {sizes[0]} outcomes and {sizes[1]} lengths for k={k}"
            )
        if (right := problem.outcomes.count("correct")) != problem.correct:
            raise DataError(
                f"problem {problem.id}: correct={problem.correct}, its outcomes say {right}"
            )
