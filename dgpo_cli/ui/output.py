"""Files that an option names: written whole or not at all."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from dgpo_cli.core import io
from dgpo_cli.core.errors import ConfigError, cannot_write
from dgpo_cli.ui import console


def asked(**files: Path | None) -> dict[str, Path]:
    """Return the options that name a file: --html for html.

    Raises:
        ConfigError: a file cannot be written, two are one, or the extra for --png is missing.
    """
    found = {f"--{name}": path for name, path in files.items() if path is not None}
    seen: dict[Path, str] = {}
    for flag, path in found.items():
        if path.is_dir():
            raise ConfigError(f"{flag}={path}: is a folder; name a file")
        if not path.absolute().parent.is_dir():
            raise ConfigError(f"{flag}={path}: no folder {path.parent}; create it first")
        other = seen.setdefault(path.absolute(), flag)
        if other != flag:
            raise ConfigError(f"{flag}={path}: {other} writes to it too; give another name")
    if "--png" in found and importlib.util.find_spec("resvg_py") is None:
        raise ConfigError("--png needs resvg-py: pip install 'dgpo-cli[png]'")
    return found


def write(flag: str, path: Path, content: bytes) -> None:
    """Write a file, or to what stands in its place, such as a pipe.

    Raises:
        DgpoError: the disk is full.
        ConfigError: it cannot be written.
    """
    try:
        if path.exists() and not path.is_file():
            with path.open("wb") as pipe:
                pipe.write(content)
        else:
            io.write(path.resolve(), content)  # a link stays a link
    except BrokenPipeError:
        raise
    except OSError as error:
        raise cannot_write(error, what=f"{flag}={path}") from error


def write_png(path: Path, drawing: str) -> None:
    """Write our own SVG as PNG, and print a note on characters that no font has.

    Raises:
        DgpoError: the disk is full.
        ConfigError: it cannot be written, or this machine cannot draw it.
        DataError: the picture would be too large.
    """
    from dgpo_cli.ui.png import lacking, lacking_note, svg_to_png

    write("--png", path, svg_to_png(drawing))
    if boxes := lacking(drawing):
        console.note(lacking_note(boxes))
