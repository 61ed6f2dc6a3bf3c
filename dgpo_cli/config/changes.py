"""Differences between settings, and the name of a run by its differences from a recipe."""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dgpo_cli.config.dump import dump_toml
from dgpo_cli.config.load import DEFAULT, Resolved
from dgpo_cli.config.settings import Settings
from dgpo_cli.config.tree import (
    Leaf,
    change_of,
    entry_change_of,
    flatten,
    is_list_of_tables,
    leaves_of,
    spread,
)
from dgpo_cli.core.own_code import is_spec
from dgpo_cli.core.refusal import shown
from dgpo_cli.core.schema import Change
from dgpo_cli.core.types import SettingChange
from dgpo_cli.prompts.settings import MixturePrompts, RowFields

TAGS = ("kind", "rule")  # leaves that choose the variant of a section
_LONGEST = 64  # characters that a run's name may add to its recipe's
_LONGEST_VALUE = 24  # of one value in them
_NO_NAMES = ("", "none", "auto", "off", "on")  # meaningless without their setting


@dataclass(frozen=True, slots=True)
class SettingDifference:
    """A setting with two values, each as TOML holds it; None: unset, or the variant has none.

    change: what it means for a run that has begun. learnt: it affects what the run learns.
    """

    setting: str
    old: Any
    new: Any
    change: Change
    learnt: bool


def differences(old: Resolved, new: Resolved) -> tuple[SettingDifference, ...]:
    """Return the settings that differ, in the order of the tree.

    If a section has another variant, settings that only one of the variants has are left out if
    they have their default.
    """
    before, after = written(old), written(new)
    in_old, in_new = flatten(old.settings).keys(), flatten(new.settings).keys()
    found = []
    leaves = leaves_of(old.settings, new.settings)
    for key in dict.fromkeys([*leaves, *in_old]):  # what stands in for own code has no leaves
        x, y = before.get(key), after.get(key)
        one_sided = (key in in_old) != (key in in_new)
        if x != y and not (one_sided and _is_default(leaves.get(key, ()), y if x is None else x)):
            change = _change(key, new.settings)
            if is_list_of_tables(x) and is_list_of_tables(y) and _only_free(key, x, y):
                change = Change.FREE
            # More steps are always allowed, but they change a learning rate schedule.
            ends = key == "train.steps" and new.settings.optim.schedule != "constant"
            found.append(SettingDifference(key, x, y, change, ends or change != Change.FREE))
    return tuple(found)


def _change(key: str, settings: Settings) -> Change:
    prompts = settings.prompts
    if key in ("eval.bench", "eval.data") and isinstance(prompts, RowFields | MixturePrompts):
        # With drop_overlap the benchmark's problems are left out of the prompts.
        return Change.FIXED if prompts.drop_overlap else Change.FREE
    return change_of(key)


def _only_free(key: str, old: Sequence[Any], new: Sequence[Any]) -> bool:
    """Whether two lists of tables differ only in fields that may change."""
    if len(old) != len(new):
        return False
    names = {name.split(".")[2] for name, *_ in parts_of("", old, new)}  # of ".0.weight"
    return all(entry_change_of(key, name) == Change.FREE for name in names)


def written(resolved: Resolved) -> dict[str, Any]:
    """Return the leaves as a settings file has them, without unset ones."""
    keys = flatten(resolved.settings).keys()
    return dict(_leaves(tomllib.loads(dump_toml(resolved)), keys))


def _leaves(
    tree: Mapping[str, Any], keys: Collection[str], prefix: str = ""
) -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict) and f"{prefix}{key}" not in keys:
            yield from _leaves(value, keys, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _is_default(leaves: Sequence[Leaf], value: Any) -> bool:
    defaults = [leaf.field.get_default() for leaf in leaves]
    return value in [list(each) if isinstance(each, tuple) else each for each in defaults]


def value_text(value: Any) -> str:
    """Return a value as it would be set, or "unset"."""
    return "unset" if value is None else shown(value)


def parts_of(setting: str, old: Any, new: Any) -> list[tuple[str, Any, Any]]:
    """Return what differs between two values: of lists of tables as long, the fields."""
    if not (is_list_of_tables(old) and is_list_of_tables(new) and len(old) == len(new)):
        return [(setting, old, new)]
    before, after = spread({setting: old}), spread({setting: new})
    keys = dict.fromkeys([*before, *after])
    return [(k, before.get(k), after.get(k)) for k in keys if before.get(k) != after.get(k)]


def change_text(change: SettingChange) -> str:
    """Return a change within a run in one line."""
    parts = [
        f"{setting} {value_text(old)} -> {value_text(new)}"
        for setting, old, new in parts_of(change.setting, change.old, change.new)
    ]
    return f"{', '.join(parts)} after step {change.step}"


def run_name(name: str, *, recipe: Resolved, resolved: Resolved) -> str:
    """Return `name` and the differences from `recipe` that affect learning: tiny-uniform.

    Only letters, digits and ._- are added. A name that gets too long ends in a hash of all the
    differences.
    """
    here = flatten(resolved.settings).keys()
    found = [
        each
        for each in differences(recipe, resolved)
        if each.change != Change.FREE
        and each.setting in here
        and resolved.sources[each.setting] != DEFAULT  # else it is another kind's
    ]
    parts = [_part(each) for each in found]
    full = "-".join([name, *parts])
    room = len(name) + _LONGEST
    if len(full) <= room:
        return full
    short = name
    for part in parts:
        if len(short) + len(part) > room - len("--12345678"):
            break
        short += f"-{part}"
    return f"{short}-{_hash([[each.setting, each.new] for each in found])}"


def _part(difference: SettingDifference) -> str:
    """Return a difference as a part of a file name: uniform, lr1e-5, dynamic_sampling."""
    key, value = difference.setting, difference.new
    *_, outer, leaf = ("", *key.split("."))
    if value is None or value is False:
        return f"no-{leaf}"
    if value is True:
        return leaf
    if isinstance(value, dict):
        return plain_name(shown(value))
    if is_list_of_tables(value):
        return f"{leaf}-{_hash(value)}"
    if not isinstance(value, str):
        text = re.sub(r"e([+-])0+(?=\d)", r"e\1", shown(value))
        return f"{leaf}-{plain_name(text)}" if leaf[-1].isdigit() else f"{leaf}{plain_name(text)}"
    if leaf in TAGS and is_spec(value):
        return f"{plain_name(value.rpartition(':')[2])}-{_hash(value)[:4]}"
    if value in _NO_NAMES:
        return f"{outer if leaf in TAGS else leaf}-{value}"
    last = re.split(r"[/:]", value.rstrip("/"))[-1]  # of a path, an id or FILE.py:FUNCTION
    if len(last) > _LONGEST_VALUE or last != plain_name(last):
        return f"{leaf}-{_hash(value)}"
    return last


def plain_name(text: str) -> str:
    """Return a text with only letters, digits and ._- in it."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip(".-")


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode("ascii")).hexdigest()[:8]
