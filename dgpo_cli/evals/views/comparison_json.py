"""The data of `dgpo compare --json`, and reading the evaluations that it compares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dgpo_cli.core.codec import Format, filled, parsed
from dgpo_cli.core.errors import ConfigError
from dgpo_cli.core.io import read_bytes
from dgpo_cli.core.schema import Count, Real, Text
from dgpo_cli.evals.foreign.judged import as_logged
from dgpo_cli.evals.views.evaluation_json import from_json
from dgpo_cli.stats.comparison import ComparedPair, Comparison, NamedEvaluation

REPORT_FILE = "report.json"


@dataclass(frozen=True, slots=True)
class EvaluationJson:
    """An evaluation. name: its path."""

    name: Text
    bench: Text
    k: Count
    n_problems: Count
    avg_at_k: Real
    card_key: Text | None


@dataclass(frozen=True)
class _Later:
    run: EvaluationJson


@dataclass(frozen=True, kw_only=True)
class ComparedJson(Comparison, _Later):
    """A run against the baseline; before and after are the scores on the problems in both.

    subject: entries in which the subjects differ. forced: differences that --force ignored.
    notes: what else a reader has to know.
    """

    subject: tuple[Text, ...]
    forced: tuple[Text, ...]
    notes: tuple[Text, ...]


@dataclass(frozen=True, slots=True)
class ComparisonJson:
    """Later runs against the first. Shares are between -1 and 1, null is unknown."""

    baseline: EvaluationJson
    comparisons: tuple[ComparedJson, ...]


COMPARISON = Format(ComparisonJson, name="comparison", what="dgpo compare --json", stamp="version")


def read_run(path: Path) -> NamedEvaluation:
    """Read an evaluation: its folder, its report.json, or a log of another program.

    Raises:
        ConfigError: there is none. DataError: it cannot be read, or is not a report.
    """
    file = path / REPORT_FILE if path.is_dir() else path
    if not file.is_file():
        raise ConfigError(
            f"{file}: no such file; give the folder of an evaluation (dgpo eval --out), its "
            f"{REPORT_FILE}, or a log of inspect_ai or lighteval"
        )
    if file.name != REPORT_FILE and (logged := as_logged(file)) is not None:
        return NamedEvaluation(name=str(path), evaluation=logged[0], card=logged[1])
    data = parsed(read_bytes(file), where=str(file))
    evaluation, card = from_json(data, where=str(file))
    return NamedEvaluation(name=str(path), evaluation=evaluation, card=card)


def to_json(pairs: Sequence[ComparedPair], *, answers: bool = False) -> dict[str, Any]:
    """Return the documented data of a comparison, with expected answers if asked for."""
    compared = tuple(_compared(pair, answers=answers) for pair in pairs)
    return COMPARISON.to_json(ComparisonJson(_run(pairs[0].before), compared))


def _compared(pair: ComparedPair, *, answers: bool) -> ComparedJson:
    changes = pair.comparison.changes
    shown = changes if answers else tuple(replace(each, answer=None) for each in changes)
    return filled(ComparedJson, pair.comparison, pair, run=_run(pair.after), changes=shown)


def _run(run: NamedEvaluation) -> EvaluationJson:
    key = None if run.card is None else run.card.key
    return filled(EvaluationJson, run, run.evaluation, card_key=key)
