"""The presets that come with dgpo: list, read, copy. Standard library only, for speed."""

from __future__ import annotations

import difflib
import tomllib
from dataclasses import dataclass
from pathlib import Path

from dgpo_cli.core.errors import ConfigError
from dgpo_cli.core.io import write_new
from dgpo_cli.core.resources import resource_dir


@dataclass(frozen=True, slots=True)
class PresetInfo:
    """The name of a preset, its purpose in one line, and the devices that it is meant for.

    hardware: as `dgpo plan --gpu` names it; None: any device.
    """

    name: str
    description: str
    hardware: str | None
    gpus: int


def preset_names() -> tuple[str, ...]:
    """Return the names of all presets, sorted."""
    return tuple(sorted(path.stem for path in resource_dir("presets").glob("*.toml")))


def list_presets() -> tuple[PresetInfo, ...]:
    """Return all presets with their descriptions, sorted by name."""
    return tuple(_info(name) for name in preset_names())


def _info(name: str) -> PresetInfo:
    tree = tomllib.loads(preset_text(name))
    gpus = tree.get("parallel", {}).get("gpus", 1)
    return PresetInfo(name, str(tree.get("description", "")), tree.get("hardware"), gpus)


def preset_text(name: str) -> str:
    """Return a preset's TOML with its comments. Raises ConfigError if there is none."""
    names = preset_names()
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ConfigError(f"preset {name}: unknown; {hint}presets: {', '.join(names)}")
    return (resource_dir("presets") / f"{name}.toml").read_text(encoding="utf-8")


def copy_preset(name: str, destination: Path) -> Path:
    """Copy a preset to a file, or into a folder under its own name, and return that file.

    Raises ConfigError if there is no such preset, the file exists, its folder does not, or it
    cannot be written.
    """
    text = preset_text(name)
    target = destination / f"{name}.toml" if destination.is_dir() else destination
    if not target.parent.is_dir():
        raise ConfigError(f"{target}: no folder {target.parent}; create it first")
    write_new(target, text, what=str(target))
    return target
