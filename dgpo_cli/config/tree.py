"""The tree of settings by its types: sections, variants with their tags, dotted leaf names."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeGuard, Union

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from dgpo_cli.config.settings import Settings
from dgpo_cli.core.own_code import OwnVariant, is_spec
from dgpo_cli.core.schema import Change

Model = type[BaseModel]


@dataclass(frozen=True, slots=True)
class Choice:
    """A section with variants, chosen by the value of its leaf `tag`.

    own: how classes of the user's own become variants; None: they cannot.
    """

    tag: str
    variants: Mapping[str, Model]
    own: OwnVariant | None = None

    def variant(self, tag: object, *, run_code: bool = True) -> Model | None:
        """Return the variant of a tag, None if there is none.

        run_code: whether the user's own code may run; else a class stands in that has any fields.

        Raises:
            ConfigError: the tag names code of the user's own that cannot be a variant.
        """
        if not isinstance(tag, str) or self.own is None or not is_spec(tag):
            return self.variants.get(tag) if isinstance(tag, str) else None
        return self.own.load(tag) if run_code else self.own.stand_in(tag)


def section(field: FieldInfo) -> Model | Choice | None:
    """Return the model of a field, its choice of models, or None for a plain value."""
    annotation = field.annotation
    if isinstance(field.discriminator, str):
        tag = field.discriminator
        models = [m for m in typing.get_args(annotation) if is_model(m)]
        own = next((mark for mark in field.metadata if isinstance(mark, OwnVariant)), None)
        return Choice(tag, {name: m for m in models for name in tag_values(m, tag)}, own)
    return annotation if is_model(annotation) else None


def is_model(annotation: object) -> TypeGuard[Model]:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def tag_values(model: Model, tag: str) -> tuple[str, ...]:
    """Return the values of the literal field `tag`, as in `kind: Literal["lora"]`."""
    return typing.get_args(model.model_fields[tag].annotation)


def arms(annotation: object) -> tuple[object, ...]:
    """Return the members of a union of plain types, or the type itself."""
    if typing.get_origin(annotation) in (Union, types.UnionType):
        return typing.get_args(annotation)
    return (annotation,)


def is_table(field: FieldInfo) -> bool:
    """Whether a field is a table whose names are the user's."""
    return any(typing.get_origin(arm) is dict for arm in arms(field.annotation))


def entry(field: FieldInfo) -> Model | Choice | None:
    """Return what each table of a list of tables is; None for any other field."""
    if getattr(field.annotation, "__origin__", None) is not tuple:  # every leaf is asked
        return None
    return section(FieldInfo.from_annotation(typing.get_args(field.annotation)[0]))


@dataclass(frozen=True, slots=True)
class Leaf:
    """A setting in one variant of its section.

    variant: such as credit.rule=dgpo; "" if the section has no variants.
    choice: the section whose tag this is, else None.
    change: what a change means for a run that has begun.
    """

    field: FieldInfo
    model: Model
    variant: str
    choice: Choice | None
    change: Change

    @property
    def is_own(self) -> bool:
        """Whether its variant is a class of the user's own."""
        return is_spec(self.variant)


@cache
def known_leaves() -> Mapping[str, tuple[Leaf, ...]]:
    """Map every dotted leaf name to its variants, in the order of the tree."""
    found: dict[str, tuple[Leaf, ...]] = {}
    for key, leaf in _leaves(Settings, "", change=Change.LEARNT):
        found[key] = (*found.get(key, ()), leaf)
    return found


def _leaves(
    model: Model, prefix: str, *, change: Change, variant: str = "", choice: Choice | None = None
) -> Iterator[tuple[str, Leaf]]:
    for name, field in model.model_fields.items():
        key = f"{prefix}{name}"
        own = next((mark for mark in field.metadata if isinstance(mark, Change)), change)
        match section(field):
            case None:
                is_tag = choice is not None and name == choice.tag
                yield key, Leaf(field, model, variant, choice if is_tag else None, own)
            case Choice(tag=tag, variants=variants) as inner:
                for value, each in variants.items():
                    here = f"{key}.{tag}={value}"
                    yield from _leaves(each, f"{key}.", change=own, variant=here, choice=inner)
            case inner_model:
                yield from _leaves(inner_model, f"{key}.", change=own, variant=variant)


