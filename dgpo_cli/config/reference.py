"""Explains a setting: meaning, type, range, default, presets, commands, effect on resuming.

All of it comes from the settings' classes and the presets; only the commands are listed here.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pydantic.fields import FieldInfo

from dgpo_cli.config.dump import storable
from dgpo_cli.config.explain import OWN_CLASS, nearest_key
from dgpo_cli.config.load import Resolved, resolve
from dgpo_cli.config.presets import preset_names
from dgpo_cli.config.settings import Settings
from dgpo_cli.config.tree import (
    Choice,
    Leaf,
    Model,
    arms,
    change_of,
    entry,
    flatten,
    known_leaves,
    leaves_of,
    section,
)
from dgpo_cli.core.errors import ConfigError
from dgpo_cli.core.own_code import is_spec
from dgpo_cli.core.refusal import shown
from dgpo_cli.core.schema import Change

# Commands by the settings that they read: the longest matching name counts. `dgpo report`, which
# only quotes them, is left out; `dgpo doctor` reads them with --preset or --config.
_SAMPLE, _PLAN = ("train", "rollout", "eval"), ("plan", "doctor")
_USED_BY: Mapping[str, tuple[str, ...]] = {
    "seed": _SAMPLE,
    "model": (*_SAMPLE, *_PLAN, "merge"),
    "model.path": (*_SAMPLE, *_PLAN, "merge", "push"),
    "model.revision": (*_SAMPLE, *_PLAN, "merge", "push"),
    "model.compute": (*_SAMPLE, *_PLAN),
    "model.compile": ("train",),
    "model.gradient_checkpointing": ("train", *_PLAN),
    "model.trust_remote_code": (*_SAMPLE, "merge"),
    "adapter": ("train", *_PLAN, "merge"),
    "adapter.kind": ("train", "eval", *_PLAN, "merge"),
    "prompts": ("train",),
    "prompts.template": _SAMPLE,
    "prompts.system": _SAMPLE,
    "prompts.chat_template": _SAMPLE,
    "prompts.assistant_prefix": _SAMPLE,
    "prompts.max_prompt_tokens": (*_SAMPLE, *_PLAN),
    "prompts.problem_column": ("train", "rollout"),
    "prompts.answer_column": ("train", "rollout"),
    "rollout": _SAMPLE,
    "rollout.prompts_per_step": ("train", *_PLAN),
    "rollout.group_size": ("train", "rollout", *_PLAN),
    "rollout.max_completion_tokens": (*_SAMPLE, *_PLAN),
    "rollout.dynamic_sampling": ("train", *_PLAN),
    "rollout.max_rounds": ("train",),
    "rollout.overlap": ("train", *_PLAN),
    "rollout.backend": (*_SAMPLE, *_PLAN),
    "rollout.backend.url": ("eval",),
    "rollout.backend.api": ("eval",),
    "rollout.backend.max_in_flight": ("eval",),
    "rollout.backend.reasoning_effort": ("eval",),
    "rollout.backend.extra_body": ("eval",),
    "reward": (*_SAMPLE, "regrade"),
    "reward.workers": (*_SAMPLE, *_PLAN, "regrade"),
    "reward.overlong": ("train", "rollout"),
    "advantage": ("train", "rollout", "inspect"),
    "credit": ("train", "inspect"),
    "credit.rule": ("train", *_PLAN, "inspect"),
    "credit.refresh": ("train", *_PLAN),
    "credit.target_ess": ("train", *_PLAN, "inspect"),
    "credit.target_ess_over": ("train", *_PLAN, "inspect"),
    "credit.share_over": ("train", *_PLAN, "inspect"),
    "credit.noise_every": ("train",),
    "loss": ("train",),
    "loss.kl": ("train", *_PLAN),
    "off_policy": ("train",),
    "optim": ("train",),
    "optim.kind": ("train", *_PLAN),
    "optim.updates_per_step": ("train", *_PLAN),
    "optim.micro_batch_size": ("train", *_PLAN),
    "optim.micro_batch_tokens": ("train", *_PLAN),
    "train": ("train", *_PLAN),
    "train.stop_signal": ("train",),
    "train.threads": _SAMPLE,
    "eval": ("train",),
    "eval.bench": ("train", "merge"),
    "track": ("train",),
    "parallel": ("train", *_PLAN),
}


@dataclass(frozen=True, slots=True)
class EntryField:
    """A field of the tables of a list, in one of their kinds; default: None if it is unset."""

    name: str
    about: str
    schema: Mapping[str, Any]
    required: bool
    default: Any


@dataclass(frozen=True, slots=True)
class EntryKind:
    """What a table of a list may be. tag: as in kind=python; empty if there is one kind."""

    tag: str
    about: str
    fields: tuple[EntryField, ...]


@dataclass(frozen=True, slots=True)
class Setting:
    """A leaf of the settings, with values as in TOML; None: unset.

    meanings: description and JSON Schema, by variant; "" if all variants that have it agree.
    only_with: the variants that have it, as in credit.rule=dgpo; empty: all.
    value, source: in the given settings; source None: none were given, or they lack it.
    entries: of a list of tables, the kinds of them.
    """

    name: str
    meanings: Mapping[str, tuple[str, Mapping[str, Any]]]
    required: bool
    default: Any
    presets: Mapping[str, Any]
    used_by: tuple[str, ...]
    change: Change
    only_with: tuple[str, ...]
    value: Any = None
    source: str | None = None
    entries: tuple[EntryKind, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return it as `dgpo settings --json` prints it."""
        return {
            "name": self.name,
            "meanings": [
                {"with": variant or None, "description": text, "schema": schema}
                for variant, (text, schema) in self.meanings.items()
            ],
            "required": self.required,
            "default": self.default,
            "presets": dict(self.presets),
            "used_by": list(self.used_by),
            "on_resume": self.change.name.lower(),
            "only_with": list(self.only_with),
            "value": self.value,
            "source": self.source,
            **({"entries": list(map(asdict, self.entries))} if self.entries else {}),
        }


