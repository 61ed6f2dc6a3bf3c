"""report.json: an evaluation and its card as JSON data, and back without loss.

Its fields are those of core.formats.EvaluationReport. Null is unknown.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dgpo_cli.core.codec import filled
from dgpo_cli.core.errors import DataError
from dgpo_cli.core.formats import EVALUATION, EvaluationReport
from dgpo_cli.core.types import Card, Evaluation
from dgpo_cli.core.types.evaluation import BY_LETTER
from dgpo_cli.evals.views.warnings import warnings

_LAST = ("problems", "card", "card_key")  # long, so last


def to_json(evaluation: Evaluation, card: Card | None = None) -> dict[str, Any]:
    """Return the documented data of report.json and `dgpo eval --json`."""
    report = filled(
        EvaluationReport,
        evaluation,
        warnings=warnings(evaluation),
        outcome_letters=BY_LETTER,
        card=card,
        card_key=None if card is None else card.key,
    )
    data = EVALUATION.to_json(report)
    return data | {name: data.pop(name) for name in _LAST}


def from_json(data: object, *, where: str = "report.json") -> tuple[Evaluation, Card | None]:
    """Return the evaluation and the card that `to_json` wrote.

    Raises:
        DataError: the data is of another version, or not a report; the message names the field.
    """
    if not isinstance(data, dict) or "version" not in data:
        raise DataError(f"{where}: not a report of dgpo eval: it has no version")
    report = EVALUATION.read(data, where=where)
    for fault in _faults(report):
        raise DataError(f"{where}: {fault}")
    return filled(Evaluation, report), report.card


def _faults(report: EvaluationReport) -> Iterator[str]:
    """Yield counts that contradict each other: the file was edited or truncated."""
    k, listed = report.k, len(report.problems)
    if listed != report.n_problems or not listed:
        yield f"n_problems={report.n_problems}, but {listed} problems are listed"
    if sorted(report.pass_at_k) != list(range(1, k + 1)):
        yield f"pass_at_k: does not have every j from 1 to k={k}"
    for problem in report.problems:
        sizes = (len(problem.outcomes), len(problem.lengths))
        if sizes != (k, k):
            yield f"problem {problem.id}: {sizes[0]} outcomes and {sizes[1]} lengths for k={k}"
        if (right := problem.outcomes.count("correct")) != problem.correct:
            yield f"problem {problem.id}: correct={problem.correct}, its outcomes say {right}"
    if report.card is not None and report.card.key != report.card_key:
        yield "card_key does not match the card: one of them was changed"
