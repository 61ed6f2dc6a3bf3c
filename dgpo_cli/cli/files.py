"""Files that a command writes on request: whole or not at all, with the option that named them."""

from __future__ import annotations

from pathlib import Path

from dgpo_cli.cli import console
from dgpo_cli.errors import ConfigError


def write(flag: str, path: Path, content: bytes) -> None:
    """Write a file.

    Raises:
        ConfigError: it cannot be written.
    """
    from dgpo_cli.models.checkpoint import atomic_bytes

    try:
        with atomic_bytes(path) as file:
            file.write(content)
    except OSError as error:
        raise ConfigError(f"{flag}={path}: {error.strerror or error}") from error


def write_png(path: Path, drawing: str) -> None:
    """Write an SVG of our own as PNG, and say which of its characters became boxes.

    Raises:
        ConfigError: it cannot be written, or this machine cannot draw it.
        DataError: the picture would be too large.
    """
    from dgpo_cli.report.png import lacking, lacking_note, svg_to_png

    write("--png", path, svg_to_png(drawing))
    if boxes := lacking(drawing):
        console.note(lacking_note(boxes))
