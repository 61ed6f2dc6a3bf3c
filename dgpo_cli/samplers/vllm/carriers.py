"""Carriers of new weights to the servers: the adapter alone, or full weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from dgpo_cli.samplers.base import GatheredWeights
from dgpo_cli.samplers.vllm.process import remove_tree
from dgpo_cli.samplers.vllm.transfer import Transfer, transfer_to

if TYPE_CHECKING:
    from dgpo_cli.samplers.base import TrainedWeights, Weights
    from dgpo_cli.samplers.vllm.client import Fleet, VllmClient


class Carrier(Protocol):
    """Carries one version of the weights at a time."""

    def renew(self, *, first: bool) -> None:
        """Load the policy's current weights. first: the servers may already have them."""
        ...

    def give(self, client: VllmClient) -> None:
        """Give one server the loaded version.

        Raises:
            BackendError: it refuses.
            ServerGone, ServerSlow, ServerSaysNo
        """
        ...

    def name(self, client: VllmClient) -> str | None:
        """Return the model name for requests; None: the one that the server has."""
        ...

    def lost(self, client: VllmClient) -> None:
        """Forget a server that did not answer; it may return as another one."""
        ...

    def drop_older(self) -> None:
        """Drop older versions: every server has the loaded one."""
        ...


class _Folders:
    """One folder per version, below that of the servers."""

    def __init__(self, weights: TrainedWeights, fleet: Fleet) -> None:
        self._weights = weights
        self._fleet = fleet
        self._count = 0
        self._older: list[Path] = []
        self.newest: Path | None = None

    def write(self) -> Path:
        """Write the current weights, once until `retire`."""
        if self.newest is None:
            self._count += 1
            self.newest = self._fleet.folder / f"weights-{self._count}"
            self._weights.save(self.newest)
        return self.newest

    def retire(self) -> None:
        """Mark the folder as older; it stays until `drop_older`."""
        if self.newest is not None:
            self._older.append(self.newest)
            self.newest = None

    def drop_older(self) -> None:
        while self._older:
            remove_tree(self._older.pop())


class AdapterCarrier:
    """Loads the adapter under a new name for every version; the base stays as it is."""

    def __init__(self, weights: TrainedWeights, *, fleet: Fleet, run: str) -> None:
        self._folders = _Folders(weights, fleet)
        self._run = run
        self._loads = 0
        self._names: dict[str, str] = {}
        self.drop_older = self._folders.drop_older

    def renew(self, *, first: bool) -> None:
        """See Carrier.renew. A server never has this adapter yet."""
        self._folders.retire()
        self._folders.write()

    def give(self, client: VllmClient) -> None:
        """See Carrier.give."""
        self._loads += 1  # names are used once: an old one may still be loaded
        name = f"dgpo-{self._run}-{self._loads}"
        client.load_adapter(name, self._folders.write())
        before = self._names.get(client.address.url)
        self._names[client.address.url] = name
        if before is not None:
            client.unload_adapter(before)

    def name(self, client: VllmClient) -> str | None:
        """See Carrier.name."""
        return self._names.get(client.address.url)

    def lost(self, client: VllmClient) -> None:
        """See Carrier.lost. The adapter is gone with the server."""


class FullCarrier:
    """Sends full weights to each server in the way that it was started for."""

    def __init__(
        self,
        weights: TrainedWeights,
        *,
        fleet: Fleet,
        sync_host: str | None = None,
        folder: bool = False,
        keep: bool = False,
    ) -> None:
        """folder: always through a folder. keep: keep a copy of a version in the CPU's memory, for
        servers that need it again while the policy trains; not of sharded weights.
        """
        self._weights = weights
        self._fleet = fleet
        self._folders = _Folders(weights, fleet)
        self._sync_host = sync_host
        self._folder = folder
        self._keep = keep
        self._ways: dict[str, Transfer | None] = {}
        self._needed = True
        self._tensors: Weights = ()
        self.drop_older = self._folders.drop_older

    def renew(self, *, first: bool) -> None:
        """See Carrier.renew."""
        self._needed = not first or not self._as_served()
        self._folders.retire()
        self._tensors = ()
        if not self._needed:
            return
        ways = self._ways.values()
        if self._keep and any(way is None for way in ways):
            self._folders.write()
        if self._keep and not all(way is None for way in ways):
            self._take()

    def give(self, client: VllmClient) -> None:
        """See Carrier.give."""
        if not self._needed:
            return
        way = self._way(client)
        if way is None:
            client.reload_weights(self._folders.write())
            return
        if not self._tensors:
            self._take()
        way.send(self._tensors)

    def name(self, client: VllmClient) -> str | None:
        """See Carrier.name."""
        return None

    def lost(self, client: VllmClient) -> None:
        """See Carrier.lost."""
        client.forget()
        way = self._ways.pop(client.address.url, None)
        if way is not None:
            way.close()

    def _take(self) -> None:
        tensors = self._weights.tensors()
        if self._keep and not isinstance(tensors, GatheredWeights):
            tensors = [(name, tensor.detach().to("cpu", copy=True)) for name, tensor in tensors]
        self._tensors = tensors

    def _way(self, client: VllmClient) -> Transfer | None:
        url = client.address.url
        if url not in self._ways:
            to = None if self._folder else transfer_to(client, sync_host=self._sync_host)
            self._ways[url] = to
        return self._ways[url]

    def _as_served(self) -> bool:
        """Whether the servers are known to have the right weights already.

        Our own have read `model.path`. A shared one may have got others, unless it takes none.
        """
        if not self._weights.untouched:
            return False
        clients = self._fleet.clients
        return not self._fleet.shared or not any(client.takes_weights() for client in clients)
