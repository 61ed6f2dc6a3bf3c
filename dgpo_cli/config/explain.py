"""Errors in settings, one line each: the value, the setting, the fix."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dgpo_cli.config.tree import Choice, known_leaves, locate
from dgpo_cli.core.own_code import SPEC_ERROR
from dgpo_cli.core.refusal import one_of, problem, shown
from dgpo_cli.core.text import cut

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic.fields import FieldInfo
    from pydantic_core import ErrorDetails


# What a section may be besides its variants.
OWN_CLASS = "a class of yours, as in my_file.py:Mine"


def unknown_key(key: str, *, source: str, beside: Iterable[str] = ()) -> str:
    """Return the error for an unknown setting, with the one that was most likely meant.

    beside: the settings of its section, which are most likely.
    """
    key = cut(key)
    near = next(iter(difflib.get_close_matches(key, list(beside), n=1)), None) or nearest_key(key)
    hint = f"did you mean {near}?" if near else "--dry-run lists all settings"
    return f"{key} ({source}): unknown setting; {hint}"


def nearest_key(key: str) -> str | None:
    """Return the known dotted name closest to `key`, by its last part or as a whole."""
    known = list(known_leaves())
    leaf = key.rpartition(".")[2]
    same_leaf = [name for name in known if name.rpartition(".")[2] == leaf]
    if same_leaf:
        return max(same_leaf, key=lambda name: _likeness(key, name))
    # A bare name is compared with last parts only: it may resemble a short section by chance.
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.75) if "." in key else []
    if near:
        return near[0]
    # Of sections with the same leaf, the first in the settings wins.
    leaves = {name.rpartition(".")[2]: name for name in reversed(known)}
    near_leaves = difflib.get_close_matches(leaf, leaves, n=1, cutoff=0.7)
    return leaves[near_leaves[0]] if near_leaves else None


def _likeness(key: str, name: str) -> float:
    return difflib.SequenceMatcher(None, key, name).ratio()


def key_of_another_variant(key: str, *, source: str, prefix: str, tag: str, choice: Choice) -> str:
    """Return the error for a setting of another variant of its section."""
    name = key.removeprefix(f"{prefix}.")
    owners = [v for v, model in choice.variants.items() if name in model.model_fields]
    return (
        f"{key} ({source}): {choice.tag} {tag} has no {name}; "
        f"set {prefix}.{choice.tag}={' or '.join(owners)}, or leave it out"
    )


def unknown_tag(key: str, *, value: object, choice: Choice, source: str = "") -> str:
    """Return the error for an unknown variant of a section."""
    text = cut(shown(value))
    own = f", or {OWN_CLASS}" if choice.own is not None else ""
    return f"{key}={text}{_origin(source)}: {one_of(text, list(choice.variants), own)}"


def _origin(source: str) -> str:
    """Return where a value is from, in parentheses; a value after --set is on the screen."""
    return f" ({source})" if source not in ("", "--set") else ""


def no_tag(key: str, *, value: object, choice: Choice) -> str:
    """Return the error for a table of a list that does not say which variant it is."""
    return f"{key}: is required; set one of {', '.join(choice.variants)}"


def not_tables(key: str, *, value: object, source: str) -> str:
    """Return the error for a value in place of a list of tables."""
    return (
        f"{key}={cut(shown(value))} ({source}): is a list of tables; write [[{key}]] in a file, or "
        f"set {key}.0, {key}.1, ..."
    )


def which_entry(key: str, *, name: str, source: str) -> str:
    """Return the error for a field of a list's tables that was given without one of them."""
    return (
        f"{key}.{name} ({source}): {key} is a list of tables; write [[{key}]] in a file, or set "
        f"{key}.0.{name}"
    )


def no_entry(typed: str, *, key: str, source: str, names: Sequence[str]) -> str:
    """Return the error for an entry that a list does not have."""
    wanted = typed.removeprefix(f"{key}.").partition(".")[0]
    has = ", ".join(f"{at} ({name})" if name else f"{at}" for at, name in enumerate(names))
    near = difflib.get_close_matches(wanted, [name for name in names if name], n=1)
    hint = f"did you mean {key}.{near[0]}?" if near else f"{key}.{len(names)} adds one"
    return f"{typed} ({source}): {key} has {f'the entries {has}' if has else 'no entry'}; {hint}"


def unknown_field(key: str, *, source: str, known: Iterable[str]) -> str:
    """Return the error for an unknown field of a list's table."""
    table, _, name = cut(key).rpartition(".")
    near = difflib.get_close_matches(name, list(known), n=1)
    listed = re.sub(r"\.\d+$", "", table)
    hint = f"did you mean {table}.{near[0]}?" if near else f"dgpo settings {listed} lists all"
    return f"{table}.{name} ({source}): unknown setting; {hint}"


def not_a_section(key: str, *, value: object, source: str, inner: Iterable[str]) -> str:
    """Return the error for a value in place of a section."""
    names = ", ".join(f"{key}.{name}" for name in inner)
    return f"{key}={cut(shown(value))} ({source}): is a section, not a value; it has {names}"


def invalid_values(
    error: ValidationError,
    *,
    sources: Mapping[str, str],
    values: Mapping[str, Any],
    run_code: bool,
) -> Iterator[str]:
    """Yield a line for each setting that pydantic refuses; values, run_code: as for locate."""
    seen: set[str] = set()
    every = error.errors(include_url=False)
    for details in every:
        # A list counts only its good entries, so that with one at fault it is too short as well.
        at = details["loc"]
        if details["type"] == "too_short" and any(
            len(other["loc"]) > len(at) and other["loc"][: len(at)] == at for other in every
        ):
            continue
        key, field = locate(details["loc"], values=values, run_code=run_code)
        if key in seen:  # each member of a union of plain types has an error
            continue
        seen.add(key)
        if details["type"] == "value_error":  # a section's own check of its settings together
            yield f"{key}: {details['ctx']['error']}"
            continue
        if details["type"] == SPEC_ERROR:
            yield f"{key}={details['msg']}"
            continue
        source = sources.get(key) or sources.get(_list_of(key), "")
        given = "" if details["type"] == "missing" else f"={cut(shown(details['input']))}"
        yield f"{key}{given}{_origin(source)}: {problem(details)}{_fix(details, field)}"


def _list_of(key: str) -> str:
    """Return the list of tables that a key is in."""
    return re.split(r"\.\d+(?:\.|$)", key, maxsplit=1)[0]


def _fix(details: ErrorDetails, field: FieldInfo | None) -> str:
    if field is None or details["type"] == "literal_error":
        return ""
    example = ""
    if not field.is_required() and field.default is not None and field.default != details["input"]:
        example = f"; set for example {shown(field.default)}"
    return f"{example} ({field.description})" if field.description else example


def dropped(keys: Sequence[str], *, source: str, tag: str, other: bool = False) -> str:
    """Return a note on settings that a new variant lacks; `tag` is "rule uniform".

    other: it has them, with another meaning.
    """
    if other:
        are = "is" if len(keys) == 1 else "are"
        return f"{', '.join(keys)} from {source} {are} dropped: {tag} has its own"
    if len(keys) == 1:
        return f"{keys[0]} from {source} is dropped: {tag} has no {keys[0].rpartition('.')[2]}"
    return f"{', '.join(keys)} from {source} are dropped: {tag} has none of them"