def find(name: str | None, resolved: Resolved | None = None) -> tuple[Setting, ...]:
    """Return the settings with a name, in a section of that name, or with it as a part.

    resolved: settings that value and source are from.

    Raises:
        ConfigError: no setting matches.
    """
    leaves = known_leaves() if resolved is None else leaves_of(resolved.settings)
    names = _matching(name, leaves)
    presets = {preset: flatten(resolve(preset=preset).settings) for preset in preset_names()}
    schemas = Settings.model_json_schema()
    defaults = flatten(Settings())
    return tuple(
        _setting(
            key,
            leaves[key],
            schemas=schemas,
            defaults=defaults,
            presets=presets,
            resolved=resolved,
        )
        for key in names
    )


def in_words(schema: Mapping[str, Any]) -> str:
    """Return the values that a JSON Schema allows, in words: whole number, 1 to 32."""
    if schema.get("type") == "object":
        if schema.get("additionalProperties") is True:
            return "table"
        return "table of true or false, numbers, texts, or lists of these"
    if arms := schema.get("anyOf"):
        words = [in_words(arm) for arm in arms if arm["type"] != "null"]
        return ", or ".join([*words, *(["unset"] if len(words) < len(arms) else [])])
    if values := schema.get("enum", [schema["const"]] if "const" in schema else None):
        return f"one of {', '.join(map(str, values))}"
    if schema.get("type") == "array" and {"$ref", "oneOf"} & schema["items"].keys():
        return "list of tables"
    if schema.get("type") == "array":
        return f"list; each {in_words(schema['items'])}"
    names = {"integer": "whole number", "number": "number", "boolean": "true or false"}
    name = names.get(schema.get("type", ""), "text")
    return ", ".join([name, *filter(None, [_range(schema)])])


def _range(schema: Mapping[str, Any]) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None:
        return f"{low:g} to {high:g}"
    names = {
        "minimum": "at least",
        "exclusiveMinimum": "above",
        "maximum": "at most",
        "exclusiveMaximum": "below",
    }
    ends = [f"{word} {schema[name]:g}" for name, word in names.items() if name in schema]
    return " and ".join(ends)


def section_about(prefix: str) -> str:
    """Return the description of a section such as credit; "" for the top."""
    models: list[Model] = [Settings]
    about = ""
    for name in prefix.split(".") if prefix else ():
        field = next(model.model_fields[name] for model in models if name in model.model_fields)
        about = field.description or ""
        inner = section(field)
        assert inner is not None
        models = list(inner.variants.values()) if isinstance(inner, Choice) else [inner]
    return about


