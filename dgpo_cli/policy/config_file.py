"""Finds a model's config without its weights: local, shipped with dgpo, or on the hub."""

from __future__ import annotations

import json
import os
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

from dgpo_cli.core.errors import ModelError, NoModelError
from dgpo_cli.core.resources import resource_dir
from dgpo_cli.policy.settings import EMBEDDED_TINY, ModelSettings


class FoundConfig(NamedTuple):
    """A model's config and its origin, for the user."""

    config: dict[str, Any]
    origin: str


def find_config(settings: ModelSettings) -> FoundConfig:
    """Return the config of the model that `model.path` names. Only a config.json is ever fetched.

    Raises:
        ModelError: there is none.
    """
    if settings.path == EMBEDDED_TINY:
        return FoundConfig(_read(resource_dir("data") / "tiny" / "config.json"), "comes with dgpo")
    folder = Path(os.path.expanduser(settings.path))
    check_folder(settings.path)
    if folder.is_dir():
        if not (folder / "config.json").exists():
            raise NoModelError(
                f"model.path={settings.path}: no config.json in that folder; give the folder of a "
                "model, or a hub id"
            )
        return FoundConfig(_read(folder / "config.json"), f"{folder / 'config.json'}")
    known = _shipped().get(settings.path.removesuffix("-Instruct")) or _shipped().get(settings.path)
    if known is not None and settings.revision is None:
        return FoundConfig(known, "comes with dgpo; nothing was downloaded")
    return FoundConfig(_from_hub(settings), "config.json from the hub")


def check_folder(path: str) -> None:
    """Check that `model.path` names a folder, or may be an id on the hub.

    Raises:
        NoModelError: it is a file, a missing folder, or has weights of another kind.
    """
    local = Path(os.path.expanduser(path))
    if local.is_dir():
        if any(local.glob("*.gguf")) and not (local / "config.json").exists():
            raise NoModelError(
                f"model.path={path}: has only weights in GGUF, which cannot be trained; give the "
                "folder with safetensors, or the hub id, of the model that they were made from"
            )
        return
    if local.exists():
        raise NoModelError(f"model.path={path}: is a file; give the folder of a model")
    if path.startswith((".", "/", "~")):
        raise NoModelError(f"model.path={path}: no such folder")


def is_at_hand(settings: ModelSettings) -> bool:
    """Whether `find_config` needs no network or disk: the config comes with dgpo."""
    name = settings.path
    shipped = _shipped().keys() & {name, name.removesuffix("-Instruct")}
    return name == EMBEDDED_TINY or bool(shipped and settings.revision is None)


def _shipped() -> dict[str, dict[str, Any]]:
    return tomllib.loads((resource_dir("data") / "models.toml").read_text(encoding="utf-8"))


def _read(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise ModelError(f"{path}: not a model config")
    return config


def _from_hub(settings: ModelSettings) -> dict[str, Any]:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
    try:
        path = hf_hub_download(
            settings.path, "config.json", revision=settings.revision, etag_timeout=5
        )
    except Exception as error:  # the hub's client raises some twenty kinds
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"model.path={settings.path}: no config.json from the hub ({reason[:200]}); "
            "give a local folder with one, or plan where the hub is reachable"
        ) from error
    return _read(Path(path))
