"""The vLLM servers of a run: an engine of its own or those of others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from dgpo_cli.core.events import Observer
from dgpo_cli.samplers.vllm.client import VllmClient


class Fleet(Protocol):
    """The servers, and who looks after them."""

    @property
    def clients(self) -> Sequence[VllmClient]: ...

    @property
    def shared(self) -> bool:
        """Whether somebody else may have restarted a server or changed its weights."""
        ...

    @property
    def sleeps(self) -> bool:
        """Whether the servers give their memory back between two phases of sampling."""
        ...

    @property
    def folder(self) -> Path:
        """An own folder for weights on their way, which the servers can read."""
        ...

    def wait_no_more(self) -> None:
        """See RemoteSampler.wait_no_more."""
        ...

    def start(self, observer: Observer) -> None:
        """Have every server ready. Raises BackendError."""
        ...

    def bring_back(self, client: VllmClient, error: Exception) -> None:
        """Have a server ready again that `error` came from. Raises BackendError."""
        ...

    def went_well(self) -> None:
        """A round of sampling is complete: what was brought back has proven itself."""
        ...

    def close(self) -> None:
        """End what was started and remove `folder`."""
        ...
