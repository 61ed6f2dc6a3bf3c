"""dgpo train: learn from sampled completions."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from dgpo_cli.cli import console, options
from dgpo_cli.errors import ConfigError

if TYPE_CHECKING:
    from dgpo_cli.cli.bars import Bars
    from dgpo_cli.cli.live import Panel
    from dgpo_cli.config.load import Resolved
    from dgpo_cli.config.settings import Settings
    from dgpo_cli.types import StepMetrics

Out = Annotated[
    Path | None,
    typer.Option(
        help="Run folder: settings, metrics, rollouts and checkpoints.",
        metavar="DIR",
        show_default="runs/NAME of the preset or file",
    ),
]
Steps = Annotated[
    int | None,
    typer.Option(
        help="Same as --set train.steps=N.", metavar="N", show_default="the preset's, else 100"
    ),
]
Resume = Annotated[
    Literal["auto", "never", "must"],
    typer.Option(
        help="auto: go on from the newest checkpoint in the run folder, if any. "
        "never: refuse a folder that has one. must: refuse a folder that has none."
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Print every setting with its source, and stop.",
        show_default="off",
    ),
]


View = Annotated[
    Literal["auto", "panel", "lines"],
    typer.Option(
        help="panel: curves and numbers of the run, drawn live. lines: a line a step. "
        "auto: the panel on a terminal of at least 60x20, lines elsewhere."
    ),
]


def train(
    preset: options.Preset = None,
    config: options.Config = None,
    overrides: options.Set = None,
    out: Out = None,
    steps: Steps = None,
    seed: options.Seed = None,
    resume: Resume = "auto",
    view: View = "auto",
    dry_run: DryRun = False,
) -> None:
    """Train a model with DGPO (arXiv 2605.03327), or with GRPO, DAPO and relatives by --set.

    Settings: defaults < preset or file < --set < flags. The same command again goes on where an
    interrupted run stopped.
    """
    options.one_of({"--preset": preset, "--config": config}, why="to say what to train")
    flags = options.flags_of(train__steps=("--steps", steps), seed=("--seed", seed))
    resolved = options.resolve(preset=preset, config=config, overrides=overrides, flags=flags)
    from dgpo_cli.config.checks import check_built, check_trainable

    check_trainable(resolved.settings)
    if dry_run:
        print_settings(resolved)
        return
    check_built(resolved.settings)
    name = config.stem if config is not None else str(preset)
    _run(resolved, name=name, out=out or Path("runs") / name, resume=resume, view=view)


def print_settings(resolved: Resolved) -> None:
    """Print key, value and source of every setting."""
    from dgpo_cli.config.dump import describe

    console.table([tuple(row) for row in describe(resolved)], styles=("bold", "", "dim"))


def _run(
    resolved: Resolved,
    *,
    name: str,
    out: Path,
    resume: Literal["auto", "never", "must"],
    view: Literal["auto", "panel", "lines"],
) -> None:
    from dgpo_cli.cli import scores
    from dgpo_cli.cli.evalline import summary
    from dgpo_cli.workflows import train as workflow

    chosen = _view(view, name=name, out=out, settings=resolved.settings, goes_on=resume != "never")
    with chosen as shown:
        result = workflow.run(
            resolved,
            out=out,
            resume=resume,
            progress=shown,
            on_step=shown.step,
            on_event=shown.event,
            save_eval=scores.save,
            on_eval=shown.evaluated,
            on_glimpse=shown.glimpse,
            on_diagnoses=shown.diagnosed,
        )
    console.say(f"trained to step {result.steps}: {_change(result.first, result.last)}")
    if (told := summary(result.curve)) is not None:
        console.say(f"eval        {told}")
    console.say(f"run         {result.out}")
    console.say(f"checkpoint  {result.checkpoint}")


def _view(
    kind: Literal["auto", "panel", "lines"],
    *,
    name: str,
    out: Path,
    settings: Settings,
    goes_on: bool,
) -> Bars | Panel:
    """Return what shows the run. goes_on: whether it may go on from a checkpoint in `out`.

    Raises:
        ConfigError: the panel was asked for where it cannot be drawn.
    """
    from dgpo_cli.cli.bars import Bars
    from dgpo_cli.cli.live import LEAST_COLUMNS, LEAST_ROWS, Panel
    from dgpo_cli.workflows.run_folder import RunFolder, step_of

    if kind == "panel" and not console.can_animate():
        raise ConfigError(
            "--view panel: stderr is no terminal that can move its cursor; leave it out for "
            "a line a step"
        )
    size = console.stderr().size
    fits = size.width >= LEAST_COLUMNS and size.height >= LEAST_ROWS
    automatic = fits and console.can_animate() and not os.environ.get("CI")
    steps = settings.train.steps
    if kind == "lines" or (kind == "auto" and not automatic):
        return Bars(steps=steps)
    folder = RunFolder(out)
    checkpoints = folder.checkpoints() if goes_on else []
    start = step_of(checkpoints[-1]) if checkpoints else 0
    return Panel(
        name=name,
        out=out,
        steps=steps,
        eval_every=settings.eval.every,
        start=start,
        past=(folder.read_metrics(), folder.read_evals()) if start else ((), ()),
    )


def _change(first: StepMetrics, last: StepMetrics) -> str:
    name = "reward/mean"
    if name not in first or name not in last:
        return "nothing was left to do"
    return f"reward {first[name]:.3f} at its first step, {last[name]:.3f} at its last"
