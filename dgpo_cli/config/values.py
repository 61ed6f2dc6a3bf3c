"""Values of a layer: typed as their settings are; tables and lists of tables entry by entry.

A list of tables is held as a list of dictionaries. A layer that gives a list replaces the one
below. A layer that gives a table reaches into it: its names are positions from 0, or the names of
entries, and the position after the last one adds an entry.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from dgpo_cli.config import explain
from dgpo_cli.config.layers import Argument
from dgpo_cli.config.tree import Choice, Model, arms, entry, is_table, section

Table = dict[str, Any]


def typed(known: FieldInfo, value: Any) -> Any:
    """Return a value as TOML parsed it, or as the text that was typed.

    Nothing after the "=" unsets a setting that may be unset. Pydantic reads true as 1, so a bool
    for a number stays text, which it refuses.
    """
    plain = arms(known.annotation)
    if not isinstance(value, Argument):
        misplaced = isinstance(value, bool) and not {bool, str} & set(plain)
        return str(value).lower() if misplaced else value
    if value.raw == "" and type(None) in plain:
        return None
    adapter: TypeAdapter[Any] = TypeAdapter(known.annotation or Any)
    for candidate in (value.parsed, value.raw):
        if isinstance(candidate, bool) and bool not in plain:
            continue
        try:
            adapter.validate_python(candidate)
        except ValidationError:
            continue
        return candidate
    return value.parsed if isinstance(value.parsed, list) else value.raw


def with_entries(below: Mapping[str, Any] | None, given: Mapping[str, Any]) -> Table:
    """Put a layer's entries of a table on those below; nothing after the "=" removes one."""
    entries = dict(below or {})
    for name, value in given.items():
        if _is_nothing(value):
            entries.pop(name, None)
        else:
            entries[name] = parsed(value)
    return entries


def _is_nothing(value: Any) -> bool:
    return isinstance(value, Argument) and value.raw == ""


def parsed(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: parsed(each) for name, each in value.items()}
    return value.parsed if isinstance(value, Argument) else value


