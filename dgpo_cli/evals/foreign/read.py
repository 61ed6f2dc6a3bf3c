"""Tells logs of other programs from evaluations of dgpo, and reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dgpo_cli.core import io
from dgpo_cli.core.codec import parsed
from dgpo_cli.core.errors import DataError
from dgpo_cli.core.numbers import size
from dgpo_cli.evals.foreign import inspect_ai, lighteval
from dgpo_cli.evals.foreign.log import ForeignLog

_MOST_JSON = 2**30  # bytes
_ZIP, _PARQUET = b"PK\x03\x04", b"PAR1"


def read_log(path: Path) -> ForeignLog | None:
    """Read a log of inspect_ai (.eval, .json) or lighteval (details .parquet, results .json).

    Returns None for JSON of another kind.

    Raises:
        DataError: it is a log, and damaged, too large, of another version or empty.
    """
    with path.open("rb") as file:
        start = file.read(4)
    if start == _ZIP or path.suffix == ".eval":
        return inspect_ai.read_zip(path)
    if start == _PARQUET or path.suffix == ".parquet":
        return lighteval.read_details(path)
    if (found := path.stat().st_size) > _MOST_JSON:
        raise DataError(f"{path}: {size(found)} are too large to be read as one JSON object")
    # NaN, which stands for "not scored", is null: it is not a verdict.
    return _of_json(parsed(io.read_bytes(path), where=str(path), constants=False), path=path)


def _of_json(data: Any, *, path: Path) -> ForeignLog | None:
    if not isinstance(data, dict):
        return None
    if isinstance(data.get("eval"), dict):
        return inspect_ai.read_json(data, path=path)
    if isinstance(data.get("config_general"), dict):
        return lighteval.read_results(data, path=path)
    return None
