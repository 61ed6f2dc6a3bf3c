"""dgpo bench: list the benchmarks, show one, and check a copy or one of your own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dgpo_cli.cli import completion, options
from dgpo_cli.cli.commands import FAILED, Command, CommandGroup
from dgpo_cli.cli.evaluate.flags import parse_columns
from dgpo_cli.cli.help import READ
from dgpo_cli.ui import console

Name = Annotated[
    str,
    typer.Argument(
        help="Name of a benchmark, or its manifest (.toml).",
        metavar="NAME",
        autocompletion=completion.bench,
        rich_help_panel=READ,
    ),
]
NameOrFile = Annotated[
    str,
    typer.Argument(
        help="Name of a benchmark, its manifest (.toml), or a file of problems.",
        metavar="NAME|FILE",
        autocompletion=completion.bench,
        rich_help_panel=READ,
    ),
]
Data = Annotated[
    Path | None,
    typer.Option(
        help="Local copy of the benchmark's data: JSONL, JSON, CSV or Parquet.",
        metavar="FILE",
        rich_help_panel=READ,
    ),
]
Columns = Annotated[
    str | None,
    typer.Option(
        help="Column names of the file, as in problem=question,answer=gold.",
        metavar="NAMES",
        show_default="problem=problem,answer=answer",
        rich_help_panel=READ,
    ),
]

bench_app = typer.Typer(
    help="List the benchmarks, show one, or check one of your own.", cls=CommandGroup
)


@bench_app.command("list", cls=Command, short_help="List the benchmarks, by kind of answer.")
def list_benchmarks(as_json: options.Json = False) -> None:
    """List the benchmarks, by the kind of their answers: those of dgpo and of installed packages.

    Each with its number of problems, its protocol, where it comes from, its licence, and whether it
    is here or has to be fetched.

    Examples:
      List them
        dgpo bench list
      With all fields
        dgpo bench list --json
    """
    from dgpo_cli.doctor import benchmarks
    from dgpo_cli.doctor.benchmark_views import render_list

    found = benchmarks.listing()
    if as_json:
        console.say_json(benchmarks.BENCHMARKS.dump(found))
        return
    console.show(render_list(found))
    for fault in found.faults:
        console.note(fault)
    console.suggest(["bench", "show", "math-500"])


@bench_app.command("show", cls=Command, short_help="Explain a benchmark.")
def show_benchmark(
    name: Name,
    data: Data = None,
    columns: Columns = None,
    answers: options.Answers = False,
) -> None:
    """Explain a benchmark: what it asks, its protocol, where it comes from, what is checked.

    With a copy in the cache, or one given with --data, its first problem is shown, too. Nothing is
    fetched.

    Examples:
      One of dgpo's
        dgpo bench show math-500
      One of your own
        dgpo bench show arith.toml
    """
    from dgpo_cli.doctor import benchmarks
    from dgpo_cli.doctor.benchmark_views import render_one

    names = _columns(columns)
    found = benchmarks.describe(name, data=data, columns=names, observer=console.Notes())
    console.show(render_one(found, answers=answers))


@bench_app.command("check", cls=Command, short_help="Check a benchmark, or a file of problems.")
def check_benchmark(
    name: NameOrFile,
    data: Data = None,
    columns: Columns = None,
    answers: options.Answers = False,
) -> None:
    """Read a benchmark or a file of problems, examine it, and list every fault.

    It counts problems, repetitions, kinds of answers, and answers that no checker can read, and
    exits with 1 if there is a fault.

    Examples:
      One of your own, before it is used
        dgpo bench check arith.toml
      A copy of one of dgpo's
        dgpo bench check gsm8k --data test.jsonl
    """
    from dgpo_cli.doctor import benchmarks
    from dgpo_cli.doctor.benchmark_views import render_check
    from dgpo_cli.live.bars import bars

    names = _columns(columns)
    with bars() as observer:
        found = benchmarks.check(name, data=data, columns=names, answers=answers, observer=observer)
    console.show(render_check(found))
    if found.faults:
        raise typer.Exit(FAILED)


def _columns(text: str | None) -> tuple[str, str]:
    names = parse_columns(text) or {}
    return names.get("problem", "problem"), names.get("answer", "answer")
