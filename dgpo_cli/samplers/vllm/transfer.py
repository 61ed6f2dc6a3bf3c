"""Transfers full weights to a vLLM server, through its weight-transfer interface or a folder.

The interface is init, start, update, finish over HTTP; the weights themselves go over TCP (see
weight_stream; any device, any machine that reaches the trainer), NCCL (to GPUs other than the
trainer's) or CUDA IPC (on the trainer's GPU). The last two are vLLM's own, and need vLLM in the
trainer's environment.
"""

from __future__ import annotations

import base64
import contextlib
import math
import pickle
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol
from urllib.parse import urlsplit

from dgpo_cli.core.errors import BackendError
from dgpo_cli.samplers.base import GatheredWeights, described
from dgpo_cli.samplers.http_json import ServerGone, ServerSaysNo
from dgpo_cli.samplers.vllm.weight_stream import BACKEND, Listing, Offer, listen, reaching, sent_as

if TYPE_CHECKING:
    import torch

    from dgpo_cli.samplers.base import Weights
    from dgpo_cli.samplers.vllm.client import VllmClient


_FIX = "; or set rollout.backend.weight_transfer=folder"
# On the GPU of trainer and sampler; vLLM's default is 1 GiB, less than some embeddings.
_IPC_BUFFER_BYTES = 256 * 2**20


class Transfer(Protocol):
    """A way to send full weights to one server."""

    def send(self, tensors: Weights) -> None:
        """Send the weights; the server samples with all of them or none.

        Raises:
            BackendError: it refuses them.
            ServerGone, ServerSlow
        """
        ...

    def close(self) -> None:
        """Disconnect from the server, which may be gone."""
        ...


@dataclass(frozen=True, slots=True)
class Stream:
    """Over TCP, to a server that was started with dgpo's transport."""

    client: VllmClient
    host: str
    dtype: torch.dtype | None

    def send(self, tensors: Weights) -> None:
        """See Transfer.send."""
        try:
            # Each of its workers reads them.
            receivers = self.client.world_size() if isinstance(tensors, GatheredWeights) else 1
            offer = Offer(tensors, host=self.host, dtype=self.dtype, receivers=receivers)
        except OSError as error:
            raise BackendError(
                f"cannot listen on {self.host} to send weights to {self.client}: {error}; "
                "set rollout.backend.sync_host to an address of this machine" + _FIX
            ) from error
        start = {"host": offer.host, "port": offer.port, "token": offer.token}
        with reported(self.client, f"weights over TCP from {self.host}:{offer.port}"), offer:
            self.client.init_transfer(start)
            self.client.start_update()
            self.client.update(asdict(Listing.of(tensors, dtype=self.dtype)))
            self.client.finish_update()

    def close(self) -> None:
        """See Transfer.close."""


class _Meta(NamedTuple):
    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]


class _Source:
    """The weights as vLLM's senders ask for them (its WeightSource)."""

    def __init__(self, dtype: torch.dtype | None) -> None:
        self.tensors: Weights = ()
        self._dtype = dtype

    def metadata(self) -> list[_Meta]:
        return [_Meta(n, sent_as(own, self._dtype), s) for n, own, s in described(self.tensors)]

    def largest_bytes(self) -> int:
        """Return the size of the largest tensor on its way."""
        return max(math.prod(each.shape) * each.dtype.itemsize for each in self.metadata())

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        for name, tensor in self.tensors:
            # With rollout.overlap they are in the CPU's memory.
            yield name, tensor.detach().to(_accelerator(), sent_as(tensor.dtype, self._dtype))