def leaves_of(*trees: Settings) -> Mapping[str, tuple[Leaf, ...]]:
    """Return `known_leaves` and those of variants of the user's own in these settings."""
    found = dict(known_leaves())
    for settings in trees:
        for name, field in type(settings).model_fields.items():
            choice, value = section(field), getattr(settings, name)
            if not isinstance(choice, Choice) or choice.own is None or not choice.own.is_own(value):
                continue
            here = f"{name}.{choice.tag}={getattr(value, choice.tag)}"
            for key, leaf in _leaves(
                type(value), f"{name}.", change=Change.LEARNT, variant=here, choice=choice
            ):
                found[key] = (*found.get(key, ()), leaf)
    return found


def change_of(key: str) -> Change:
    """Return what a change of the setting `key` means for a run that has begun.

    If variants of its section differ, the strictest counts.
    """
    return max((leaf.change for leaf in known_leaves().get(key, ())), default=Change.LEARNT)


def entry_change_of(key: str, name: str) -> Change:
    """Return what a change of the field `name` of the tables of a list `key` means.

    If kinds of tables differ, the strictest counts.
    """
    found = []
    for leaf in known_leaves().get(key, ()):
        node = entry(leaf.field)
        kinds = node.variants.values() if isinstance(node, Choice) else (node,)
        for field in (each.model_fields.get(name) for each in kinds if each is not None):
            if field is not None:
                marks = (mark for mark in field.metadata if isinstance(mark, Change))
                found.append(next(marks, leaf.change))
    return max(found, default=change_of(key))


def flatten(settings: BaseModel, prefix: str = "") -> dict[str, Any]:
    """Return the dotted leaves of settings with their values, in the order of the tree.

    A list of tables is one leaf, a tuple of dictionaries.
    """
    leaves: dict[str, Any] = {}
    for name in (*type(settings).model_fields, *(settings.model_extra or ())):
        value = getattr(settings, name)
        if isinstance(value, BaseModel):
            leaves |= flatten(value, f"{prefix}{name}.")
        elif isinstance(value, tuple) and value and isinstance(value[0], BaseModel):
            leaves[f"{prefix}{name}"] = tuple(each.model_dump() for each in value)
        else:
            leaves[f"{prefix}{name}"] = value
    return leaves


def is_list_of_tables(value: object) -> TypeGuard[Sequence[dict[str, Any]]]:
    return isinstance(value, list | tuple) and bool(value) and isinstance(value[0], dict)


def spread(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Return leaves with the fields of each table of a list: reward.terms.0.weight."""
    found: dict[str, Any] = {}
    for key, value in leaves.items():
        if not is_list_of_tables(value):
            found[key] = value
            continue
        for at, table in enumerate(value):
            found |= spread({f"{key}.{at}.{name}": each for name, each in table.items()})
    return found


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


def locate(
    loc: tuple[int | str, ...], *, values: Mapping[str, Any], run_code: bool = True
) -> tuple[str, FieldInfo | None]:
    """Return the dotted leaf and the field of an error location of pydantic.

    A location also contains the tags of unions, but for variants of the user's own, and positions
    inside a value.

    values: by dotted leaf; they name those variants. run_code: as for Choice.variant.
    """
    node: Model | Choice | None = Settings
    path: list[str] = []
    field: FieldInfo | None = None
    listed: Model | Choice | None = None
    for part in loc:
        if isinstance(part, int) and listed is not None:
            path.append(str(part))
            node, listed = listed, None
            continue
        if isinstance(node, Choice) and part in node.variants:
            node = node.variants[str(part)]
            continue
        if isinstance(node, Choice):
            tag = values.get(f"{'.'.join(path)}.{node.tag}")
            node = node.variant(tag, run_code=run_code)
        if node is not None and part in node.model_fields:
            field = node.model_fields[str(part)]
            path.append(str(part))
            node, listed = section(field), entry(field)
        else:
            break
    return ".".join(path), field
