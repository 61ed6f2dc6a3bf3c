"""dgpo plan and dgpo doctor: what a run needs, and what this machine has."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dgpo_cli.cli import options
from dgpo_cli.cli.commands import NOT_REACHED
from dgpo_cli.cli.help import CHANGE, MACHINE, OUTPUT
from dgpo_cli.core.errors import ConfigError
from dgpo_cli.ui import console

if TYPE_CHECKING:
    from dgpo_cli.config.layers import Layer

Gpus = Annotated[
    int | None,
    typer.Option(
        help="Devices in total (parallel.gpus).",
        metavar="N",
        min=1,
        show_default="the preset's, else 1",
        rich_help_panel=MACHINE,
    ),
]
Gpu = Annotated[
    str | None,
    typer.Option(
        help="Device to plan for: h200, h100, a100, a100-40, l40s, l4, 4090, 3090, 3060, t4, cpu, "
        "or here for this machine's.",
        metavar="NAME",
        show_default="the preset's, else here",
        rich_help_panel=MACHINE,
    ),
]
PromptTokens = Annotated[
    int | None,
    typer.Option(
        help="Typical length of a prompt, for the times.",
        metavar="N",
        min=1,
        show_default="prompts.max_prompt_tokens, 256 at most",
        rich_help_panel=CHANGE,
    ),
]
CompletionTokens = Annotated[
    int | None,
    typer.Option(
        help="Typical length of a completion, for the times; memory is planned for the longest.",
        metavar="N",
        min=1,
        show_default="rollout.max_completion_tokens",
        rich_help_panel=CHANGE,
    ),
]
Compare = Annotated[
    bool,
    typer.Option(
        help="Compare numbers of GPUs up to 1,024; more than one are always compared.",
        show_default=False,
        rich_help_panel=MACHINE,
    ),
]
Apply = Annotated[
    Path | None,
    typer.Option(
        help="Write the settings, with the changes that make them fit, to a new file.",
        metavar="FILE.toml",
        rich_help_panel=OUTPUT,
    ),
]


def plan(
    preset: options.Preset = None,
    config: options.Config = None,
    model: options.Model = None,
    data: options.Data = None,
    reward: options.Reward = None,
    overrides: options.Set = None,
    gpus: Gpus = None,
    gpu: Gpu = None,
    compare_gpus: Compare = False,
    prompt_tokens: PromptTokens = None,
    completion_tokens: CompletionTokens = None,
    apply: Apply = None,
    as_json: options.Json = False,
) -> None:
    """Report the memory, time and disk that a run needs, without loading its model.

    It is the run of dgpo train with the same options. If it does not fit, print what to change, and
    exit with 3.

    Examples:
      Does the 7B model with LoRA fit one H100?
        dgpo plan --preset qwen7b-lora --gpu h100
      What would a model and data of my own need on an L4?
        dgpo plan --model ./model --data problems.jsonl --gpu l4
      On how many GPUs is it best trained?
        dgpo plan --preset qwen32b-full
      Change what does not fit, into a file of your own
        dgpo plan --preset qwen7b-lora --gpu l40s --apply mine.toml
    """
    from dgpo_cli.config.shorthand import Asked
    from dgpo_cli.planning import devices

    flags = options.flags_of(parallel__gpus=("--gpus", gpus))
    asked = Asked(preset, config, model, data, reward, overrides or (), flags)
    asked.check_trainable()
    elsewhere = devices.elsewhere(gpu)
    begun = data is not None and elsewhere is None  # a run here keeps what was chosen for it
    kept = options.begun_in(asked.run_folder()) if begun else None
    resolved = options.settle(asked, kept=kept, device=elsewhere)
    from dgpo_cli.config.checks import check_trainable
    from dgpo_cli.planning import plan as workflow
    from dgpo_cli.planning.job import NODE
    from dgpo_cli.policy.config_file import is_at_hand

    check_trainable(resolved.settings)
    chosen: tuple[Layer, ...] = ()
    if data is not None:
        from dgpo_cli.planning.fit import chosen_layers

        options.print_choices(resolved, kept=kept is not None)
        chosen = chosen_layers(resolved)
    changed = options.changing("dgpo plan", asked, chosen=chosen)
    if not is_at_hand(resolved.settings.model):
        options.reach(resolved.settings.model)
    device = devices.chosen(gpu, meant_for=resolved.hardware, device=resolved.settings.model.device)
    found = workflow.run(
        changed,
        device=device,
        typical=workflow.Typical(prompt_tokens, completion_tokens),
        compare=compare_gpus,
    )
    if apply is not None:
        workflow.apply(found, changed, to=apply)
    from dgpo_cli.planning import table as report
    from dgpo_cli.ui import ramp

    if as_json:
        console.say_json(report.to_json(found))
    else:
        console.show(report.render(found, color=ramp.depth_of(console.stdout())))
    if gpu is None and resolved.hardware:
        console.note(
            f"planned for {device.name}, which {preset or config} is meant for; "
            "--gpu here plans for this machine"
        )
    if apply is not None:
        console.note(f"{apply}: use it with dgpo train --config {apply}")
    if not found.fits:
        raise typer.Exit(NOT_REACHED)
    if apply is None and not as_json:
        several = ["--gpus", str(gpus)] if gpus is not None and gpus <= NODE else []
        console.suggest(["train", *replace(asked, flags={}).words(), *several])


def doctor(
    preset: options.Preset = None,
    config: options.Config = None,
    overrides: options.Set = None,
    as_json: options.Json = False,
) -> None:
    """Check packages, devices, memory, disk, limits and the hub, each with its fix.

    With a preset, also check that it can run here. Exit with 3 if a check fails.

    Examples:
      Is everything here that dgpo needs?
        dgpo doctor
      Can this machine run that preset?
        dgpo doctor --preset qwen7b-lora
    """
    if preset is None and config is None and overrides:
        raise ConfigError(f"--set {overrides[0]}: needs --preset or --config")
    from dgpo_cli.config.shorthand import Asked
    from dgpo_cli.doctor import doctor as workflow

    asked = Asked(preset, config, overrides=overrides or ())
    changed = options.changing("dgpo doctor", asked)
    chosen = preset is not None or config is not None
    findings = workflow.run(changed if chosen else None)
    from dgpo_cli.doctor import table as report
    from dgpo_cli.ui import ramp

    if as_json:
        console.say_json(report.to_json(findings))
    else:
        console.show(report.render(findings, color=ramp.depth_of(console.stdout())))
    if any(finding.state == "fail" for finding in findings):
        raise typer.Exit(NOT_REACHED)
    if not as_json:
        named = ["--config", config] if config is not None else ["--preset", preset or "tiny"]
        console.suggest(["train", *named])
