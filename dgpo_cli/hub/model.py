"""Asks the hub for a model before anything large is imported or loaded.

The user sees a line at once, and a dead network costs seconds; transformers would try for minutes.
"""

from __future__ import annotations

import os
from pathlib import Path

from dgpo_cli.core.errors import BackendError
from dgpo_cli.core.events import Observer, tell
from dgpo_cli.hub.calls import (
    TIMEOUT_S,
    Unreached,
    ask,
    asked,
    given_endpoint,
    go_offline,
    probe,
)
from dgpo_cli.policy.config_file import check_folder
from dgpo_cli.policy.settings import EMBEDDED_TINY, ModelSettings


def reach_model(settings: ModelSettings, *, observer: Observer) -> None:
    """Check that the hub has a model, or that the cache has a copy.

    If the hub does not answer, this process stops asking it. A model in a folder needs no hub.

    Raises:
        BackendError: neither has it.
        NoModelError: the folder does not exist, or is a file.
    """
    path = settings.path
    if path == EMBEDDED_TINY:
        return
    check_folder(path)
    if path.startswith("~") or Path(path).is_dir():
        return
    # Before the import of the hub's library, which takes a second.
    offline = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    if offline.lower() not in ("1", "on", "yes", "true"):
        tell(observer, f"{path}: asking {asked()}")
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError

    what, instead = f"model.path={path}", "give the folder of a model"
    there = _is_cached(path, revision=settings.revision)
    if constants.is_offline_mode() and there:
        return

    def first() -> None:
        url = hf_hub_url(path, "config.json", revision=settings.revision, endpoint=given_endpoint())
        get_hf_file_metadata(url, timeout=TIMEOUT_S, endpoint=given_endpoint())

    try:
        ask(lambda: probe(first), what=what, instead=instead)
    except BackendError as error:
        if isinstance(error.__cause__, EntryNotFoundError):
            return  # the loader may know another file
        if not there:
            raise
        if isinstance(error.__cause__, Unreached):
            why = f"the hub does not answer ({go_offline(error.__cause__)})"
        else:
            why = "the hub refuses it"
        tell(observer, f"{path}: {why}; using the cached copy")


def _is_cached(path: str, *, revision: str | None) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(path, "config.json", revision=revision), str)
