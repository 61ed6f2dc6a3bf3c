"""Writes resolved settings: as TOML for the run folder, as rows for --dry-run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from dgpo_cli.config.load import DEFAULT, Resolved
from dgpo_cli.config.tree import flatten, is_list_of_tables, spread
from dgpo_cli.core.errors import without_logins
from dgpo_cli.core.refusal import shown


class SettingRow(NamedTuple):
    """One setting as --dry-run shows it. leaf: the list of tables that it is in, else its key."""

    key: str
    value: str
    source: str
    leaf: str


def storable(value: Any) -> Any:
    """Return a value for a file: a list for a tuple, nothing unset, no address with a password."""
    if isinstance(value, tuple):
        return [storable(each) for each in value]
    if isinstance(value, dict):
        return {name: storable(each) for name, each in value.items() if each is not None}
    return without_logins(value) if isinstance(value, str) else value


def describe(resolved: Resolved) -> list[SettingRow]:
    """Return every setting with its value and its layer, in the order of the tree."""
    return [
        SettingRow(key, "(unset)" if value is None else shown(value), resolved.sources[leaf], leaf)
        for leaf, whole in flatten(resolved.settings).items()
        for key, value in spread({leaf: whole}).items()
    ]


def dump_toml(resolved: Resolved, *, code: Mapping[str, str] | None = None) -> str:
    """Return all settings as TOML that resolves to equal settings.

    A comment names the layer of each value that is not a default. Unset values are left out.

    code: sha256 of the user's own code by file, for the table that no setting is read from.
    """
    import tomlkit

    document = tomlkit.document()
    for key, value in flatten(resolved.settings).items():
        if value is None:
            continue
        *path, name = key.split(".")
        table: tomlkit.TOMLDocument | tomlkit.items.Table = document
        for part in path:
            if part not in table:
                table.add(part, tomlkit.table())
            inner = table[part]
            assert isinstance(inner, tomlkit.items.Table)
            table = inner
        item = _item(storable(value))
        if resolved.sources[key] != DEFAULT:
            _first(item).comment(f"from {resolved.sources[key]}")
        table.add(name, item)
    if code:
        digests = tomlkit.table()
        digests.comment("sha256 of your own code, when the run last started")
        digests.update(code)
        document.add("code", digests)
    return tomlkit.dumps(document)


def _item(value: Any) -> Any:
    """Return a value as tomlkit writes it: a table in one line, as other values are.

    Of a list of tables, each has a [[header]] and a line a value.
    """
    import tomlkit

    if is_list_of_tables(value):
        tables = tomlkit.aot()
        for each in value:
            table = tomlkit.table()
            for name, inner in each.items():
                table.add(name, _inline(inner))
            tables.append(table)
        return tables
    return _inline(value)


def _inline(value: Any) -> Any:
    import tomlkit

    if not isinstance(value, dict):
        return tomlkit.item(value)
    table = tomlkit.inline_table()
    table.update(value)
    return table


def _first(item: Any) -> Any:
    """Return the item that has the comment: of a list of tables, the first."""
    from tomlkit.items import AoT

    return item[0] if isinstance(item, AoT) else item


def with_stored_sources(resolved: Resolved, file: Path) -> Resolved:
    """Return settings of a file with the layers that `dump_toml` wrote as their sources.

    A value without a comment is a default; other comments are ignored.
    """
    import tomlkit

    document: Any = tomlkit.parse(file.read_text(encoding="utf-8-sig"))
    sources = dict(resolved.sources)
    for key in [key for key, source in sources.items() if source == f"file {file}"]:
        item = document
        for part in key.split("."):
            item = item.item(part) if hasattr(item, "item") else item[part]
        trivia = getattr(_first(item), "trivia", None)  # tomlkit may hand out a bare bool
        comment = trivia.comment.lstrip("# ") if trivia is not None else "unknown"
        if not comment or comment.startswith("from "):
            sources[key] = comment.removeprefix("from ") or DEFAULT
    return replace(resolved, sources=sources)
