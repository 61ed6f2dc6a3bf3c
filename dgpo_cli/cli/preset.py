"""dgpo preset: list, show and copy the presets that come with dgpo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dgpo_cli.cli import console, options
from dgpo_cli.cli.commands import Command
from dgpo_cli.cli.help import OUTPUT
from dgpo_cli.config import presets

app = typer.Typer(help="List, show or copy the presets that come with dgpo.")

Destination = Annotated[
    Path,
    typer.Argument(
        help="File to write; it must not exist yet.", metavar="FILE", rich_help_panel=OUTPUT
    ),
]


@app.command("list", cls=Command)
def list_() -> None:
    """List the presets with what each is for, and which of them this version cannot train.

    Examples:
      What is there?
        dgpo preset list
    """
    from dgpo_cli.config.checks import not_built
    from dgpo_cli.config.load import resolve

    def row(preset: presets.PresetInfo) -> tuple[str, str, str]:
        missing = not_built(resolve(preset=preset.name).settings)
        lacks = f"not in this version: {', '.join(missing)}" if missing else ""
        return preset.name, preset.description, lacks

    console.table([row(preset) for preset in presets.list_presets()], styles=("bold", "", "yellow"))
    console.suggest(["preset", "show", "tiny"], ["train", "--preset", "tiny"])


@app.command(cls=Command)
def show(name: options.PresetName) -> None:
    """Print a preset: every setting, with the reason for its value.

    Examples:
      With the reason for each value
        dgpo preset show tiny
      The settings that a paper-sized run needs
        dgpo preset show qwen32b-full
    """
    console.raw(presets.preset_text(name))


@app.command(cls=Command)
def copy(name: options.PresetName, destination: Destination) -> None:
    """Copy a preset to a file, to change it and use it with --config.

    Examples:
      To a file
        dgpo preset copy tiny mine.toml
      Into a folder, under its own name
        dgpo preset copy qwen7b-lora .
    """
    target = presets.copy_preset(name, destination)
    console.say(f"{target}: use it with dgpo train --config {target}")
