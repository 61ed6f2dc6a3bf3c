"""The data of `dgpo compare --json`, and reading the evaluations that it compares. Version 1.

version; baseline: name, bench, k, n_problems, avg_at_k and card_key of the first run;
comparisons: for every later run the same as `run`, then the fields of algo.compared.Comparison
(before and after are the scores on the problems in both), and subject, forced and notes, lists of
sentences. Shares are between -1 and 1, null is unknown, intervals are [low, high].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dgpo_cli.core.codec import parsed
from dgpo_cli.core.errors import ConfigError, DataError
from dgpo_cli.core.io import read_bytes
from dgpo_cli.evals.views.evaluation_json import from_json
from dgpo_cli.stats.comparison import Pair, Run
from dgpo_cli.ui.jsonable import jsonable

VERSION = 1
REPORT_FILE = "report.json"


def read_run(path: Path) -> Run:
    """Read an evaluation: its folder, or its report.json.

    Raises:
        ConfigError: there is none. DataError: it cannot be read, or is no report.
    """
    file = path / REPORT_FILE if path.is_dir() else path
    if not file.is_file():
        raise ConfigError(
            f"{file}: not there; give the folder of an evaluation (dgpo eval --out), or its "
            f"{REPORT_FILE}"
        )
    data = parsed(read_bytes(file), where=str(file))
    try:
        evaluation, card = from_json(data)
    except DataError as error:
        raise DataError(f"{file}: {error}") from error
    return Run(name=str(path), evaluation=evaluation, card=card)


def to_json(pairs: Sequence[Pair]) -> dict[str, Any]:
    """The documented data of a comparison."""
    return {
        "version": VERSION,
        "baseline": _run(pairs[0].before),
        "comparisons": [
            {
                "run": _run(pair.after),
                **_comparison(pair),
                "subject": list(pair.subject),
                "forced": list(pair.forced),
                "notes": list(pair.notes),
            }
            for pair in pairs
        ],
    }


def _run(run: Run) -> dict[str, Any]:
    result = run.evaluation
    return {
        "name": run.name,
        "bench": result.bench,
        "k": result.k,
        "n_problems": result.n_problems,
        "avg_at_k": jsonable(result.avg_at_k),
        "card_key": None if run.card is None else run.card.key,
    }


def _comparison(pair: Pair) -> dict[str, Any]:
    data = asdict(pair.comparison)
    for name in ("rerun_95", "problems_95"):
        data[name] = list(data[name].values())
    shown: dict[str, Any] = jsonable(data)
    return shown
