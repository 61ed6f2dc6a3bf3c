"""dgpo train: learn from sampled completions."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from dgpo_cli.cli import options
from dgpo_cli.cli.commands import last_words
from dgpo_cli.cli.help import CHANGE, MACHINE, OUTPUT, RUN
from dgpo_cli.core.errors import ConfigError
from dgpo_cli.core.events import NOBODY
from dgpo_cli.core.numbers import decimal
from dgpo_cli.parallel.place import Flags
from dgpo_cli.train.ranks import among_ranks, follow_leader, start_ranks, told_once
from dgpo_cli.ui import console

if TYPE_CHECKING:
    from dgpo_cli.config.load import Resolved
    from dgpo_cli.config.settings import Settings
    from dgpo_cli.live.bars import Bars
    from dgpo_cli.live.live import RunPanel
    from dgpo_cli.rewards.settings import RewardSettings
    from dgpo_cli.train.resume import Resume as Resuming
    from dgpo_cli.train.train import TrainResult

Out = Annotated[
    Path | None,
    typer.Option(
        help="Run folder: settings, metrics, rollouts and checkpoints.",
        metavar="DIR",
        show_default="runs/NAME of the preset or file, plus what differs from it: "
        "runs/tiny-uniform",
        rich_help_panel=OUTPUT,
    ),
]
Steps = Annotated[
    int | None,
    typer.Option(
        help="Same as --set train.steps=N.",
        metavar="N",
        show_default="the preset's, else 100",
        rich_help_panel=CHANGE,
    ),
]
Resume = Annotated[
    str,
    typer.Option(
        help="auto: resume from the newest undamaged checkpoint in the run folder, if any. "
        "never: refuse a folder that holds a run. must: refuse a folder without a checkpoint. "
        "A number: resume from the checkpoint of that step and redo the later steps.",
        metavar="auto|never|must|STEP",
        rich_help_panel=RUN,
    ),
]
AllowChange = Annotated[
    bool,
    typer.Option(
        "--allow-change",
        help="Resume the run in --out even if settings that affect what it learns differ from "
        "its own; the run folder records each change.",
        rich_help_panel=CHANGE,
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Print every setting with its source, and stop. dgpo init writes a settings file.",
        rich_help_panel=OUTPUT,
    ),
]


Gpus = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Train on N devices of this machine, a process (rank) each; without GPUs, on its CPU.",
        metavar="N",
        show_default="parallel.gpus",
        rich_help_panel=MACHINE,
    ),
]
Nodes = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Machines that share the run, each with N devices. Run the same command on each.",
        metavar="M",
        show_default="1",
        rich_help_panel=MACHINE,
    ),
]
NodeRank = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Number of this machine, from 0; machine 0 shows the run.",
        metavar="R",
        show_default=False,
        rich_help_panel=MACHINE,
    ),
]
RdzvEndpoint = Annotated[
    str | None,
    typer.Option(
        help="Where the ranks of all machines meet: a free port of machine 0.",
        metavar="HOST:PORT",
        show_default=False,
        rich_help_panel=MACHINE,
    ),
]
View = Annotated[
    Literal["auto", "panel", "lines"],
    typer.Option(
        help="panel: curves and numbers of the run, drawn live. lines: a line a step. "
        "auto: the panel on a terminal of at least 60x20, lines elsewhere.",
        rich_help_panel=OUTPUT,
    ),
]


def train(
    preset: options.Preset = None,
    config: options.Config = None,
    model: options.Model = None,
    data: options.Data = None,
    reward: options.Reward = None,
    overrides: options.Set = None,
    out: Out = None,
    steps: Steps = None,
    seed: options.Seed = None,
    resume: Resume = "auto",
    allow_change: AllowChange = False,
    gpus: Gpus = None,
    nodes: Nodes = None,
    node_rank: NodeRank = None,
    rdzv_endpoint: RdzvEndpoint = None,
    view: View = "auto",
    dry_run: DryRun = False,
) -> None:
    """Train a model with DGPO (arXiv 2605.03327), or with GRPO, DAPO and relatives by --set.

    Settings: defaults < preset or file < --set < flags. The same command resumes a run that
    stopped. Other settings that affect what is learnt get a run folder of their own, or need
    --allow-change. Under torchrun, srun or mpirun, dgpo takes the ranks that these start.

    Examples:
      Learn nested sums on a CPU
        dgpo train --preset tiny
      The same recipe with GRPO's credit, for 20 steps
        dgpo train --preset tiny --set credit.rule=uniform --steps 20
      A model and problems of your own, without a preset
        dgpo train --model ./model --data my.jsonl
      A preset's recipe on problems of your own
        dgpo train --preset smollm2-lora --data my.jsonl --reward math
      Train every weight of a 7B model on 8 GPUs
        dgpo train --preset qwen7b-full --gpus 8
    """
    how = parse_resume(resume)
    from dgpo_cli.config.checks import check_built, check_trainable
    from dgpo_cli.config.shorthand import Asked
    from dgpo_cli.core.own_code import own_code_of

    asked = Flags(gpus, nodes, node_rank, rdzv_endpoint)
    place = asked.place(os.environ)
    flags = options.flags_of(
        train__steps=("--steps", steps), seed=("--seed", seed), parallel__gpus=asked.layer(place)
    )
    wanted = Asked(preset, config, model, data, reward, overrides or (), flags)
    wanted.check_trainable()
    with told_once(place):
        folder = out or wanted.run_folder()
        kept = options.begun_in(folder) if data is not None and how != "never" else None
        resolved = options.settle(wanted, kept=kept)
        settings = resolved.settings
        check_trainable(settings)
        if dry_run:
            own_code_of(settings)  # refuses a file or module that is not there
            options.print_settings(resolved)
            if not wanted.has_recipe:
                console.suggest(["init", *wanted.words(), "--out", f"{wanted.name}.toml"])
            return
        check_built(settings)
        start = asked.start(gpus=settings.parallel.gpus, device=settings.model.device, place=place)
        if out is None and allow_change:
            raise ConfigError("--allow-change: needs --out with the folder of the run to resume")
        if out is None and folder.name != (preset or (config.stem if config else None)):
            console.note(f"the run folder is {folder}")
        looked = data is not None and kept is None  # at the data, and without a recipe at the model
        if not looked:
            options.announce(settings.prompts)
        # Before the hub is asked for a model that may not be the run's.
        if _nothing_to_draw(resolved, out=folder, resume=how, allow_change=allow_change):
            view, place, start = "lines", None, None
        else:
            options.print_choices(resolved, kept=kept is not None)
            if not looked or wanted.has_recipe:
                options.reach(settings.model)
    if start is not None:
        raise SystemExit(start_ranks(start, settings=settings, config=config, out=folder))
    if place is not None and not place.leads:
        follow_leader(place, settings=settings, out=folder)
        return
    from dgpo_cli.train import train as workflow

    with (
        last_words(),
        among_ranks(place, settings=settings, out=folder) as ranks,
        _view(view, out=folder, settings=settings, resume=how) as shown,
    ):
        result = workflow.run(
            resolved,
            out=folder,
            resume=how,
            allow_change=allow_change,
            ranks=ranks,
            observer=shown,
        )
    evaluated = settings.eval.every or (
        settings.prompts.kind == "sums" and _surely_judges(settings.reward)
    )
    _summarise(result, bench=settings.eval.bench if evaluated else None)


def parse_resume(text: str) -> Resuming:
    """Read --resume.

    Raises:
        ConfigError: it is neither one of the words nor a number.
    """
    words: dict[str, Resuming] = {"auto": "auto", "never": "never", "must": "must"}
    if text in words:
        return words[text]
    if text.isascii() and text.isdigit():
        return int(text)
    raise ConfigError(
        f"--resume {text}: give auto, never, must or the step of a checkpoint, as in --resume 40"
    )


def _surely_judges(reward: RewardSettings) -> bool:
    """Whether an evaluation with this reward is known to have a score."""
    from dgpo_cli.rewards.settings import TermsReward

    try:
        judge = reward.judge()
    except ConfigError:
        return False
    if not isinstance(judge, TermsReward):
        return True
    return getattr(judge.terms[0], "correct_at", None) is not None


def _summarise(result: TrainResult, *, bench: str | None) -> None:
    """Print the state of the run and the next commands; bench: None if it has none of its own."""
    from dgpo_cli.live.evalline import summary

    console.say(_ended(result))
    if (line := summary(result.curve)) is not None:
        console.say(f"eval        {line}")
    console.say(f"run         {result.out}")
    console.say(f"checkpoint  {result.checkpoint}")
    console.suggest(
        ["report", result.out],
        ["inspect", result.out],
        *([["eval", "--bench", bench, "--run", result.out]] if bench is not None else []),
    )


def _nothing_to_draw(
    resolved: Resolved, *, out: Path, resume: Resuming, allow_change: bool
) -> bool:
    """Whether all steps are done. Raises if the run is refused, before a view is opened."""
    from dgpo_cli.runs.run_folder import RunFolder
    from dgpo_cli.train.resume import standing_of

    folder = RunFolder(out)
    if resume in ("auto", "never") and not folder.settings_file.exists():  # a new run
        return False
    return standing_of(
        folder,
        resolved=resolved,
        resume=resume,
        allow_change=allow_change,
        observer=NOBODY,  # noted when the run begins
    ).done


def _view(
    kind: Literal["auto", "panel", "lines"],
    *,
    out: Path,
    settings: Settings,
    resume: Resuming,
) -> Bars | RunPanel:
    """Return the view of the run.

    Raises:
        ConfigError: the panel cannot be drawn here.
    """
    from dgpo_cli.live.bars import Bars
    from dgpo_cli.live.live import LEAST_COLUMNS, LEAST_ROWS, RunPanel
    from dgpo_cli.runs.run_folder import RunFolder, step_of

    if kind == "panel" and not console.can_animate():
        raise ConfigError(
            "--view panel: stderr is not a terminal that can move its cursor; leave it out for "
            "a line a step"
        )
    size = console.stderr().size
    fits = size.width >= LEAST_COLUMNS and size.height >= LEAST_ROWS
    automatic = fits and console.can_animate() and not os.environ.get("CI")
    steps = settings.train.steps
    if kind == "lines" or (kind == "auto" and not automatic):
        return Bars(steps=steps)
    folder = RunFolder(out)
    checkpoints = folder.checkpoints() if resume != "never" else []
    start = step_of(checkpoints[-1]) if checkpoints else 0
    if isinstance(resume, int):
        start = min(start, resume)
    return RunPanel(
        name=out.resolve().name,
        out=out,
        steps=steps,
        eval_every=settings.eval.every,
        start=start,
        past=(folder.read_metrics(), folder.read_evals()) if start else ((), ()),
    )


def _ended(result: TrainResult) -> str:
    if not result.trained:
        return (
            f"all {result.steps} steps are done already; --set train.steps={2 * result.steps} "
            "trains more"
        )
    name = "reward/mean"
    first, last = result.first[name], result.last[name]
    step = int(result.first.get("step", 1))  # not 1 where earlier metrics were lost
    begin = "its first step" if step == 1 else f"step {step}"
    return (
        f"trained to step {result.steps}: reward {decimal(first)} at {begin}, "
        f"{decimal(last)} at its last"
    )
