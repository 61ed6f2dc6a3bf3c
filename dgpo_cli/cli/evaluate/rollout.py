"""dgpo rollout: sample completions, check their answers, write a rollouts file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dgpo_cli.cli import completion, options
from dgpo_cli.cli.help import CHANGE, OUTPUT, RUN
from dgpo_cli.core.errors import ConfigError
from dgpo_cli.core.numbers import decimal, percent
from dgpo_cli.ui import console

Prompts = Annotated[
    str | None,
    typer.Option(
        help="File of problems, or name of a benchmark.",
        metavar="FILE|BENCH",
        autocompletion=completion.bench,
        rich_help_panel=RUN,
    ),
]
Out = Annotated[
    Path,
    typer.Option(
        help="File for the completions, one a line.", metavar="FILE.jsonl", rich_help_panel=OUTPUT
    ),
]
GroupSize = Annotated[
    int | None,
    typer.Option(
        help="Completions for each prompt; same as --set rollout.group_size=N.",
        metavar="N",
        show_default="the preset's, else 16",
        rich_help_panel=CHANGE,
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(
        help="Use only the first N prompts.",
        metavar="N",
        min=1,
        show_default="all",
        rich_help_panel=RUN,
    ),
]


def rollout(
    out: Out,
    prompts: Prompts = None,
    preset: options.Preset = None,
    config: options.Config = None,
    model: options.Model = None,
    data: options.Data = None,
    reward: options.Reward = None,
    adapter: options.Adapter = None,
    group_size: GroupSize = None,
    limit: Limit = None,
    overrides: options.Set = None,
    seed: options.Seed = None,
) -> None:
    """Sample completions of prompts and check their answers, without training.

    --prompts takes all problems of a file or benchmark, in order. --data draws problems as a
    training run does: those of one step, or --limit of them. Tasks of an environment in the
    settings are drawn the same way. Temperature and length are settings:
    --set rollout.temperature=0.7, --set rollout.max_completion_tokens=512.

    Examples:
      Sixteen completions of each of ten problems
        dgpo rollout --preset tiny --prompts sums --limit 10 --out r.jsonl
      A model folder on problems of your own
        dgpo rollout --model ./model --prompts my.jsonl --out r.jsonl
    """
    if preset is None and config is None and model is None:
        raise ConfigError("give --preset, --config or --model to say what to sample from")
    flags = options.flags_of(
        rollout__group_size=("--group-size", group_size),
        seed=("--seed", seed),
    )
    from dgpo_cli.config.shorthand import Asked

    asked = Asked(preset, config, model, data, reward, overrides or (), flags)
    resolved = options.settle(asked)
    from dgpo_cli.config.checks import check_built, check_rollout
    from dgpo_cli.prompts.settings import PlayedPrompts

    if not isinstance(resolved.settings.prompts, PlayedPrompts):
        options.one_of({"--prompts": prompts, "--data": data}, why="to say what to ask")
    elif prompts is not None:
        raise ConfigError(
            f"--prompts {prompts}: an environment has its own tasks; leave --prompts out"
        )
    check_built(resolved.settings, training=False)
    check_rollout(resolved.settings)
    if data is not None:
        options.print_choices(resolved)
    if data is None or asked.has_recipe:  # else it was reached to choose the settings
        options.reach(resolved.settings.model)
    from dgpo_cli.live.bars import bars
    from dgpo_cli.prompts.benchmarks import prefetch

    with bars() as observer:
        if prompts is not None:
            prefetch(prompts, observer=observer)
        from dgpo_cli.evals import rollout as workflow

        result = workflow.run(
            resolved,
            source=prompts,
            out=out,
            limit=limit,
            adapter=adapter,
            observer=observer,
        )
    shares = "  ".join(
        f"{name} {percent(share)}" for name, share in result.outcomes.items() if share
    )
    console.say(
        f"{result.completions} completions  mean reward {decimal(result.mean_reward)}  {shares}"
    )
    if len(result.terms) > 1:
        means = (f"{name} {decimal(value)}" for name, value in result.terms.items())
        console.say(f"terms: {'  '.join(means)}")
    if result.failure:
        console.note(f"unscored, most often because of {result.failure}")
    console.say(f"written to {result.out}")
    against = ["--reference", "OTHER"] if adapter is None else ["--adapter", adapter]
    model_path = resolved.settings.model.path
    console.suggest(["inspect", "--model", model_path, *against, "--rollouts", result.out])
