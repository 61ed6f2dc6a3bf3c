"""Reads one layer of settings: a TOML file, a preset, --set arguments, flags."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dgpo_cli.config.presets import preset_text
from dgpo_cli.core.errors import ConfigError

_DEEPEST = 16  # levels of tables; settings have four


@dataclass(frozen=True, slots=True)
class Argument:
    """A value typed after --set: `parsed` as TOML where it can be, else the same as `raw`."""

    raw: str
    parsed: Any

    def __str__(self) -> str:
        return self.raw


@dataclass(frozen=True, slots=True)
class Layer:
    """Settings from one source. `name` is for the user: "preset tiny", "--seed".

    hardware: the GPU of a preset or file, as `dgpo plan --gpu` names it.
    """

    name: str
    tree: Mapping[str, Any]
    hardware: str | None = None


def preset_layer(name: str) -> Layer:
    """Read a preset. Raises ConfigError if there is none of that name."""
    return _recipe(preset_text(name), f"preset {name}")


def file_layer(path: Path) -> Layer:
    """Read a settings file. Raises ConfigError if it cannot be read or is not TOML."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text; save it as UTF-8") from error
    except OSError as error:
        reason = (error.strerror or "cannot be read").lower()
        absent = isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError)
        fix = "give a TOML file" if absent else "make it readable"
        raise ConfigError(f"{path}: {reason}; {fix}") from error
    return _recipe(text, f"file {path}")


def _recipe(text: str, name: str) -> Layer:
    try:
        tree = parse_toml(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{name}: not valid TOML: {error}") from error
    except ValueError as error:
        raise ConfigError(f"{name}: contains a whole number with too many digits") from error
    except RecursionError as error:
        raise ConfigError(f"{name}: is nested deeper than any setting") from error
    if _depth(tree) > _DEEPEST:
        raise ConfigError(f"{name}: is nested deeper than any setting")
    if isinstance(tree.get("description"), str):
        del tree["description"]  # the purpose of a preset, not a setting
    if isinstance(code := tree.get("code"), dict) and all(
        isinstance(x, str) for x in code.values()
    ):
        del tree["code"]  # digests of the user's own code, which a run writes
    hardware = tree.pop("hardware") if isinstance(tree.get("hardware"), str) else None
    return Layer(name, tree, hardware)


def _depth(tree: dict[str, Any]) -> int:
    """Return the number of levels of tables, without recursion."""
    depth, level = 0, [tree]
    while level:
        depth += 1
        level = [each for table in level for each in table.values() if isinstance(each, dict)]
    return depth


def parse_toml(text: str) -> dict[str, Any]:
    """Parse TOML; an error at the end of the file has a line number too."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        end = f"(at line {max(1, len(text.splitlines()))}, the end of the file)"
        message = str(error).replace("(at end of document)", end)
        raise tomllib.TOMLDecodeError(message) from error


def set_layers(arguments: Sequence[str]) -> list[Layer]:
    """Read the arguments of --set; the last one wins. Raises ConfigError without a '='.

    They are one layer, but that what reaches into a list of an earlier argument is above it.
    """
    trees: list[dict[str, Any]] = [{}]
    for argument in arguments:
        key, equals, raw = argument.partition("=")
        parts = [part.strip() for part in key.split(".")]
        if not equals or not all(parts):
            raise ConfigError(
                f"--set {argument}: needs the form key=value, for example --set optim.lr=1e-6"
            )
        if _reaches_into_a_list(trees[-1], parts):
            trees.append({})
        _insert(trees[-1], parts, _parse(raw.strip()))
    return [Layer("--set", tree) for tree in trees]


def _reaches_into_a_list(tree: Mapping[str, Any], parts: Sequence[str]) -> bool:
    node: Any = tree
    for part in parts:
        if isinstance(node, Argument):
            return isinstance(node.parsed, list)
        node = node.get(part) if isinstance(node, Mapping) else None
    return False


def flag_layers(flags: Mapping[str, tuple[str, Any]]) -> list[Layer]:
    """Return a layer for each flag; `flags` maps dotted leaves to the flag's name and value."""
    return [dotted_layer(name, {key: value}) for key, (name, value) in flags.items()]


def dotted_layer(name: str, values: Mapping[str, Any]) -> Layer:
    """Make a layer of values by dotted leaf."""
    tree: dict[str, Any] = {}
    for key, value in values.items():
        _insert(tree, key.split("."), value)
    return Layer(name, tree)


def _insert(tree: dict[str, Any], parts: Sequence[str], value: Any) -> None:
    node = tree
    for part in parts[:-1]:
        inner = node.get(part)
        if not isinstance(inner, dict):
            inner = node[part] = {}
        node = inner
    node[parts[-1]] = value


def _parse(raw: str) -> Argument | dict[str, Any]:
    try:
        table = tomllib.loads(f"value = {raw}")
    except (ValueError, RecursionError):
        return Argument(raw, raw)
    if table.keys() != {"value"}:  # a line break let a second key in
        return Argument(raw, raw)
    value = table["value"]
    return value if isinstance(value, dict) else Argument(raw, value)