def completions(text: str) -> Iterator[tuple[str, str]]:
    """Yield completions of the text of --set, with descriptions: names, then values.

    A single name is completed with its values, so that no shell adds a space after it.
    """
    key, equals, _ = text.partition("=")
    if (places := entry_fields(key)) is not None:
        yield from _entry_completions(text, places)
        return
    names = [name for name in known_leaves() if name.startswith(key)]
    if not equals and len(names) != 1:
        for name in names:
            if is_list(name):
                yield f"{name}.0.", known_leaves()[name][0].field.description or ""
            else:
                yield f"{name}=", known_leaves()[name][0].field.description or ""
        return
    if len(names) == 1 and is_list(names[0]):
        places = entry_fields(f"{names[0]}.0.")
        assert places is not None
        yield from _entry_completions(f"{names[0]}.0.", places)
        return
    key = key if equals else names[0]
    values = list(_values(key))
    if len(values) < 2 and not equals:
        yield f"{key}=", ""
    for value, about in values:
        yield f"{key}={value}", about


def is_list(key: str) -> bool:
    """Whether a setting is a list of tables."""
    return any(entry(place.field) is not None for place in known_leaves()[key])


def entry_fields(key: str) -> dict[str, list[tuple[FieldInfo, str]]] | None:
    """Return the fields that the tables of a list may have, and the tags of the kinds of them.

    key: of a table, or of a field of it, as in reward.terms.0.weight; None for anything else.
    """
    for name in known_leaves():
        if not (key.startswith(f"{name}.") and "." in key[len(name) + 1 :]):
            continue
        found: dict[str, list[tuple[FieldInfo, str]]] = {}
        for tag, model in _kinds(known_leaves()[name]):
            for field_name, field in model.model_fields.items():
                found.setdefault(field_name, []).append((field, tag))
        if found:
            return found
    return None


def _kinds(places: tuple[Leaf, ...]) -> Iterator[tuple[str, Model]]:
    """Yield what a table of a list may be, as in kind=python."""
    for place in places:
        match entry(place.field):
            case None:
                continue
            case Choice(tag=tag, variants=variants):
                yield from ((f"{tag}={name}", model) for name, model in variants.items())
            case model:
                yield "", model


def _entry_completions(
    text: str, places: Mapping[str, list[tuple[FieldInfo, str]]]
) -> Iterator[tuple[str, str]]:
    key, equals, _ = text.partition("=")
    table, _, typed = key.rpartition(".")
    for name, owners in places.items():
        if not equals and name.startswith(typed):
            yield f"{table}.{name}=", owners[0][0].description or ""
        elif equals and name == typed:
            for value in dict.fromkeys(v for field, _ in owners for v in _counted(field)):
                yield f"{key}={value}", ""


def _counted(field: FieldInfo) -> Iterator[str]:
    """Yield the values that a field can have, if they are finitely many."""
    for arm in arms(field.annotation):
        if arm is bool:
            yield from ("true", "false")
        elif typing.get_origin(arm) is typing.Literal:
            yield from map(str, typing.get_args(arm))


def values_of(key: str) -> tuple[str, ...]:
    """Return the values that a setting can have, if they are finitely many."""
    found: dict[str, None] = {}
    for place in known_leaves().get(key, ()):
        if place.choice is not None:
            found |= dict.fromkeys(place.choice.variants)
        found |= dict.fromkeys(_counted(place.field))
    return tuple(found)


def _values(key: str) -> Iterator[tuple[str, str]]:
    """Yield the values of a setting; of infinitely many, those of default and presets."""
    if counted := values_of(key):
        yield from ((value, "") for value in counted)
        return
    seen: dict[str, str] = {}
    for place in known_leaves().get(key, ()):
        if not place.field.is_required() and place.field.default is not None:
            seen.setdefault(shown(place.field.default), "default")
    for preset in preset_names():
        value = flatten(resolve(preset=preset).settings).get(key)
        if value is not None:
            seen.setdefault(shown(value), f"preset {preset}")
    yield from seen.items()


