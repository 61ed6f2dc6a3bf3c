"""Writes a file that must not exist yet. Standard library only."""

from __future__ import annotations

import os
from pathlib import Path

from dgpo_cli.errors import ConfigError, cannot_write


def write_new(path: Path, text: str, *, what: str) -> None:
    """Write `text` to `path`; a file that cannot be written whole is taken away again.

    what: the flag or argument as the user gave it, for errors.

    Raises:
        ConfigError: the file exists, or cannot be written.
        DgpoError: the disk is full.
    """
    try:
        with path.open("x", encoding="utf-8") as file:
            try:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                path.unlink()
                raise
    except FileExistsError as error:
        raise ConfigError(f"{what}: exists already; give another name or remove it") from error
    except OSError as error:
        raise cannot_write(error, what=what, fix="; give a file that can be written") from error
