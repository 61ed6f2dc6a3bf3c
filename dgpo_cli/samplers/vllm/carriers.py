"""What goes to the servers after an update: the adapter alone, or all weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from dgpo_cli.samplers.vllm.process import remove_tree
from dgpo_cli.samplers.vllm.transfer import Transfer, transfer_to

if TYPE_CHECKING:
    import torch

    from dgpo_cli.samplers.base import TrainedWeights
    from dgpo_cli.samplers.vllm.client import Fleet, VllmClient


class Carrier(Protocol):
    """Carries one version of the weights at a time."""

    def renew(self, *, first: bool) -> None:
        """Take up the policy's present weights. first: the servers may have them already."""
        ...

    def give(self, client: VllmClient) -> None:
        """Have one server sample with the version taken up last.

        Raises:
            BackendError: it refuses.
            ServerGone, ServerSlow, ServerSaysNo: see there.
        """
        ...

    def name(self, client: VllmClient) -> str | None:
        """Return the model to ask a server for; None: the one that it serves."""
        ...

    def lost(self, client: VllmClient) -> None:
        """A server did not answer; it may be another one when it is back."""
        ...

    def drop_older(self) -> None:
        """Every server has the version taken up last: forget the ones before."""
        ...


class _Folders:
    """One folder a version, below that of the servers."""

    def __init__(self, weights: TrainedWeights, fleet: Fleet) -> None:
        self._weights = weights
        self._fleet = fleet
        self._count = 0
        self._older: list[Path] = []
        self.newest: Path | None = None

    def write(self) -> Path:
        """Write the present weights down, once until `retire`."""
        if self.newest is None:
            self._count += 1
            self.newest = self._fleet.folder / f"weights-{self._count}"
            self._weights.save(self.newest)
        return self.newest

    def retire(self) -> None:
        """There is a newer version; the folder stays until `drop_older`."""
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
        """See Carrier.renew: a server never has this adapter already."""
        self._folders.retire()
        self._folders.write()

    def give(self, client: VllmClient) -> None:
        """See Carrier.give."""
        self._loads += 1  # a name is used once: the same one may still be there
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
        """See Carrier.lost: an adapter that went with the server is unloaded already."""


class FullCarrier:
    """Sends all weights, each server in the way that it was started for."""

    def __init__(
        self,
        weights: TrainedWeights,
        *,
        fleet: Fleet,
        sync_host: str | None = None,
        folder: bool = False,
        keep: bool = False,
    ) -> None:
        """folder: through a folder whatever a server was started for. keep: put a version aside in
        the CPU's memory, for servers that need it again while the policy is trained further.
        """
        self._weights = weights
        self._fleet = fleet
        self._folders = _Folders(weights, fleet)
        self._sync_host = sync_host
        self._folder = folder
        self._keep = keep
        self._ways: dict[str, Transfer | None] = {}
        self._needed = True
        self._tensors: Sequence[tuple[str, torch.Tensor]] = ()
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
        if self._keep:
            tensors = [(name, tensor.detach().to("cpu", copy=True)) for name, tensor in tensors]
        self._tensors = tensors

    def _way(self, client: VllmClient) -> Transfer | None:
        url = client.address.url
        if url not in self._ways:
            to = None if self._folder else transfer_to(client, sync_host=self._sync_host)
            self._ways[url] = to
        return self._ways[url]

    def _as_served(self) -> bool:
        """Whether the servers have the right weights as they are, as far as one can know.

        Our own have read `model.path` themselves. A shared one may have got others since, unless
        it takes none.
        """
        if not self._weights.untouched:
            return False
        clients = self._fleet.clients
        return not self._fleet.shared or not any(client.takes_weights() for client in clients)