class _Control:
    """The four calls of vLLM's VLLMWeightSyncClient."""

    def __init__(self, client: VllmClient) -> None:
        self._client = client

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        self._client.init_transfer(init_info)

    def start_weight_update(self) -> None:
        self._client.start_update()

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Start an update; handles of GPU memory are Python objects and are pickled."""
        handles = update_info.pop("ipc_handles", None)
        if handles is not None:
            packed = base64.b64encode(pickle.dumps(handles)).decode()
            update_info["ipc_handles_pickled"] = packed
        self._client.update(update_info)

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        self._client.finish_update()


class VllmTransfer:
    """By vLLM's own sender; its connection to the server's GPUs stays open between updates.

    NCCL waits for a server that dies in the middle of a transfer until its own timeout.
    """

    def __init__(
        self,
        client: VllmClient,
        *,
        what: str,
        init_info: Callable[[_Source], Any],
        dtype: torch.dtype | None,
    ) -> None:
        self._client = client
        self._what = what
        self._init_info = init_info
        self._source = _Source(dtype)
        self._engine: Any = None

    def send(self, tensors: Weights) -> None:
        """See Transfer.send."""
        self._source.tensors = tensors
        with reported(self._client, f"weights by {self._what}"):
            if self._engine is None:
                self._engine = self._open()
            self._engine.send_weights()

    def _open(self) -> Any:
        from vllm.distributed.weight_transfer import WeightTransferTrainerFactory

        engine = WeightTransferTrainerFactory.trainer_init(
            self._init_info(self._source), client=_Control(self._client), source=self._source
        )
        _send_alone(engine)
        return engine

    def close(self) -> None:
        """See Transfer.close."""
        engine, self._engine = self._engine, None
        if engine is not None:
            with contextlib.suppress(Exception):  # its peer is gone, or never was
                engine.shutdown()


def _send_alone(engine: Any) -> None:
    """Let a sender do without the other ranks, which have servers of their own, or none.

    That of CUDA IPC waits for every process of torch's default group, at every piece.
    """
    import torch

    ranked = torch.distributed.is_available() and torch.distributed.is_initialized()
    if ranked and hasattr(engine, "_all_gather_and_merge_handles"):
        engine._all_gather_and_merge_handles = lambda handles: handles
        engine._post_send_sync = torch.cuda.ipc_collect


def transfer_to(client: VllmClient, *, sync_host: str | None) -> Transfer | None:
    """Return the way that a server was started for; None: from a folder.

    Raises:
        BackendError: this process lacks what that way needs.
        ServerGone, ServerSlow
    """
    try:
        configured = client.configured()
    except ServerSaysNo:
        return None  # no interface for weights; the error of its reload names the fix
    dtype = _dtype(configured.dtype)
    match configured.transfer:
        case name if name == BACKEND:
            return Stream(client, sync_host or _host_for(client), dtype)
        case "nccl":
            host = sync_host or _host_for(client)

            def nccl(source: _Source) -> Any:
                from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

                world = 1 + client.world_size()
                return NCCLTrainerInitInfo(host, _free_port(host), world, rank=0)

            return VllmTransfer(client, what=_usable(client, "NCCL"), init_info=nccl, dtype=dtype)
        case "ipc":

            def ipc(source: _Source) -> Any:
                from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo

                room = max(_IPC_BUFFER_BYTES, source.largest_bytes())
                return IPCTrainerInitInfo(packed=True, packed_buffer_size_bytes=room, rank=0)

            return VllmTransfer(
                client, what=_usable(client, "CUDA IPC"), init_info=ipc, dtype=dtype
            )
    return None


@contextlib.contextmanager
def reported(client: VllmClient, what: str) -> Iterator[None]:
    """Turn errors of the server and of this process into one with a fix."""
    try:
        yield
    except ServerSaysNo as error:
        if error.status >= 500:
            client.check_alive()
        raise BackendError(
            f"{client}: refuses new {what}: {error}; make sure that it can reach this machine "
            f"(rollout.backend.sync_host){_FIX}"
        ) from error
    except (OSError, RuntimeError, ValueError) as error:
        client.check_alive()
        raise BackendError(f"{client}: {what} did not arrive: {error}{_FIX}") from error


def _usable(client: VllmClient, what: str) -> str:
    import torch

    if not torch.cuda.is_available() or find_spec("vllm") is None:
        needs = "a GPU" if not torch.cuda.is_available() else "vLLM in this environment as well"
        raise BackendError(
            f"{client}: expects weights by {what}, for which the trainer needs {needs}; start it "
            "with --weight-transfer tcp" + _FIX
        )
    return what


def _accelerator() -> torch.device | None:
    import torch

    return torch.accelerator.current_accelerator()


def _dtype(name: str | None) -> torch.dtype | None:
    import torch

    found = getattr(torch, (name or "").removeprefix("torch."), None)
    return found if isinstance(found, torch.dtype) else None


def _host_for(client: VllmClient) -> str:
    """Return the address under which the server's machine can reach this one."""
    host = urlsplit(client.address.url).hostname
    try:
        return reaching(host) if host else "127.0.0.1"  # a Unix socket is on this machine
    except OSError as error:
        raise ServerGone(f"no way to {host}: {error}") from error


def _free_port(host: str) -> int:
    with listen(host) as sock:
        return int(sock.getsockname()[1])
