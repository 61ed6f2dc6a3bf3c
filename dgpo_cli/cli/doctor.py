"""dgpo doctor: whether this machine can run dgpo, and what to do where it cannot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from dgpo_cli.cli import options
from dgpo_cli.cli.help import OUTPUT
from dgpo_cli.core.errors import ConfigError
from dgpo_cli.ui import console

if TYPE_CHECKING:
    from dgpo_cli.config.load import Resolved

CANNOT_RUN = 3  # exit code

Json = Annotated[bool, typer.Option("--json", help="Print it as JSON.", rich_help_panel=OUTPUT)]


def doctor(
    preset: options.Preset = None,
    config: options.Config = None,
    overrides: options.Set = None,
    as_json: Json = False,
) -> None:
    """Check packages, devices, memory, disk, limits and the hub, each with its fix.

    With a preset also whether it can run here. Exits with 3 where something has failed.

    Examples:
      Is everything here that dgpo needs?
        dgpo doctor
      Can this machine run that preset?
        dgpo doctor --preset qwen7b-lora
    """
    if preset is None and config is None and overrides:
        raise ConfigError(f"--set {overrides[0]}: give --preset or --config to say of what")
    from dgpo_cli.config.load import resolve
    from dgpo_cli.doctor import doctor as workflow

    def changed(changes: dict[str, object]) -> Resolved:
        more: dict[str, tuple[str, Any]] = {k: ("dgpo doctor", v) for k, v in changes.items()}
        return resolve(preset=preset, config=config, overrides=overrides or (), flags=more)

    chosen = preset is not None or config is not None
    findings = workflow.run(changed if chosen else None)
    from dgpo_cli.doctor import table as report
    from dgpo_cli.ui import ramp

    if as_json:
        console.say_json(report.to_json(findings))
    else:
        console.show(report.render(findings, color=ramp.depth_of(console.stdout())))
    if any(finding.state == "fail" for finding in findings):
        raise typer.Exit(CANNOT_RUN)
    if not as_json:
        named = ["--config", config] if config is not None else ["--preset", preset or "tiny"]
        console.suggest(["train", *named])
