"""Reports of evaluations, printed. Shared by eval and regrade."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from dgpo_cli.core.errors import ConfigError
from dgpo_cli.ui import console

if TYPE_CHECKING:
    from dgpo_cli.core.types import Card, Evaluation

BELOW = 3  # exit code of --min-score


def as_data(evaluation: Evaluation, card: Card) -> dict[str, Any]:
    """Return the report as report.json and --json have it."""
    from dgpo_cli.evals.views import evaluation as report

    return report.to_json(evaluation, card)


def show(evaluation: Evaluation, card: Card | None) -> None:
    """Print the report, the score last; with a card, what moved the score above it."""
    from dgpo_cli.evals.views import evaluation as report

    console.show(report.render(evaluation, card))


def parse_share(text: str | None) -> float | None:
    """Read --min-score: a share from 0 to 1, or percent with the sign.

    Raises:
        ConfigError: it is neither.
    """
    if text is None:
        return None
    percent = text.rstrip().endswith("%")
    try:
        value = float(text.rstrip().removesuffix("%"))
    except ValueError:
        value = math.nan
    share = value / 100 if percent else value
    if not 0 <= share <= 1:  # NaN too
        raise ConfigError(f"--min-score {text}: give a share from 0 to 1, or percent, as in 60%")
    return share


def lower_end(evaluation: Evaluation) -> float:
    """Return the lower end of the 95% interval over reruns."""
    return evaluation.rerun_95.low
