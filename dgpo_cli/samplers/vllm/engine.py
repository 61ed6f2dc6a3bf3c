"""The engine of `rollout.backend.kind = "vllm"`: a server that this process starts.

It is a child process because vLLM's engine and workers are children anyway and outlive a killed
parent, while parallel/guard.py ends a child with everything below it. A dead engine can restart
without ending the run, and both vLLM backends share one code path. Its Unix socket is in a folder
that only the user can enter.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dgpo_cli.core.errors import BackendError, CalledOff
from dgpo_cli.core.events import Observer, phase
from dgpo_cli.samplers.http_json import Address
from dgpo_cli.samplers.vllm.client import VllmClient
from dgpo_cli.samplers.vllm.process import OwnedProcess, own_folder, remove_tree

if TYPE_CHECKING:
    from dgpo_cli.samplers.vllm.command import ServerFlags


class OwnEngine:
    """One vLLM server, started when needed and ended with this process."""

    shared = False

    def __init__(self, flags: ServerFlags, *, startup_timeout_s: float, sleeps: bool) -> None:
        self.folder: Path = own_folder(None)
        self.sleeps = sleeps
        self._flags = flags
        self._timeout_s = startup_timeout_s
        self._starts = 0
        self._restarted = False
        self._process: OwnedProcess | None = None
        self._off = False
        self._client = VllmClient(Address(f"unix:{self.folder / 's'}"))

    @property
    def clients(self) -> Sequence[VllmClient]:
        return (self._client,)

    def start(self, observer: Observer) -> None:
        """Start the server and wait until it is ready. Raises BackendError."""
        with phase(observer, "starting vLLM", total=1, unit="engines") as advance:
            self._launch()
            advance(1)

    def bring_back(self, client: VllmClient, error: Exception) -> None:
        """Restart the engine if it died: once per complete round of sampling.

        Raises:
            BackendError: it died again or does not start.
        """
        if self._is_ready():
            return  # only a connection broke
        assert self._process is not None
        if self._restarted:
            reason = self._process.reason()
            self.close()
            raise BackendError(
                f"vLLM died again after a restart ({error}): {reason}; lower "
                "rollout.backend.gpu_memory_utilization, max_num_seqs or max_model_len, "
                "or set rollout.backend.kind=hf"
            )
        self._restarted = True
        self._process.close(keep=True)
        self._launch()

    def wait_no_more(self) -> None:
        """See RemoteSampler.wait_no_more."""
        self._off = True

    def went_well(self) -> None:
        """A round is complete: allow another restart."""
        self._restarted = False

    def close(self) -> None:
        """End the server and everything it has started, and remove the folder."""
        if self._process is not None:
            self._process.close()
        remove_tree(self.folder)

    def _launch(self) -> None:
        self._starts += 1
        socket = self.folder / "s"
        socket.unlink(missing_ok=True)
        self._process = OwnedProcess(
            self._flags.command(socket=socket),
            folder=self.folder,
            log=self.folder / f"engine-{self._starts}.log",
            environment=self._flags.environment(),
        )
        self._process.wait_ready(self._is_ready, timeout_s=self._timeout_s)

    def _is_ready(self) -> bool:
        if self._off:
            raise CalledOff("no longer waiting for vLLM")
        return self._client.is_ready()