def _matching(name: str | None, leaves: Mapping[str, tuple[Leaf, ...]]) -> list[str]:
    known = list(leaves)
    if name is None:
        return known
    if name in known:
        return [name]
    wanted = name.rstrip(".")
    if inside := [k for k in known_leaves() if wanted.startswith(f"{k}.") and is_list(k)]:
        return inside
    ways: tuple[Callable[[str], bool], ...] = (
        lambda key: key.startswith(f"{wanted}."),
        lambda key: key.rpartition(".")[2] == wanted,
        lambda key: key.startswith(wanted) or f".{wanted}" in f".{key}",
        lambda key: wanted in key,
    )
    for fits in ways:
        if wanted and (found := [key for key in known if fits(key)]):
            return found
    near = nearest_key(name)
    hint = f"did you mean {near}?" if near else "dgpo settings lists all"
    raise ConfigError(f"{name}: unknown setting; {hint}")


def _setting(
    key: str,
    places: tuple[Leaf, ...],
    *,
    schemas: Mapping[str, Any],
    defaults: Mapping[str, Any],
    presets: Mapping[str, Mapping[str, Any]],
    resolved: Resolved | None,
) -> Setting:
    first = places[0]
    default = None if first.field.is_required() else first.field.get_default()
    values = {} if resolved is None else flatten(resolved.settings)
    return Setting(
        name=key,
        meanings=_meanings(key, places, schemas),
        required=first.field.is_required(),
        default=storable(defaults.get(key, default)),
        presets={name: storable(own[key]) for name, own in presets.items() if key in own},
        used_by=_used_by(key),
        change=change_of(key),
        only_with=_only_with(key, places),
        value=storable(values.get(key)),
        source=None if resolved is None else resolved.sources.get(key),
        entries=tuple(_entry_kind(tag, model) for tag, model in _kinds(places)),
    )


def _entry_kind(tag: str, model: Model) -> EntryKind:
    schema = model.model_json_schema()
    return EntryKind(
        tag=tag,
        about=_summary(model),
        fields=tuple(
            EntryField(
                name=name,
                about=field.description or "",
                schema=_without_words(schema["properties"][name]),
                required=field.is_required(),
                default=None if field.is_required() else storable(field.get_default()),
            )
            for name, field in model.model_fields.items()
            if name != tag.partition("=")[0]
        ),
    )


def _without_words(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in schema.items() if k not in ("title", "description", "default")}


def _meanings(
    key: str, places: tuple[Leaf, ...], schemas: Mapping[str, Any]
) -> dict[str, tuple[str, Mapping[str, Any]]]:
    if (choice := places[0].choice) is not None:
        docs = [f"{tag}: {_summary(model)}" for tag, model in choice.variants.items()]
        own = [place for place in places if place.is_own]
        docs += [f"{place.variant.partition('=')[2]}: {_summary(place.model)}" for place in own]
        if choice.own is not None and not own:
            docs.append(f"Or {OWN_CLASS}.")
        return {"": ("\n".join(docs), {"type": "string", "enum": list(choice.variants)})}
    each = {place.variant: _meaning(key, place, schemas) for place in places}
    alike = all(meaning == next(iter(each.values())) for meaning in each.values())
    return {"": next(iter(each.values()))} if alike else each


def _meaning(key: str, place: Leaf, schemas: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    if place.is_own:
        schemas = place.model.model_json_schema()
    tree = schemas.get("$defs", {}).get(place.model.__name__, schemas)
    schema = tree["properties"][key.rpartition(".")[2]]
    return place.field.description or "", _without_words(schema)


def _summary(model: Model) -> str:
    return " ".join((model.__doc__ or "").partition("\n\n")[0].split())


def _only_with(key: str, places: tuple[Leaf, ...]) -> tuple[str, ...]:
    """Return the variants that have the setting, unless all have it."""
    variants = tuple(dict.fromkeys(place.variant for place in places))
    tag = variants[0].partition("=")[0]
    every = len(values_of(tag)) if tag else 1
    return () if sum(not is_spec(each) for each in variants) == every else variants


def _used_by(key: str) -> tuple[str, ...]:
    name = key
    while name not in _USED_BY:
        name = name.rpartition(".")[0]
    return _USED_BY[name]
