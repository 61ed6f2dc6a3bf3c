"""dgpo regrade: today's checker on the stored samples of an evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dgpo_cli.cli import scores
from dgpo_cli.cli.help import OUTPUT, READ
from dgpo_cli.ui import console

if TYPE_CHECKING:
    from dgpo_cli.evals.request import Flip, RegradeResult

Folder = Annotated[
    Path,
    typer.Argument(
        help="Folder of an evaluation, with samples.jsonl.", metavar="DIR", rich_help_panel=READ
    ),
]
Json = Annotated[
    bool,
    typer.Option("--json", help="Print flips and report as JSON.", rich_help_panel=OUTPUT),
]


def regrade(folder: Folder, as_json: Json = False) -> None:
    """Judge stored samples again with today's answer checker, and list what flipped.

    No model is needed. Outcomes, card and report in the folder are rewritten.

    Examples:
      List what today's checker judges otherwise
        dgpo regrade evals/sums-tiny
      The same as JSON
        dgpo regrade evals/sums-tiny --json
    """
    from dgpo_cli.evals import regrade as workflow
    from dgpo_cli.live.bars import bars

    with bars() as observer:
        result = workflow.run(folder, observer=observer)
    if as_json:
        report = scores.as_data(result.evaluation, result.card)
        from dgpo_cli.evals.request import REGRADE, RegradeJson

        console.say_json(REGRADE.dump(RegradeJson(result.flips, report)))
    else:
        _print(result, folder=folder)


def _print(result: RegradeResult, *, folder: Path) -> None:
    if result.flips:
        rows = [("problem", "sample", "answer", "outcome", "extracted")]
        rows += [_row(flip) for flip in result.flips]
        console.table(rows, styles=("bold", "", "", "", "dim"))
    console.say(f"{len(result.flips)} of {result.samples} samples flipped")
    scores.show(result.evaluation, None)
    console.suggest(["compare", folder, "OTHER"])


def _row(flip: Flip) -> tuple[str, str, str, str, str]:
    return (
        flip.prompt_id,
        str(flip.index),
        flip.answer,
        f"{flip.old} -> {flip.new}",
        f"{_shown(flip.old_extracted)} -> {_shown(flip.new_extracted)}",
    )


def _shown(extracted: str | None) -> str:
    return "nothing" if extracted is None else extracted
