"""Walks the tree of settings by its types: sections, unions with their tags, dotted leaf names.

Every other file of this folder asks here what exists; nothing is listed twice.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Union

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from dgpo_cli.config.settings import Settings
from dgpo_cli.core.schema import Change

Model = type[BaseModel]


@dataclass(frozen=True, slots=True)
class Choice:
    """A section with variants: the value of its leaf `tag` says which one it is."""

    tag: str
    variants: Mapping[str, Model]


def section(field: FieldInfo) -> Model | Choice | None:
    """Return what a field holds: a model, a choice of models, or None for a plain value."""
    annotation = field.annotation
    if isinstance(field.discriminator, str):
        tag = field.discriminator
        models = [m for m in typing.get_args(annotation) if is_model(m)]
        return Choice(tag, {name: m for m in models for name in tag_values(m, tag)})
    return annotation if is_model(annotation) else None


def is_model(annotation: object) -> typing.TypeGuard[Model]:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def tag_values(model: Model, tag: str) -> tuple[str, ...]:
    """Return the values of the literal field `tag`, as in `kind: Literal["lora"]`."""
    return typing.get_args(model.model_fields[tag].annotation)


def arms(annotation: object) -> tuple[object, ...]:
    """Return the members of a union of plain types, or the one type that it is."""
    if typing.get_origin(annotation) in (Union, types.UnionType):
        return typing.get_args(annotation)
    return (annotation,)


@cache
def known_leaves() -> Mapping[str, tuple[FieldInfo, ...]]:
    """Map every dotted leaf name of every variant to its fields, in the order of the tree."""
    found: dict[str, tuple[FieldInfo, ...]] = {}
    for key, field in _leaves(Settings, ""):
        found[key] = (*found.get(key, ()), field)
    return found


def _leaves(model: Model, prefix: str) -> Iterator[tuple[str, FieldInfo]]:
    for name, field in model.model_fields.items():
        key = f"{prefix}{name}"
        match section(field):
            case None:
                yield key, field
            case Choice(variants=variants):
                for variant in variants.values():
                    yield from _leaves(variant, f"{key}.")
            case inner:
                yield from _leaves(inner, f"{key}.")


def change_of(key: str) -> Change:
    """Return what changing the setting `key`, a dotted leaf, means for a run that has begun."""
    return _changes().get(key, Change.LEARNT)


@cache
def _changes() -> Mapping[str, Change]:
    """Map every dotted leaf to its mark; where variants of a section differ, to the strictest."""
    found: dict[str, Change] = {}
    for key, change in _marks(Settings, "", Change.LEARNT):
        found[key] = max(change, found.get(key, change))
    return found


def _marks(model: Model, prefix: str, outer: Change) -> Iterator[tuple[str, Change]]:
    for name, field in model.model_fields.items():
        key = f"{prefix}{name}"
        mark = next((mark for mark in field.metadata if isinstance(mark, Change)), outer)
        match section(field):
            case None:
                yield key, mark
            case Choice(variants=variants):
                for variant in variants.values():
                    yield from _marks(variant, f"{key}.", mark)
            case inner:
                yield from _marks(inner, f"{key}.", mark)


def flatten(settings: BaseModel, prefix: str = "") -> dict[str, Any]:
    """Return the dotted leaves of settings with their values, in the order of the tree."""
    leaves: dict[str, Any] = {}
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, BaseModel):
            leaves |= flatten(value, f"{prefix}{name}.")
        else:
            leaves[f"{prefix}{name}"] = value
    return leaves


def nest(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Turn dotted leaves into nested dictionaries: the inverse of `flatten`."""
    tree: dict[str, Any] = {}
    for key, value in leaves.items():
        *path, last = key.split(".")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[last] = value
    return tree


def locate(loc: tuple[int | str, ...]) -> tuple[str, FieldInfo | None]:
    """Return the dotted leaf, and its field, that pydantic's error location points into.

    Pydantic puts the tags of unions and positions inside a value into the location as well.
    """
    node: Model | Choice | None = Settings
    path: list[str] = []
    field: FieldInfo | None = None
    for part in loc:
        if isinstance(node, Choice):
            node = node.variants.get(str(part))
        elif node is not None and part in node.model_fields:
            field = node.model_fields[str(part)]
            path.append(str(part))
            node = section(field)
        else:
            break
    return ".".join(path), field
