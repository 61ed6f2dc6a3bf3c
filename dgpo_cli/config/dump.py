"""Writes resolved settings: as TOML for the run folder, as rows for --dry-run."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from dgpo_cli.config.load import DEFAULT, Resolved
from dgpo_cli.config.tree import Choice, flatten, is_list_of_tables, known_leaves, spread
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


def commented_toml(resolved: Resolved, *, head: str, comments: Mapping[str, str]) -> str:
    """Return all settings as TOML for people, each with a comment; unset ones are comments too.

    Args:
        head: what the file is for; lines.
        comments: by setting; others have the first sentence of their description.
    """
    values = flatten(resolved.settings)
    lines = [*(f"# {line}".rstrip() for line in head.splitlines()), ""]
    sections: dict[str, list[str]] = {}
    for key in values:
        sections.setdefault(key.rpartition(".")[0], []).append(key)
    for section, keys in sections.items():
        if section:
            lines += ["", f"[{section}]"]
        for key in sorted(keys, key=lambda key: key.rpartition(".")[2] not in _TAGS):
            lines += _commented(key, values[key], comments.get(key) or _about(key, values))
    return "\n".join(lines) + "\n"


_TAGS = ("kind", "rule")  # which say what the other settings of a section are
_COLUMN, _WIDTH = 29, 100  # where comments begin, as in presets; and where lines end


def _commented(key: str, value: Any, about: str) -> Iterator[str]:
    """Yield the lines of a setting: its comment beside it, or above if that is too long."""
    import tomlkit

    name = key.rpartition(".")[2]
    if is_list_of_tables(value):
        yield f"# {about}"
        document = tomlkit.document()
        document.add(name, _item(storable(value)))
        yield from tomlkit.dumps(document).replace(f"[[{name}]]", f"[[{key}]]").splitlines()
        return
    text = (
        f"# {name} = ..." if value is None else f"{name} = {_inline(storable(value)).as_string()}"
    )
    if not about:
        yield text
        return
    if len(text) < _COLUMN and len(f"{text:<{_COLUMN}}# {about}") <= _WIDTH:
        yield f"{text:<{_COLUMN}}# {about}"
        return
    yield from textwrap.wrap(about, _WIDTH, initial_indent="# ", subsequent_indent="# ")
    yield text


def _about(key: str, values: Mapping[str, Any]) -> str:
    """Return the first sentence on a setting, in the variant that the values have."""
    for leaf in known_leaves().get(key, ()):  # none of a rule of the user's own
        tag, _, variant = leaf.variant.partition("=")
        if not tag or values.get(tag) == variant:
            text = leaf.field.description or "; ".join(_variants(leaf.choice))
            listed = re.match(r"[\w-]+: ", text)  # what each value does, a sentence each
            return text if listed else text.partition(". ")[0].rstrip(".")
    return ""


def _variants(choice: Choice | None) -> Iterator[str]:
    """Yield what there is to choose from, each with what it does."""
    for name, model in (choice.variants if choice is not None else {}).items():
        yield f"{name}: {(model.__doc__ or '').strip().partition('.')[0].partition(chr(10))[0]}"
