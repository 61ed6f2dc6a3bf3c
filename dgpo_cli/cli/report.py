"""dgpo report and view: runs, and the samples of evaluations, each as one page."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from dgpo_cli.cli import completion
from dgpo_cli.cli.help import OUTPUT, READ
from dgpo_cli.core.errors import ConfigError
from dgpo_cli.core.numbers import size
from dgpo_cli.ui import console, output

Runs = Annotated[
    list[Path] | None,
    typer.Argument(
        help="Run folders, overlaid; or the folder of a study.",
        metavar="[RUN ...]",
        autocompletion=completion.run_or_study,
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
Svg = Annotated[
    Path | None,
    typer.Option(
        help="Draw the main curves as SVG: light or dark, as its reader prefers.",
        metavar="FILE.svg",
        rich_help_panel=OUTPUT,
    ),
]
Png = Annotated[
    Path | None,
    typer.Option(
        help="Draw them as PNG (needs the extra png).",
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
Form = Annotated[
    Literal["markdown", "csv", "latex", "json"] | None,
    typer.Option(
        "--format",
        help="Print the table of a study in this form; write a page only with --out.",
        show_default="for a terminal",
        rich_help_panel=OUTPUT,
    ),
]
Baseline = Annotated[
    str | None,
    typer.Option(
        help="The variant of a study that the others are compared with.",
        metavar="VARIANT",
        show_default="that of its file",
        rich_help_panel=READ,
    ),
]
Level = Annotated[
    float | None,
    typer.Option(
        help="The reward to which the steps of a study's runs are counted.",
        metavar="REWARD",
        show_default="nine tenths of the baseline's gain",
        rich_help_panel=READ,
    ),
]
Evaluations = Annotated[
    list[Path] | None,
    typer.Argument(
        help="Folders of evaluations, or of runs with evaluations.",
        metavar="[EVAL ...]",
        autocompletion=completion.evaluation,
        show_default="the newest under ./evals",
        rich_help_panel=READ,
    ),
]
ViewOut = Annotated[
    Path | None,
    typer.Option(
        "--out",
        help="The page.",
        metavar="FILE.html",
        show_default="EVAL/view.html",
        rich_help_panel=OUTPUT,
    ),
]
LimitText = Annotated[
    int | None,
    typer.Option(
        help="Characters of a text to keep, half of them from its end.",
        metavar="N",
        min=1,
        show_default="all",
        rich_help_panel=OUTPUT,
    ),
]


def report(
    runs: Runs = None,
    baseline: Baseline = None,
    level: Level = None,
    out: Out = None,
    svg: Svg = None,
    png: Png = None,
    form: Form = None,
    as_json: Json = False,
) -> None:
    """Write a run as one page: curves, diagnoses, samples with their credit, settings.

    The page needs no network. Several runs are overlaid; the page is then written to the folder of
    the first. A study is one page of all its runs, and a table: what differs from the baseline,
    with intervals over seeds, and what cannot be told.

    Examples:
      One page of a run
        dgpo report runs/tiny
      Two runs, overlaid
        dgpo report runs/tiny runs/tiny-uniform --out both.html
      A study of any number of runs
        dgpo report studies/credit
      Its table and its figure for a paper
        dgpo report studies/credit --format latex --svg credit.svg
    """
    output.asked(out=out, svg=svg, png=png)
    from dgpo_cli.study.folder import is_study

    studies = [path for path in runs or [] if is_study(path)]
    if studies:
        if len(runs or []) > 1:
            raise ConfigError(f"{studies[0]}: is a study; name it alone")
        if as_json and form not in (None, "json"):
            raise ConfigError(f"--json, --format={form}: give one of them")
        asked = _Asked(baseline, level, "json" if as_json else form, out=out, svg=svg, png=png)
        _study(studies[0], asked)
        return
    of_a_study = {"--baseline": baseline, "--level": level, "--format": form}
    for flag, given in of_a_study.items():
        if given is not None:
            raise ConfigError(f"{flag}={given}: is of a study; name the folder of one")
    from dgpo_cli.report import report as workflow
    from dgpo_cli.report.run_page import MAX_RUNS

    if len(runs or []) > MAX_RUNS:
        raise ConfigError(
            f"{len(runs or [])} runs: a page shows at most {MAX_RUNS}; name fewer, or compare "
            "settings over any number of seeds with: dgpo study"
        )

    with_page = out is not None or not (as_json or svg or png)
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
    if svg or png:
        from dgpo_cli.report.picture import report_svg

        _draw(report_svg(records), svg=svg, png=png, tell=tell)


def _draw(drawing: str, *, svg: Path | None, png: Path | None, tell: Callable[[str], None]) -> None:
    """Write a picture in the forms that are asked for."""
    if svg is not None:
        output.write("--svg", svg, drawing.encode("utf-8"))
        tell(f"written to {svg}")
    if png is not None:
        output.write_png(png, drawing)
        tell(f"written to {png}")


@dataclass(frozen=True, slots=True)
class _Asked:
    """What is asked for of a study."""

    baseline: str | None
    level: float | None
    form: Literal["markdown", "csv", "latex", "json"] | None
    out: Path | None
    svg: Path | None
    png: Path | None


def _study(path: Path, asked: _Asked) -> None:
    """Print the table of a study, and write its page or draw its figure."""
    from dgpo_cli.report.study_page import study_page
    from dgpo_cli.study.exports import written
    from dgpo_cli.study.read import read_study
    from dgpo_cli.study.summary import summarise
    from dgpo_cli.study.view import render

    if asked.level is not None and not math.isfinite(asked.level):
        raise ConfigError(f"--level={asked.level}: must be a reward, such as 0.5")
    record = read_study(path)
    table = summarise(record, baseline=asked.baseline, level=asked.level)
    tell = console.note if asked.form is not None else console.say
    if asked.form is None:
        console.show(render(table))
    else:
        console.raw(written(table, form=asked.form))
        for text in table.notes if asked.form == "csv" else ():
            console.note(text)
    if asked.out is not None or not (asked.form or asked.svg or asked.png):
        page = asked.out or path / "report.html"
        html = study_page(record, table, at=page.absolute().parent)
        output.write("--out", page, html.encode("utf-8"))
        tell(f"written to {page}")
    if asked.svg or asked.png:
        from dgpo_cli.report.study_picture import study_svg

        _draw(study_svg(record, table), svg=asked.svg, png=asked.png, tell=tell)


def view(evals: Evaluations = None, out: ViewOut = None, limit_text: LimitText = None) -> None:
    """Write evaluations as one page: scores, and every problem with its samples to read.

    The page needs no network. It filters wrong, truncated and disputed samples and problems that
    flip between two models, whose samples it shows side by side. Expected answers are hidden until
    a button is pressed. A run stands for the evaluations of its training.

    Examples:
      The samples of two models
        dgpo view evals/sums-base evals/sums-tiny
      How a run changed the answers
        dgpo view runs/tiny --out tiny.html
    """
    output.asked(out=out)
    from dgpo_cli.evals.page import page as pages
    from dgpo_cli.evals.page import stored
    from dgpo_cli.live.bars import bars

    with bars() as observer:
        found = stored.run(evals or [], observer=observer)
    if len(found) > pages.MAX_EVALUATIONS:
        raise ConfigError(
            f"{len(found)} evaluations: a page shows at most {pages.MAX_EVALUATIONS}; name fewer"
        )
    for each in found:
        for text in each.notes:
            console.note(f"{each.name}: {text}")
    page = out or (evals[0] if evals and evals[0].is_dir() else found[0].path) / "view.html"
    content = pages.view_page(found, limit=limit_text).encode("utf-8")
    output.write("--out", page, content)
    console.say(f"written to {page}")
    if len(content) > pages.LARGE:
        console.note(
            f"{page} has {size(len(content))}, which browsers open slowly: cut texts with "
            "--limit-text 8000, or name fewer evaluations"
        )
