"""dgpo preset: list, show and copy the recipes that come with dgpo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dgpo_cli.cli import console, options
from dgpo_cli.config import presets

app = typer.Typer(help="List, show or copy the recipes that come with dgpo.")

Destination = Annotated[
    Path, typer.Argument(help="File to write; it must not exist yet.", metavar="FILE")
]


@app.command("list")
def list_() -> None:
    """List the presets with what each is for."""
    rows = [(preset.name, preset.description) for preset in presets.list_presets()]
    console.table(rows, styles=("bold", ""))


@app.command()
def show(name: options.PresetName) -> None:
    """Print a preset: every setting, with the reason for its value."""
    console.raw(presets.preset_text(name))


@app.command()
def copy(name: options.PresetName, destination: Destination) -> None:
    """Copy a preset to a file, to change it and use it with --config."""
    target = presets.copy_preset(name, destination)
    console.say(f"{target}: use it with dgpo train --config {target}")
