"""dgpo compare: whether one evaluation is better than another, and on which problems."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dgpo_cli.cli.help import OUTPUT, READ
from dgpo_cli.ui import console

Evaluations = Annotated[
    list[Path],
    typer.Argument(
        help="Folders of evaluations, or their report.json; the first is the baseline.",
        metavar="A B [C ...]",
        rich_help_panel=READ,
    ),
]
Force = Annotated[
    bool,
    typer.Option(
        "--force",
        help="Compare even where protocol, environment or problems differ.",
        rich_help_panel=READ,
    ),
]
Json = Annotated[
    bool, typer.Option("--json", help="Print the comparison as JSON.", rich_help_panel=OUTPUT)
]


def compare(evaluations: Evaluations, force: Force = False, as_json: Json = False) -> None:
    """Compare evaluations with the first: the difference with its errors, and what flipped.

    Problems are paired. Runs made under different protocols, in different environments or on
    different problems are refused.

    Examples:
      Is the second better than the first?
        dgpo compare evals/sums-base evals/sums-tiny
      The differences as JSON
        dgpo compare evals/sums-base evals/sums-tiny --json
    """
    from dgpo_cli.evals import compare as workflow
    from dgpo_cli.evals.views import comparison, comparison_json

    runs = [comparison_json.read_run(path) for path in evaluations]
    pairs = workflow.run(runs, force=force)
    if as_json:
        console.say_json(comparison_json.to_json(pairs))
    else:
        console.show(comparison.render(pairs))
