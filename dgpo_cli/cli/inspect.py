"""dgpo inspect: where the credit of a completion went, token by token."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dgpo_cli.cli import console, options
from dgpo_cli.cli.inspect_files import Files
from dgpo_cli.errors import ConfigError
from dgpo_cli.report.measure import What

if TYPE_CHECKING:
    from rich.console import RenderableType

    from dgpo_cli.report.ramp import Depth
    from dgpo_cli.types import InspectedCompletion, Inspection

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
WhatShown = Annotated[
    What | None,
    typer.Option(
        "--what",
        help="What the colours show; advantage is the token's own, A x w.",
        show_default="weight",
    ),
]
Full = Annotated[
    bool,
    typer.Option(
        "--full",
        help="Show the whole text, through the pager on a terminal.",
        show_default="the passages around the top tokens where the text is long",
    ),
]
Steps = Annotated[
    bool,
    typer.Option(
        "--steps",
        help="Show what each line, sentence and clause holds.",
        show_default="off",
    ),
]
Pair = Annotated[
    bool,
    typer.Option(
        "--pair",
        help="Show a right and a wrong completion of a prompt side by side: "
        "of those that begin alike the longest.",
        show_default="off",
    ),
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
    what: WhatShown = None,
    full: Full = False,
    steps: Steps = False,
    pair: Pair = False,
    top: Top = 10,
    html: Html = None,
    svg: Svg = None,
    png: Png = None,
    as_json: Json = False,
) -> None:
    """Show the tokens of a completion coloured by credit weight, with the numbers behind it.

    Reads what a run has stored, or computes it for any models: --model M --reference R
    --rollouts FILE. With --html, --svg or --png only the names of the files are printed.
    """
    _check(source=source, rollouts=rollouts, tau=tau, kappa=kappa)
    views = {"--json": as_json, "--pair": pair, "--steps": steps, "--full": full}
    _check_views(views, one=completion is not None, colours=what is not None)
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
            pair=pair,
        )
    view = _View(inspection, what=what or "weight", full=full, steps=steps, pair=pair, top=top)
    for line in files.write(inspection, draw=view.draw):
        (console.note if as_json else console.say)(line)
    if as_json:
        from dgpo_cli.report import heatmap

        console.say_json(heatmap.to_json(inspection))
    elif not files.asked:
        view.show()


@dataclass(frozen=True, slots=True, kw_only=True)
class _View:
    """What was asked for of one completion, or of two."""

    inspection: Inspection = field(kw_only=False)
    what: What
    full: bool
    steps: bool
    pair: bool
    top: int

    def show(self) -> None:
        """Draw it on stdout; what may be long goes through the pager."""
        from dgpo_cli.report import ramp

        width, color = console.picture_width(), ramp.depth_of(console.stdout())
        show = console.page if self.pair or self.steps or self.full else console.show
        for shown in self.inspection.completions[: 1 if self.pair else None]:
            show(self.draw(shown, width=width, color=color))

    def draw(self, shown: InspectedCompletion, *, width: int, color: Depth) -> RenderableType:
        """The view of a completion; of the pair where it is asked for."""
        from dgpo_cli.report import heatmap, pair_view, step_table

        looks: Any = {
            "inspection": self.inspection,
            "width": width,
            "color": color,
            "what": self.what,
        }
        if self.pair:
            right, wrong = self.inspection.completions
            return pair_view.render(right, wrong, whole=self.full, **looks)
        if self.steps:
            return step_table.render(shown, **looks)
        return heatmap.render(shown, top=self.top, whole=self.full, **looks)


def _check_views(views: dict[str, bool], *, one: bool, colours: bool) -> None:
    """Views that exclude each other; `views` are in the order in which they win."""
    asked = [name for name, is_asked in views.items() if is_asked]
    if "--json" in asked and colours:
        raise ConfigError("--json and --what: the JSON holds every number; leave out --what")
    if len(asked) > 1 and asked != ["--pair", "--full"]:
        raise ConfigError(f"{asked[0]} and {asked[1]}: give only one of them")
    if "--pair" in asked and one:
        raise ConfigError("--pair chooses both completions itself: name only the group")


def _check(
    *, source: Path | None, rollouts: Path | None, tau: float | None, kappa: float | None
) -> None:
    if source is not None and rollouts is not None:
        raise ConfigError(f"{source} and --rollouts={rollouts}: give only one of them")
    if tau is not None and not tau > 0:
        raise ConfigError(f"--tau={tau:g}: must be greater than 0; the paper's is 0.5")
    if kappa is not None and not kappa >= 0:
        raise ConfigError(f"--kappa={kappa:g}: must be at least 0; the paper's is 1")
