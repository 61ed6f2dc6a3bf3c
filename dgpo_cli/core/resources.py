"""Finds presets/ and data/, in a wheel and in a checkout alike."""

from __future__ import annotations

from pathlib import Path
from typing import Literal


def resource_dir(name: Literal["presets", "data"]) -> Path:
    """Return the folder `name` that comes with dgpo.

    A wheel has it in the package as _presets or _data; a checkout has it next to the package.
    """
    package = Path(__file__).resolve().parents[1]
    inside = package / f"_{name}"
    return inside if inside.is_dir() else package.parent / name
