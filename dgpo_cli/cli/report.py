"""dgpo report: a run, or several overlaid, as one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dgpo_cli.cli import completion
from dgpo_cli.cli.help import OUTPUT, READ
from dgpo_cli.core.errors import ConfigError
from dgpo_cli.ui import console, output

Runs = Annotated[
    list[Path] | None,
    typer.Argument(
        help="Run folders; several are overlaid.",
        metavar="[RUN ...]",
        autocompletion=completion.run,
        show_default="the newest run under ./runs",
        rich_help_panel=READ,
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        help="The page.",
        metavar="FILE.html",
        show_default="RUN/report.html",
        rich_help_panel=OUTPUT,
    ),
]
Png = Annotated[
    Path | None,
    typer.Option(
        help="Draw the main curves as PNG (needs the extra png).",
        metavar="FILE.png",
        rich_help_panel=OUTPUT,
    ),
]
Json = Annotated[
    bool,
    typer.Option(
        "--json",
        help="Print it as JSON; write a page only with --out.",
        rich_help_panel=OUTPUT,
    ),
]


def report(runs: Runs = None, out: Out = None, png: Png = None, as_json: Json = False) -> None:
    """Write a run as one page: curves, diagnoses, samples with their credit, settings.

    The page needs no network. Several runs are overlaid; the page is then written to the folder of
    the first.

    Examples:
      One page of a run
        dgpo report runs/tiny
      Two runs, overlaid
        dgpo report runs/tiny runs/tiny-uniform --out both.html
    """
    output.asked(out=out, png=png)
    from dgpo_cli.report import report as workflow
    from dgpo_cli.report.run_page import MAX_RUNS

    if len(runs or []) > MAX_RUNS:
        raise ConfigError(f"{len(runs or [])} runs: a page shows at most {MAX_RUNS}; name fewer")

    with_page = out is not None or not (as_json or png is not None)
    records = workflow.run(runs or [], with_samples=with_page or as_json)
    for record in records:
        for text in record.notes:
            console.note(f"{record.name}: {text}" if len(records) > 1 else text)
    if as_json:
        from dgpo_cli.report.as_json import to_json

        console.say_json(to_json(records))
    tell = console.note if as_json else console.say
    if with_page:
        from dgpo_cli.report.run_page import report_page

        page = out or Path(records[0].path) / "report.html"
        output.write("--out", page, report_page(records).encode("utf-8"))
        tell(f"written to {page}")
        if not as_json:
            console.suggest(["inspect", records[0].path])
    if png is not None:
        from dgpo_cli.report.picture import report_svg

        output.write_png(png, report_svg(records))
        tell(f"written to {png}")
