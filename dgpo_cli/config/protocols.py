"""Evaluation protocols: everything that affects a score, as a layer of settings. No torch here."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from dgpo_cli.config.layers import Layer
from dgpo_cli.config.load import Resolved
from dgpo_cli.config.tree import flatten, nest
from dgpo_cli.core.errors import ConfigError, DataError
from dgpo_cli.core.resources import resource_dir
from dgpo_cli.prompts.catalog import find
from dgpo_cli.prompts.manifests import AnyManifest, SumsManifest

SETTINGS = "settings"  # the name for no protocol: the settings as they are
_REQUIRED = (
    "prompts.template",
    "rollout.temperature",
    "rollout.top_p",
    "rollout.top_k",
    "rollout.max_completion_tokens",
    "reward.kind",
    "reward.extract",
)
_OPTIONAL = ("prompts.system",)  # unset where left out
_OF_KIND = {"integer": ("reward.minimum", "reward.maximum"), "choice": ("reward.choices",)}
FIXED = (*_REQUIRED, *_OPTIONAL, *(key for keys in _OF_KIND.values() for key in keys))


@dataclass(frozen=True, slots=True)
class Protocol:
    """A named way to evaluate. `values` has a value for each dotted leaf that it fixes.

    unknown: leaves whose value is an assumption, because the source does not give it.
    """

    name: str
    title: str
    source: str
    unknown: tuple[str, ...]
    values: Mapping[str, Any]

    def layer(self) -> Layer:
        """Return the settings of this protocol, to go above a preset and below --set."""
        return Layer(f"protocol {self.name}", nest(self.values))

    def changed(self, resolved: Resolved) -> dict[str, Any]:
        """Return the leaves that a later layer changed, with their values.

        A leaf that another checker lacks counts as unset.
        """
        now = flatten(resolved.settings)
        return {key: now.get(key) for key, value in self.values.items() if now.get(key) != value}


def protocol_names() -> tuple[str, ...]:
    """Return the names of all protocols, sorted."""
    return tuple(sorted(path.stem for path in (resource_dir("data") / "protocols").glob("*.toml")))


def load_protocol(name: str) -> Protocol | None:
    """Return the protocol of that name; None for "settings".

    Raises:
        ConfigError: there is no such protocol, or its file is broken.
    """
    if name == SETTINGS:
        return None
    names = protocol_names()
    if name not in names:
        near = difflib.get_close_matches(name, (*names, SETTINGS), n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ConfigError(
            f"--protocol {name}: unknown; {hint}protocols: {', '.join(names)}, and "
            f"{SETTINGS} for the settings as they are"
        )
    path = resource_dir("data") / "protocols" / f"{name}.toml"
    try:
        return parse_protocol(name, path.read_text(encoding="utf-8"))
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: not a protocol: {error}") from error


def protocol_for(bench: str, *, name: str | None) -> Protocol | None:
    """Return the protocol `name`, else the benchmark's, with what the benchmark itself fixes.

    That is the range of its answers or the number of its options, and without `name` also the
    settings in its manifest. None: the settings as they are.

    Raises:
        ConfigError: there is no such protocol, or it judges answers of another kind.
        DataError: the manifest is broken.
    """
    listed = find(bench)
    manifest = None if listed is None else listed.manifest()
    if listed is None or manifest is None:
        return load_protocol(name or SETTINGS)
    protocol = load_protocol(name or manifest.protocol or SETTINGS)
    own = {} if name else flatten_tables(manifest.settings)
    if others := [key for key in own if key not in FIXED]:
        raise DataError(f"{listed.path}: settings: a protocol does not fix {', '.join(others)}")
    if protocol is None:
        if not own:
            return None
        protocol = Protocol(listed.name, manifest.title, f"manifest of {listed.name}", (), {})
    values = {**protocol.values, **own}
    if (kind := values.get("reward.kind")) is not None:
        check_judge(bench, kind=kind)
        values |= _bounds(manifest, kind=kind)
    return replace(protocol, values=values)


# Checkers that can judge the answers of a benchmark, the best first.
_JUDGED_BY = {"integer": ("integer", "math"), "math": ("math",), "choice": ("choice",)}


def check_judge(bench: str, *, kind: str) -> None:
    """Check that the checker `kind` judges the answers of a benchmark; any may judge a file's.

    Raises:
        ConfigError: it does not; names the protocol and the checkers that do.
        DataError: the manifest is broken.
    """
    listed = find(bench)
    manifest = None if listed is None else listed.manifest()
    if listed is None or manifest is None or kind in _JUDGED_BY[manifest.answer_kind]:
        return
    fitting = " or ".join(map(repr, _JUDGED_BY[manifest.answer_kind]))
    fix = f"use --protocol {manifest.protocol}, or set" if manifest.protocol else "set"
    raise ConfigError(
        f"{listed.name}: reward.kind={kind!r} does not judge its answers, which are of the kind "
        f"{manifest.answer_kind!r}; {fix} reward.kind = {fitting}"
    )


def _bounds(manifest: AnyManifest, *, kind: str) -> dict[str, Any]:
    """Return the settings of a checker that follow from the benchmark."""
    if kind == "integer" and not isinstance(manifest, SumsManifest):
        return {"reward.minimum": manifest.minimum, "reward.maximum": manifest.maximum}
    if kind == "choice" and not isinstance(manifest, SumsManifest):
        return {"reward.choices": manifest.choices}
    return {}


def flatten_tables(tables: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the settings of tables by their dotted names."""
    return {f"{section}.{key}": x for section, own in tables.items() for key, x in own.items()}


def parse_protocol(name: str, text: str) -> Protocol:
    """Read a protocol from TOML.

    Raises:
        ValueError: it is not TOML, lacks a setting or has one that a protocol does not fix.
    """
    tree = tomllib.loads(text)
    head = {key: tree.pop(key, None) for key in ("title", "source", "unknown")}
    title, source, unknown = head["title"], head["source"], head["unknown"]
    if not (isinstance(title, str) and isinstance(source, str) and isinstance(unknown, list)):
        raise ValueError("needs title, source and a list named unknown")
    values = flatten_tables(tree)
    if missing := [key for key in _REQUIRED if key not in values]:
        raise ValueError(f"lacks {', '.join(missing)}")
    own = _OF_KIND.get(values["reward.kind"], ())
    fixed = (*_REQUIRED, *_OPTIONAL, *own)
    if others := [key for key in (*values, *unknown) if key not in fixed]:
        raise ValueError(f"a protocol does not fix {', '.join(others)}")
    if "reward.choices" in own and "reward.choices" not in values:
        raise ValueError("lacks reward.choices")
    values = dict.fromkeys((*_OPTIONAL, *own)) | values
    return Protocol(name, title, source, tuple(unknown), values)
