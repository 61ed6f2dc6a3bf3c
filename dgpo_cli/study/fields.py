"""Values in the file of a study: how they are checked, and named in a path. No torch here."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationError

from dgpo_cli.config.changes import plain_name
from dgpo_cli.config.tree import known_leaves
from dgpo_cli.core.errors import ConfigError
from dgpo_cli.core.refusal import problem, shown
from dgpo_cli.core.schema import Whole
from dgpo_cli.core.text import cut

MANY_SEEDS = 1000  # of one study
_LISTED = 12  # names in a message
Values = dict[str, Any]  # settings by dotted name, as TOML has them


def _listed(value: Any) -> Any:
    """Read seeds = 10 as the seeds 0 to 9."""
    if type(value) is int and 1 <= value <= MANY_SEEDS:
        return list(range(value))
    if type(value) is int:
        raise ValueError(f"must be a list of seeds, or a number of them from 1 to {MANY_SEEDS}")
    return value


Seed = Annotated[Whole, Field(ge=0, lt=2**31)]
Seeds = Annotated[tuple[Seed, ...], BeforeValidator(_listed), Field(min_length=1)]


def meant(name: str, known: Sequence[str], *, otherwise: str | None = None) -> str:
    """Return which of the known names was most likely meant.

    otherwise: what to return if none is like it; None: the names, the first of many.
    """
    near = difflib.get_close_matches(name, known, n=1)
    if near:
        return f"did you mean {near[0]}?"
    more = len(known) - _LISTED
    listed = ", ".join(known[:_LISTED])
    return otherwise or f"there are {listed}{f' and {more} more' if more > 0 else ''}"


def unknown(key: str, known: Sequence[str], *, where: str) -> str:
    """Return the error for an unknown name, with the one that was most likely meant."""
    settings = {*known_leaves(), *(name.partition(".")[0] for name in known_leaves())}
    hint = meant(key, known, otherwise="settings are in [set]" if key in settings else None)
    return f"{where}: {cut(key)} is unknown; {hint}"


def filled(kind: type[Any], values: Mapping[str, Any], *, where: str) -> Any:
    """Fill a model; an error names the value and its fix."""
    known = list(kind.model_fields)
    lines = [unknown(key, known, where=where) for key in values if key not in known]
    if lines:
        raise ConfigError("\n".join(lines))
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        raise ConfigError(
            "\n".join(_wrong(kind, each, where=where) for each in error.errors(include_url=False))
        ) from error


def _wrong(kind: type[Any], details: Any, *, where: str) -> str:
    name = str(details["loc"][0]) if details["loc"] else ""
    about = kind.model_fields[name].description if name in kind.model_fields else ""
    fix = f" ({about})" if about else ""
    if details["type"] == "missing":
        return f"{where}: {name} is required{fix}"
    why = problem(details)
    if details["type"] == "value_error":
        why = str(details["ctx"]["error"])
    return f"{where}: {name}={cut(shown(details['input']))}: {why}{fix}"


def check_distinct(seeds: Sequence[int], *, where: str) -> None:
    """Refuse a seed that is listed twice."""
    twice = next((seed for at, seed in enumerate(seeds) if seed in seeds[:at]), None)
    if twice is not None:
        raise ConfigError(f"{where}: {twice} is listed twice; name each seed once")


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """Return the last part of each dotted name, or all of it where others end alike."""
    last = [key.rpartition(".")[2] for key in keys]
    return {
        key: name if last.count(name) == 1 else key for key, name in zip(keys, last, strict=True)
    }


def combined(settings: Mapping[str, Any], names: Mapping[str, str] | None = None) -> str:
    """Return a file name that shows settings: rule=dgpo,tau=0.02."""
    names = names or short_names(list(settings))
    return ",".join(f"{names[key]}={_value_name(value)}" for key, value in settings.items())


def _value_name(value: Any) -> str:
    if isinstance(value, str) and "/" in value.strip("/"):
        value = value.rstrip("/").rpartition("/")[2]
    text = re.sub(r"e([+-])0+(?=\d)", r"e\1", shown(value))
    return plain_name(text) or "none"
