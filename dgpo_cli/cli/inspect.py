"""dgpo inspect: where the credit of a completion went, token by token."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dgpo_cli.cli import console, options
from dgpo_cli.cli.inspect_files import WIDTH, Files
from dgpo_cli.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from dgpo_cli.types import InspectedCompletion

Source = Annotated[
    Path | None,
    typer.Argument(
        help="Run folder, or file of rollouts.",
        metavar="[RUN|ROLLOUTS.jsonl]",
        show_default="--rollouts, or the newest run under ./runs",
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        help="Policy: hub id or folder.", metavar="M", show_default="the run's newest checkpoint"
    ),
]
Reference = Annotated[
    str | None,
    typer.Option(
        help="Reference: hub id or folder.", metavar="R", show_default="the run's initial model"
    ),
]
Rollouts = Annotated[
    Path | None,
    typer.Option(
        help="Completions to compute the credit of, as dgpo rollout writes them.",
        metavar="FILE.jsonl",
        show_default="SOURCE",
    ),
]
PromptIndex = Annotated[
    int | None,
    typer.Option(
        help="Show this prompt, from 0.",
        metavar="I",
        min=0,
        show_default="that of the completion with the least even weights; all with --json",
    ),
]
CompletionIndex = Annotated[
    int | None,
    typer.Option(
        help="Show this completion of the prompt, from 0.",
        metavar="J",
        min=0,
        show_default="the one with the least even weights; all with --json",
    ),
]
Tau = Annotated[
    float | None,
    typer.Option(
        help="Temperature of the weights.", metavar="X", show_default="the run's, else 0.5"
    ),
]
Kappa = Annotated[
    float | None,
    typer.Option(help="Power of the entropy gate.", metavar="X", show_default="the run's, else 1"),
]
Top = Annotated[int, typer.Option(help="Most weighted tokens to list.", metavar="N", min=0)]
Html = Annotated[
    Path | None,
    typer.Option(
        help="Write all completions as one page for a browser; it needs no network.",
        metavar="FILE.html",
        show_default="none",
    ),
]
Svg = Annotated[
    Path | None,
    typer.Option(help="Draw this view as SVG.", metavar="FILE.svg", show_default="none"),
]
Png = Annotated[
    Path | None,
    typer.Option(
        help="Draw this view as PNG (needs the extra png).",
        metavar="FILE.png",
        show_default="none",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print it as JSON.", show_default="off")]


def inspect(
    source: Source = None,
    prompt: PromptIndex = None,
    completion: CompletionIndex = None,
    model: Model = None,
    reference: Reference = None,
    adapter: options.Adapter = None,
    rollouts: Rollouts = None,
    tau: Tau = None,
    kappa: Kappa = None,
    top: Top = 10,
    html: Html = None,
    svg: Svg = None,
    png: Png = None,
    as_json: Json = False,
) -> None:
    """Show the tokens of a completion coloured by credit weight, with the numbers behind it.

    Reads what a run has stored, or computes it for any models: --model M --reference R
    --rollouts FILE. With --html, --svg or --png nothing is shown but where the files are.
    """
    _check(source=source, rollouts=rollouts, tau=tau, kappa=kappa)
    files = Files(html=html, svg=svg, png=png)
    files.check()
    from dgpo_cli.cli.bars import Bars
    from dgpo_cli.workflows import inspect as workflow

    with Bars() as bars:
        inspection = workflow.run(
            source=source,
            model=model,
            reference=reference,
            adapter=adapter,
            rollouts=rollouts,
            prompt=prompt,
            completion=completion,
            one=not (as_json or html),  # a picture is of one completion
            tau=tau,
            kappa=kappa,
            progress=bars,
            on_event=bars.event,
        )
    from dgpo_cli.report import heatmap, ramp

    def draw(
        shown: InspectedCompletion, *, width: int = WIDTH, color: ramp.Depth = "truecolor"
    ) -> RenderableType:
        return heatmap.render(shown, inspection=inspection, width=width, top=top, color=color)

    for line in files.write(inspection, draw=draw):
        (console.note if as_json else console.say)(line)
    if as_json:
        console.say_json(heatmap.to_json(inspection))
    if as_json or files.asked:
        return
    for shown in inspection.completions:
        color = ramp.depth_of(console.stdout())
        console.show(draw(shown, width=console.picture_width(), color=color))


def _check(
    *, source: Path | None, rollouts: Path | None, tau: float | None, kappa: float | None
) -> None:
    if source is not None and rollouts is not None:
        raise ConfigError(f"{source} and --rollouts={rollouts}: give only one of them")
    if tau is not None and not tau > 0:
        raise ConfigError(f"--tau={tau:g}: must be greater than 0; the paper's is 0.5")
    if kappa is not None and not kappa >= 0:
        raise ConfigError(f"--kappa={kappa:g}: must be at least 0; the paper's is 1")
