"""The servers of `rollout.backend.kind = "vllm-server"`: started by others, here or elsewhere."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dgpo_cli.backends.http_json import Address, ServerGone, ServerSaysNo, ServerSlow
from dgpo_cli.backends.vllm_client import VllmClient
from dgpo_cli.backends.vllm_gate import key_file, read_key
from dgpo_cli.backends.vllm_process import own_folder, remove_tree
from dgpo_cli.errors import BackendError

if TYPE_CHECKING:
    from dgpo_cli.backends.settings import VllmServerBackend
    from dgpo_cli.types import Progress

_POLL_S = 1.0


class SharedServers:
    """Servers at known addresses. They are waited for, never started or ended."""

    sleeps = False
    shared = True

    def __init__(self, settings: VllmServerBackend) -> None:
        key = os.environ.get(settings.api_key_env) or None
        self.clients: Sequence[VllmClient] = tuple(
            VllmClient(Address(url, key or partial(read_key, key_file(url))))
            for url in settings.urls
        )
        self._timeout_s = settings.startup_timeout_s
        self._folder: Path | None = None
        self._sync_dir = settings.sync_dir

    @property
    def folder(self) -> Path:
        if self._folder is None:
            self._folder = own_folder(self._sync_dir)
        return self._folder

    def start(self, progress: Progress) -> None:
        """Wait until every server is ready. Raises BackendError for one that is not."""
        with progress.phase("waiting", total=len(self.clients), unit="servers") as advance:
            for client in self.clients:
                self._wait(client)
                advance(1)

    def bring_back(self, client: VllmClient, error: Exception) -> None:
        """Wait for a server that did not answer; somebody may be starting it again."""
        self._wait(client, after=error)

    def _wait(self, client: VllmClient, *, after: Exception | None = None) -> None:
        deadline = time.monotonic() + self._timeout_s
        while True:
            try:
                client.check_health()
                return
            except (ServerGone, ServerSlow, ServerSaysNo) as error:
                if time.monotonic() >= deadline:
                    said = after or error
                    raise BackendError(
                        f"{client}: no vLLM server is ready there after {self._timeout_s:g} s "
                        f"({said}); start it with dgpo serve, or set rollout.backend.urls"
                    ) from error
            time.sleep(min(_POLL_S, self._timeout_s))

    def went_well(self) -> None:
        """Nothing is counted here."""

    def close(self) -> None:
        """Remove the folder of weights; the servers are not ours to end."""
        if self._folder is not None:
            remove_tree(self._folder)
