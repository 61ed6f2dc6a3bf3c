"""Evaluation protocols: everything that affects a score, as a layer of settings. No torch here."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dgpo_cli.config.layers import Layer
from dgpo_cli.config.load import Resolved
from dgpo_cli.config.tree import flatten, nest
from dgpo_cli.core.errors import ConfigError
from dgpo_cli.core.resources import resource_dir

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
    values = {f"{section}.{key}": x for section, own in tree.items() for key, x in own.items()}
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
