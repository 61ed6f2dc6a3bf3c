"""Stacks the layers of settings and records the source of each value."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dgpo_cli.config import explain
from dgpo_cli.config.checks import always_wrong
from dgpo_cli.config.layers import (
    Argument,
    Layer,
    dotted_layer,
    file_layer,
    flag_layers,
    preset_layer,
    set_layers,
)
from dgpo_cli.config.settings import Settings
from dgpo_cli.config.tree import Choice, Model, entry, flatten, is_table, nest, section
from dgpo_cli.config.values import Lists, parsed, typed, with_entries
from dgpo_cli.core.errors import ConfigError
from dgpo_cli.core.own_code import STAND_IN

DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Resolved:
    """Settings of a run. `sources` maps each dotted leaf to the layer of its value.

    hardware: the GPU of the preset or file, None if it names none.
    ran_code: whether the user's own code that they name has run; if not, something stands in.
    """

    settings: Settings
    sources: dict[str, str]
    notes: tuple[str, ...]
    hardware: str | None = None
    ran_code: bool = True


def resolve(
    *,
    preset: str | None = None,
    config: Path | None = None,
    chosen: Sequence[Layer] = (),
    protocol: Layer | None = None,
    overrides: Sequence[str] = (),
    flags: Mapping[str, tuple[str, Any]] | None = None,
    run_code: bool = True,
) -> Resolved:
    """Resolve settings: defaults < preset or file < chosen < protocol < --set < flags.

    chosen: by dgpo for a model and data.
    protocol: that of an evaluation.
    overrides: "a.b=value", the value written as TOML or as a bare string.
    flags: dotted leaf to (name of the flag, value).
    run_code: run the user's own classes that the settings name, to check their fields; where only
        stored settings are read, something stands in for them.
    If a layer changes the variant of a section, values of lower layers that the new variant lacks
    are dropped and noted.

    Raises:
        ConfigError: a line for each error.
    """
    if preset is not None and config is not None:
        raise ConfigError(f"--preset={preset} and --config={config}: give one of them")
    stack = _Stack(run_code=run_code)
    if preset is not None:
        stack.put(preset_layer(preset))
    if config is not None:
        stack.put(file_layer(config))
    between = chosen if protocol is None else (*chosen, protocol)
    for layer in (*between, *set_layers(overrides), *flag_layers(flags or {})):
        stack.put(layer)
    return stack.resolved()


def load_settings(
    preset: str | None = None,
    *,
    file: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Settings:
    """Return the settings of a preset or of a TOML file, or the defaults, with changes on top.

    Warns where a change drops other values: `credit.rule` = "uniform" drops `credit.tau`.

    Args:
        preset: a name that `dgpo preset list` shows.
        file: a settings file, such as the settings.toml of a run.
        overrides: values by dotted name, as after --set.

    Raises:
        ConfigError: one line for each thing that is wrong.

    Examples:
        >>> from dgpo_cli import load_settings
        >>> settings = load_settings("tiny", overrides={"rollout.group_size": 4})
        >>> settings.rollout.group_size, settings.credit.rule
        (4, 'dgpo')
    """
    if preset is not None and file is not None:
        raise ConfigError(f"preset={preset!r} and file={str(file)!r}: give one of them")
    resolved = resolve(preset=preset, config=None if file is None else Path(file))
    changed = layered(resolved, dotted_layer("overrides", overrides or {}))
    for note in dict.fromkeys(resolved.notes + changed.notes):
        warnings.warn(note, stacklevel=2)
    return changed.settings


def layered(resolved: Resolved, *layers: Layer) -> Resolved:
    """Put more layers on resolved settings.

    Raises:
        ConfigError: a line for each error.
    """
    own = {key: source for key, source in resolved.sources.items() if source != DEFAULT}
    stack = _Stack(
        values=flatten(resolved.settings),
        sources=own,
        hardware=resolved.hardware,
        run_code=resolved.ran_code,
    )
    for layer in layers:
        stack.put(layer)
    return stack.resolved()


@dataclass(slots=True)
class _Stack:
    """The values of the layers so far, as dotted leaves."""

    values: dict[str, Any] = field(default_factory=lambda: flatten(Settings()))
    sources: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    hardware: str | None = None
    run_code: bool = True

    def put(self, layer: Layer) -> None:
        self.hardware = layer.hardware or self.hardware
        self._section(Settings, "", layer.tree, layer.name)

    def resolved(self) -> Resolved:
        try:
            context = None if self.run_code else STAND_IN
            settings = Settings.model_validate(nest(self.values), context=context)
        except ValidationError as error:
            self.errors += explain.invalid_values(
                error, sources=self.sources, values=self.values, run_code=self.run_code
            )
        else:
            self.errors += always_wrong(settings, sources=self.sources)
        if self.errors:
            raise ConfigError("\n".join(self.errors))
        sources = {key: self.sources.get(key, DEFAULT) for key in flatten(settings)}
        if settings.model.trust_remote_code:
            self.notes.append(
                f"model.trust_remote_code=true: Python code that comes with {settings.model.path} "
                "runs here, with all your rights"
            )
        return Resolved(settings, sources, tuple(self.notes), self.hardware, self.run_code)

    def _section(self, model: Model, prefix: str, tree: Mapping[str, Any], source: str) -> None:
        for name, value in tree.items():
            key = f"{prefix}{name}"
            known = model.model_fields.get(name)
            inner = section(known) if known is not None else None
            if known is not None and is_table(known) and isinstance(value, Mapping):
                self.values[key] = with_entries(self.values.get(key), value)
                self.sources[key] = source
            elif known is not None and inner is None and entry(known) is not None:
                lists = Lists(source, self.errors, self.notes)
                self.values[key] = lists.put(key, known, value, below=self.values.get(key) or ())
                self.sources[key] = source
            elif known is None and _stands_in(model):
                self.values[key] = parsed(value)
                self.sources[key] = source
            elif known is None or (inner is None and isinstance(value, Mapping)):
                own = () if model.__module__.startswith("dgpo_cli.") else model.model_fields
                self._unknown(key, value, source, beside=[f"{prefix}{name}" for name in own])
            elif inner is None:
                self.values[key] = typed(known, value)
                self.sources[key] = source
            elif not isinstance(value, Mapping):
                names = [inner.tag] if isinstance(inner, Choice) else list(inner.model_fields)
                self.errors.append(
                    explain.not_a_section(key, value=value, source=source, inner=names)
                )
            elif isinstance(inner, Choice):
                self._choice(inner, key, value, source)
            else:
                self._section(inner, f"{key}.", value, source)

    def _choice(self, choice: Choice, prefix: str, tree: Mapping[str, Any], source: str) -> None:
        tag_key = f"{prefix}.{choice.tag}"
        implied = _implied(choice, tree)
        given = tree.get(choice.tag, implied or self.values[tag_key])
        tag = given.raw if isinstance(given, Argument) else given
        variant = self._variant(choice, tag_key, tag, source)
        if variant is None:
            return
        if tag != self.values[tag_key]:
            self._switch(choice, prefix, tag, variant)
            if tag == implied:
                self.sources[tag_key] = source
        own = variant.model_fields
        others = {name for model in choice.variants.values() for name in model.model_fields}
        lacking = [name for name in tree if name in others and name not in own]
        if _stands_in(variant):
            lacking = []
        self.errors += [
            explain.key_of_another_variant(
                f"{prefix}.{name}", source=source, prefix=prefix, tag=tag, choice=choice
            )
            for name in lacking
        ]
        rest = {name: value for name, value in tree.items() if name not in lacking}
        self._section(variant, f"{prefix}.", rest, source)

    def _variant(self, choice: Choice, tag_key: str, tag: Any, source: str) -> Model | None:
        """Return the variant of a tag; None, with an error, if there is none."""
        try:
            variant = choice.variant(tag, run_code=self.run_code)
        except ConfigError as error:
            self.errors.append(f"{tag_key}={error}")
            return None
        if variant is None:
            self.errors.append(
                explain.unknown_tag(tag_key, value=tag, choice=choice, source=source)
            )
        return variant

    def _switch(self, choice: Choice, prefix: str, tag: str, variant: Model) -> None:
        """Change a section's variant: keep what both have, drop and note the rest.

        A field that means something else in the new variant (`means_else`) is not kept.
        """
        dropped: dict[tuple[str, bool], list[str]] = {}
        others: frozenset[str] = getattr(variant, "means_else", frozenset())
        for key in [key for key in self.values if key.startswith(f"{prefix}.")]:
            name = key.removeprefix(f"{prefix}.").partition(".")[0]
            source = self.sources.get(key)
            if source is not None and name in variant.model_fields and name not in others:
                continue
            del self.values[key]
            if source is not None:
                del self.sources[key]
                dropped.setdefault((source, name in others), []).append(key)
        self.notes += [
            explain.dropped(keys, source=source, tag=f"{choice.tag} {tag}", other=other)
            for (source, other), keys in dropped.items()
        ]
        for key, value in _defaults(variant, f"{prefix}.").items():
            self.values.setdefault(key, value)
        self.values[f"{prefix}.{choice.tag}"] = tag

    def _unknown(self, key: str, value: object, source: str, beside: Sequence[str] = ()) -> None:
        if isinstance(value, Mapping) and value:
            for name, inner in value.items():
                self._unknown(f"{key}.{name}", inner, source, beside)
        else:
            self.errors.append(explain.unknown_key(key, source=source, beside=beside))


def _stands_in(model: Model) -> bool:
    return model.model_config.get("extra") == "allow"


def _implied(choice: Choice, tree: Mapping[str, Any]) -> str | None:
    """Return the variant that a layer means by a list of tables that only this one has."""
    for name in tree:
        own = [tag for tag, model in choice.variants.items() if name in model.model_fields]
        if len(own) == 1 and entry(choice.variants[own[0]].model_fields[name]) is not None:
            return own[0]
    return None


def _defaults(model: Model, prefix: str) -> dict[str, Any]:
    leaves: dict[str, Any] = {}
    for name, known in model.model_fields.items():
        if known.is_required():
            continue
        value = known.get_default(call_default_factory=True, validated_data={})
        leaves |= (
            flatten(value, f"{prefix}{name}.") if section(known) else {f"{prefix}{name}": value}
        )
    return leaves
