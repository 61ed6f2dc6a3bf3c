"""tuned.json: what the search for a variant tried and chose, with the scores."""

from __future__ import annotations

from pathlib import Path

from dgpo_cli.core import io
from dgpo_cli.core.codec import encoded, parsed
from dgpo_cli.core.formats import TUNED
from dgpo_cli.core.types import Tuned


def read_tuned(path: Path) -> Tuned | None:
    """Read the result of a search; None before its end.

    Raises:
        DataError: the file is broken.
    """
    if not path.exists():
        return None
    return TUNED.read(parsed(io.read_bytes(path), where=str(path)), where=str(path))


def write_tuned(path: Path, tuned: Tuned) -> None:
    """Write the result of a search in one piece."""
    path.parent.mkdir(parents=True, exist_ok=True)
    io.write(path, encoded(TUNED.dump(tuned), indent=2) + "\n")