@dataclass(slots=True)
class Lists:
    """Puts lists of tables of the layer `source` on those below.

    errors, notes: where a line goes for each thing that is wrong, or dropped.
    """

    source: str
    errors: list[str]
    notes: list[str]

    def put(self, key: str, known: FieldInfo, given: Any, *, below: Sequence[Table]) -> list[Table]:
        """Return the list `key` with what the layer gives."""
        inner = entry(known)
        assert inner is not None
        if isinstance(given, Mapping):
            return self._reached(key, inner, given, below=below)
        tables = [] if _is_nothing(given) else parsed(given)
        if not isinstance(tables, list | tuple) or not all(isinstance(t, Mapping) for t in tables):
            self.errors.append(explain.not_tables(key, value=tables, source=self.source))
            return list(below)
        found = [self._table(f"{key}.{at}", inner, each, {}) for at, each in enumerate(tables)]
        return [each for each in found if each]

    def _reached(
        self, key: str, inner: Model | Choice, given: Mapping[str, Any], *, below: Sequence[Table]
    ) -> list[Table]:
        """Return the list with changes of single entries."""
        found, gone = list(below), set()
        for name, value in given.items():
            at = self._position(key, name, inner, value, found)
            if at is None:
                continue
            here = f"{key}.{at}"
            if at < len(found) and _is_nothing(value):
                gone.add(at)
            elif not isinstance(value, Mapping):
                names = [inner.tag] if isinstance(inner, Choice) else list(inner.model_fields)
                self.errors.append(
                    explain.not_a_section(here, value=value, source=self.source, inner=names)
                )
            elif at < len(found):
                found[at] = self._table(here, inner, value, found[at])
            elif new := self._table(here, inner, value, {}):
                found.append(new)
        return [each for at, each in enumerate(found) if at not in gone]

    def _position(
        self, key: str, name: str, inner: Model | Choice, value: Any, tables: Sequence[Table]
    ) -> int | None:
        names = [name_of(inner, each) for each in tables]
        if name in names:
            return names.index(name)
        if name.isdecimal() and int(name) <= len(tables):
            return int(name)
        fields = {each for model in _models(inner) for each in model.model_fields}
        if name in fields:
            line = explain.which_entry(key, name=name, source=self.source)
        else:
            # The whole of what was typed, as in reward.terms.lenght.weight.
            more = f".{next(iter(value))}" if isinstance(value, Mapping) and value else ""
            line = explain.no_entry(f"{key}.{name}{more}", key=key, source=self.source, names=names)
        self.errors.append(line)
        return None

    def _table(
        self, key: str, inner: Model | Choice, given: Mapping[str, Any], below: Table
    ) -> Table:
        """Return the table `key` with a layer's fields; of an unknown kind, as it was."""
        found = dict(below)
        model = inner if not isinstance(inner, Choice) else self._variant(key, inner, given, found)
        if model is None:
            return found
        for name, value in given.items():
            known = model.model_fields.get(name)
            if known is None:
                self.errors.append(self._unknown(key, name, inner, tag_of(inner, found)))
            elif (part := section(known)) is not None and isinstance(value, Mapping):
                found[name] = self._table(f"{key}.{name}", part, value, found.get(name) or {})
            elif entry(known) is not None:
                below_it = found.get(name) or ()
                found[name] = self.put(f"{key}.{name}", known, value, below=below_it)
            elif is_table(known) and isinstance(value, Mapping):
                found[name] = with_entries(found.get(name), value)
            else:
                found[name] = typed(known, value)
        return found

    def _variant(
        self, key: str, choice: Choice, given: Mapping[str, Any], found: Table
    ) -> Model | None:
        """Return the model of a table, and drop from it what a new variant lacks."""
        before, tag = found.get(choice.tag), given.get(choice.tag, found.get(choice.tag))
        tag = tag.raw if isinstance(tag, Argument) else tag
        model = choice.variants.get(tag) if isinstance(tag, str) else None
        if model is None:
            line = explain.unknown_tag if tag is not None else explain.no_tag
            self.errors.append(line(f"{key}.{choice.tag}", value=tag, choice=choice))
            return None
        if before not in (None, tag):
            self._drop(key, choice, model, found, tag=str(tag))
        found[choice.tag] = tag
        return model

    def _drop(self, key: str, choice: Choice, model: Model, found: Table, *, tag: str) -> None:
        fields = choice.variants[found[choice.tag]].model_fields
        lost = []
        for name in [name for name in found if name not in model.model_fields]:
            if found.pop(name) != fields[name].get_default():
                lost.append(f"{key}.{name}")
        if lost:
            self.notes.append(
                explain.dropped(lost, source="a lower layer", tag=f"{choice.tag} {tag}")
            )

    def _unknown(self, key: str, name: str, inner: Model | Choice, tag: str) -> str:
        owners = [m for m in _models(inner) if name in m.model_fields]
        if owners and isinstance(inner, Choice):
            return explain.key_of_another_variant(
                f"{key}.{name}", source=self.source, prefix=key, tag=tag, choice=inner
            )
        known = [each for model in _models(inner) for each in model.model_fields]
        return explain.unknown_field(f"{key}.{name}", source=self.source, known=known)


def _models(inner: Model | Choice) -> list[Model]:
    return list(inner.variants.values()) if isinstance(inner, Choice) else [inner]


def tag_of(inner: Model | Choice, table: Mapping[str, Any]) -> str:
    return str(table.get(inner.tag, "")) if isinstance(inner, Choice) else ""


def name_of(inner: Model | Choice, table: Mapping[str, Any]) -> str:
    """Return the name by which an entry can be reached: its field `name`, or what it becomes."""
    if given := table.get("name"):
        return str(given)
    model = inner.variants.get(tag_of(inner, table)) if isinstance(inner, Choice) else inner
    if model is None or "name" not in model.model_fields:
        return ""
    try:
        return str(getattr(model.model_validate(table), "name", "") or "")
    except ValidationError:
        return ""
