"""vLLM's own senders, driven as the trainer drives them, up to where a GPU would be needed."""

from __future__ import annotations

import base64
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from dgpo_cli.core.errors import BackendError
from dgpo_cli.samplers.http_json import Address, ServerSaysNo
from dgpo_cli.samplers.vllm import transfer
from dgpo_cli.samplers.vllm.client import Configured, VllmClient
from dgpo_cli.samplers.vllm.transfer import VllmTransfer, transfer_to

TENSORS = [
    ("embed.weight", torch.arange(12.0).reshape(4, 3)),
    ("norm.weight", torch.ones(3, requires_grad=True)),
    ("turned.weight", torch.arange(6.0).reshape(2, 3).T),
]
SENT = [(name, tensor.detach().to(torch.bfloat16)) for name, tensor in TENSORS]
UUID = "GPU-0"


class Server(VllmClient):
    """Notes what it is told, and reads it as vLLM's workers do."""

    def __init__(self, kind: str) -> None:
        super().__init__(Address("http://127.0.0.1:1"))
        self._configured = Configured("reload_weights", kind, "torch.bfloat16")
        self.told: list[tuple[str, Any]] = []
        self.refuses = ""

    def call(self, method: str, path: str, body: Any = None, *, timeout_s: float = 0.0) -> Any:
        self.told.append((path, body))
        if path == self.refuses:
            raise ServerSaysNo(500, "planted")
        return {"world_size": 2, "success": True}

    @property
    def paths(self) -> list[str]:
        return [path for path, _ in self.told]

    def body(self, path: str) -> Any:
        (found,) = [body for at, body in self.told if at == path]
        return found


class Group:
    """Stands for the communicator of NCCL."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, torch.Tensor]] = []
        self.destroyed = False

    def destroy(self) -> None:
        self.destroyed = True


@pytest.fixture
def group(monkeypatch: pytest.MonkeyPatch) -> Group:
    """A trainer that believes in its GPU, and NCCL replaced by a list."""
    from vllm.distributed.weight_transfer import nccl_engine

    group = Group()

    def broadcast(iterator: Iterator[Any], group: Group, **_: Any) -> None:
        group.sent.extend(iterator)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(transfer, "_accelerator", lambda: torch.device("cpu"))
    monkeypatch.setattr(nccl_engine, "open_trainer_endpoint", lambda info: group)
    monkeypatch.setattr(nccl_engine, "packed_nccl_broadcast_producer", broadcast)
    monkeypatch.setattr(
        nccl_engine.NCCLTrainerWeightTransferEngine, "_post_send_sync", staticmethod(lambda: None)
    )
    return group


UPDATE = ["/start_weight_update", "/update_weights", "/finish_weight_update", "/reset_prefix_cache"]


def way_to(server: Server) -> VllmTransfer:
    way = transfer_to(server, sync_host="127.0.0.1")
    assert isinstance(way, VllmTransfer)
    return way


def same(found: list[tuple[str, torch.Tensor]]) -> bool:
    return all(
        a == b and torch.equal(s, t) and s.dtype == t.dtype
        for (a, s), (b, t) in zip(found, SENT, strict=True)
    )


def test_nccl_meets_once_and_sends_what_it_lists(group: Group) -> None:
    from vllm.distributed.weight_transfer.nccl_engine import (
        NCCLWeightTransferInitInfo,
        NCCLWeightTransferUpdateInfo,
    )

    server = Server("nccl")
    way = way_to(server)
    way.send(TENSORS)
    assert server.paths == ["/get_world_size", "/init_weight_transfer_engine", *UPDATE]
    start = NCCLWeightTransferInitInfo(**server.body("/init_weight_transfer_engine")["init_info"])
    assert (start.world_size, start.rank_offset, start.packed) == (3, 1, True)
    listed = NCCLWeightTransferUpdateInfo(**server.body("/update_weights")["update_info"])
    assert listed.names == [name for name, _ in TENSORS]
    assert listed.dtype_names == ["bfloat16"] * 3
    assert listed.shapes == [list(tensor.shape) for _, tensor in TENSORS]
    assert same(group.sent)
    group.sent.clear()
    way.send(TENSORS)
    assert server.paths[6:] == UPDATE and same(group.sent)  # the group of before
    way.close()
    way.send(TENSORS)
    assert server.paths[10:12] == ["/get_world_size", "/init_weight_transfer_engine"]


@pytest.mark.parametrize("path", ["/init_weight_transfer_engine", "/update_weights"])
def test_a_server_that_refuses_is_an_error_with_its_fix(group: Group, path: str) -> None:
    server = Server("nccl")
    server.refuses = path
    with pytest.raises(BackendError, match=r"weights by NCCL: HTTP 500: planted.*=folder"):
        way_to(server).send(TENSORS)
    assert "/finish_weight_update" not in server.paths


@pytest.mark.parametrize("ranks", [1, 2])
def test_cuda_ipc_sends_handles_that_vllm_reads(
    group: Group, monkeypatch: pytest.MonkeyPatch, ranks: int
) -> None:
    """With several ranks each sends to its own server, without the others."""
    from vllm.distributed.weight_transfer import ipc_engine
    from vllm.distributed.weight_transfer.packed_tensor import PackedIpcChunk

    rooms: list[int] = []

    def chunks(iterator: Iterator[Any], *, buffer_size_bytes: int, **_: Any) -> Iterator[Any]:
        rooms.append(buffer_size_bytes)
        for name, tensor in iterator:
            group.sent.append((name, tensor))
            yield PackedIpcChunk(
                names=[name],
                shapes=[list(tensor.shape)],
                dtype_names=["bfloat16"],
                tensor_sizes=[tensor.numel() * 2],
                ipc_handle={UUID: ("handle", name)},
            )

    class Card:
        uuid = UUID

    monkeypatch.setattr(ipc_engine, "packed_ipc_producer", chunks)
    monkeypatch.setattr(torch.accelerator, "current_device_index", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: Card)
    monkeypatch.setattr(
        ipc_engine.IPCTrainerWeightTransferEngine, "_post_send_sync", staticmethod(lambda: None)
    )
    monkeypatch.setenv("VLLM_ALLOW_INSECURE_SERIALIZATION", "1")
    monkeypatch.setattr(torch.cuda, "ipc_collect", lambda: None)
    if ranks > 1:
        monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.distributed, "get_world_size", lambda: ranks)
    server = Server("ipc")
    way_to(server).send(TENSORS)
    assert server.body("/init_weight_transfer_engine") == {"init_info": {"packed": True}}
    bodies = [body["update_info"] for path, body in server.told if path == "/update_weights"]
    handles = [pickle.loads(base64.b64decode(body["ipc_handles_pickled"])) for body in bodies]
    read = [ipc_engine.IPCWeightTransferUpdateInfo(**body) for body in bodies]
    assert [info.ipc_handles for info in read] == handles
    assert handles == [{UUID: ("handle", name)} for name, _ in TENSORS]
    assert same(group.sent)
    assert rooms == [256 * 2**20]
    monkeypatch.setattr(transfer, "_IPC_BUFFER_BYTES", 1)
    way_to(server).send(TENSORS)
    assert rooms[1] == 4 * 3 * 2  # the largest: less is an error in vLLM
