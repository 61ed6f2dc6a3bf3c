"""Fingerprints of weights and tokenizers on disk: equal for equal content in any folder."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dgpo_cli.core.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor

FULL_BYTES = 1 << 30  # weights up to this size are hashed whole
_EDGE_BYTES = 1 << 20  # hashed at the head and tail of every file of larger ones
_BLOCK = 1 << 22
_EDGE = 64  # numbers at the head and the tail of a trained weight
_ADAPTER = ("adapter_model.safetensors", "adapter_config.json")


def weights_fingerprint(folder: Path) -> dict[str, str]:
    """Return `sha256` of a model folder's config.json and weights, and `method`.

    method "whole files": every byte. "headers, heads and tails": names, types and shapes of all
    tensors, size, first and last MiB of every file; for weights of 1 GiB and more.

    Raises:
        ModelError: the folder has no safetensors files, or one is broken.
    """
    return _fingerprint(weight_files(folder), extra=folder / "config.json")


def adapter_fingerprint(folder: Path) -> dict[str, str]:
    """Return the same for a LoRA adapter, from its weights and adapter_config.json.

    Raises:
        ModelError: the folder has no adapter, or it is broken.
    """
    weights, config = _ADAPTER
    if not (folder / weights).is_file():
        raise ModelError(f"{folder}: no {weights}")
    return _fingerprint([folder / weights], extra=folder / config)


def tokenizer_fingerprint(tokenizer: Any, *, folder: Path) -> str:
    """Return the SHA-256 of the folder's tokenizer.json, or else of the vocabulary as JSON."""
    file = folder / "tokenizer.json"
    if file.is_file():
        return hashlib.sha256(file.read_bytes()).hexdigest()
    vocabulary = json.dumps(tokenizer.get_vocab(), sort_keys=True)
    return hashlib.sha256(vocabulary.encode("ascii")).hexdigest()


def text_fingerprint(value: Any) -> str | None:
    """Return the SHA-256 of a text or of a value as JSON; None for None."""
    if value is None:
        return None
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def model_folder(path: str, *, revision: str | None) -> Path:
    """Return the folder that transformers loads a model from: itself, or the hub's snapshot.

    Raises:
        ModelError: the files of a hub id are not in the cache.
    """
    if (Path(path) / "config.json").is_file():
        return Path(path)
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(path, "config.json", revision=revision)
    if not isinstance(found, str):
        raise ModelError(f"model.path={path}: not in the hub's cache")
    return Path(found).parent


def weight_files(folder: Path) -> list[Path]:
    """Return the files that transformers takes the weights from, sorted by name.

    Raises:
        ModelError: there are none in safetensors.
    """
    index = folder / "model.safetensors.index.json"
    whole = folder / "model.safetensors"
    if whole.is_file():
        return [whole]
    if index.is_file():
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        return [folder / name for name in sorted(names)]
    found = sorted(folder.glob("*.safetensors"))
    if not found:
        pickled = any(folder.glob("*.bin"))
        why = "; its pickled weights (.bin) can run code: convert them" if pickled else ""
        raise ModelError(f"{folder}: no safetensors files{why}")
    return found


def _fingerprint(files: list[Path], *, extra: Path) -> dict[str, str]:
    whole = sum(file.stat().st_size for file in files) < FULL_BYTES
    digest = hashlib.sha256()
    digest.update(_framed(extra.read_bytes()))
    for file in files:
        own = _whole(file) if whole else _edges(file)
        digest.update(_framed(file.name.encode()) + own)
    method = "whole files" if whole else "headers, heads and tails"
    return {"sha256": digest.hexdigest(), "method": method}


def _framed(content: bytes) -> bytes:
    """Return content after its length, so that different sequences of parts differ."""
    return struct.pack("<Q", len(content)) + content


def _whole(path: Path) -> bytes:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.digest()


def _edges(path: Path) -> bytes:
    size = path.stat().st_size
    digest = hashlib.sha256(struct.pack("<Q", size))
    with path.open("rb") as file:
        raw = file.read(8)
        length = struct.unpack("<Q", raw)[0] if len(raw) == 8 else size
        if length > size - 8:
            raise ModelError(f"{path}: not a safetensors file, or incomplete")
        digest.update(_framed(file.read(length)))  # names, types, shapes
        digest.update(_framed(file.read(_EDGE_BYTES)))
        file.seek(max(8 + length, size - _EDGE_BYTES))
        digest.update(_framed(file.read(_EDGE_BYTES)))
    return digest.digest()


def trained_fingerprint(named: Sequence[tuple[str, Tensor]]) -> str:
    """Return a SHA-256 over trained weights: name, shape, two sums and some numbers of each.

    Fast for billions of weights, and different after any update. Collective where they are sharded.
    """
    import torch

    digest = hashlib.sha256()
    for name, weight in named:
        whole = weight.full_tensor() if hasattr(weight, "full_tensor") else weight
        flat = whole.detach().reshape(-1)
        sums = torch.stack([flat.sum(dtype=torch.float64), flat.double().square().sum()])
        edges = torch.cat([flat[:_EDGE], flat[-_EDGE:]]).double()
        digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
        digest.update(torch.cat([sums, edges]).cpu().numpy().tobytes())
    return digest.hexdigest()
