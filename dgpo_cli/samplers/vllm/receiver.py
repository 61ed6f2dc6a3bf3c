"""The receiving end of weights over TCP, in vLLM's workers: a transport for its own interface.

Written for vLLM 0.32's WeightTransferEngine; runs inside vLLM.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.model_executor.model_loader.reload import (
    finalize_layerwise_reload,
    initialize_layerwise_reload,
)

from dgpo_cli.samplers.vllm.weight_stream import Listing, receive
from dgpo_cli.samplers.vllm.worker import pack_tied


@dataclass
class StreamInit(WeightTransferInitInfo):  # type: ignore[misc]
    """Where the trainer listens, and its token; new for every transfer."""

    host: str
    port: int
    token: str


@dataclass
class StreamUpdate(WeightTransferUpdateInfo):  # type: ignore[misc]
    """The tensors; see Listing."""

    names: list[str]
    dtype_names: list[str]
    shapes: list[list[int]]


class StreamEngine(WeightTransferEngine):  # type: ignore[misc]
    """Reads checkpoint tensors from the trainer and loads them layer by layer."""

    init_info_cls = StreamInit
    update_info_cls = StreamUpdate
    _from: StreamInit | None = None

    def init_transfer_engine(self, init_info: StreamInit) -> None:
        """Remember where the weights of the next update come from."""
        self._from = init_info

    def start_weight_update(self) -> None:
        """Prepare every layer for weights as in a checkpoint."""
        initialize_layerwise_reload(self.model)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Read and load everything; vLLM's own version asks for an accelerator."""
        self.receive_weights(self.parse_update_info(update_info))
        if self.device.type != "cpu":
            torch.accelerator.synchronize()

    def receive_weights(self, update_info: StreamUpdate) -> None:
        """Read everything from the trainer.

        Raises:
            RuntimeError: the stream breaks off. Some layers then have new weights and some old
                ones; the next update starts over.
        """
        start = self._from
        if start is None:
            raise RuntimeError("init_weight_transfer_engine was not called")
        listing = Listing(update_info.names, update_info.dtype_names, update_info.shapes)
        try:
            self.model.load_weights(
                receive(listing, host=start.host, port=start.port, token=start.token)
            )
        except BaseException as error:
            # Half-loaded layers would count their weights towards the next update.
            finalize_layerwise_reload(self.model, self.model_config)
            if isinstance(error, OSError):
                raise RuntimeError(f"weights from {start.host}:{start.port}: {error}") from error
            raise

    def finish_weight_update(self) -> None:
        """Compute with the new weights from now on."""
        finalize_layerwise_reload(self.model, self.model_config)
        pack_tied(self.model)

    def shutdown(self) -> None:
        """Forget the trainer; nothing else is kept between updates."""
        self._from = None
