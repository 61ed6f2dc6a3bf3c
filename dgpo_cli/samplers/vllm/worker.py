"""Extends vLLM's workers. Runs inside vLLM, under --worker-extension-cls.

It registers a transport of weights over TCP (--weight-transfer-config), and makes vLLM's reload
from a folder reach tied output weights.

vLLM 0.32 packs weights for a CPU's kernels when it loads them. New weights repack only layers with
weights of their own; an output layer tied to the embedding has none and would keep computing with
the old packed weights.
"""

from __future__ import annotations

from typing import Any

from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

from dgpo_cli.samplers.vllm.weight_stream import BACKEND

WeightTransferEngineFactory.register_engine(
    BACKEND, "dgpo_cli.samplers.vllm.receiver", "StreamEngine"
)


class FullReload:
    """Mixed into vLLM's worker class."""

    model_runner: Any

    def dgpo_reload_weights(self, weights_path: str) -> int:
        """Reload from a folder; return the number of repacked tied layers."""
        self.model_runner.reload_weights(weights_path=weights_path)
        return pack_tied(self.model_runner.get_model())


def pack_tied(model: Any) -> int:
    """Repack layers that share the weights of another; return their number."""
    layers = list(model.modules())
    tied = [layer for layer in layers if _is_packed(layer) and _shares(layer, layers)]
    for layer in tied:
        layer.quant_method.process_weights_after_loading(layer)
    return len(tied)


def _is_packed(layer: Any) -> bool:
    return hasattr(layer, "cpu_linear") and getattr(layer, "weight", None) is not None


def _shares(layer: Any, layers: list[Any]) -> bool:
    """Whether another layer has the same weights, of nonzero size."""
    weight = layer.weight
    return weight.numel() > 0 and any(
        getattr(other, "weight", None) is not None
        and other is not layer
        and getattr(other.weight, "data_ptr", int)() == weight.data_ptr()
        for other in layers
    )
