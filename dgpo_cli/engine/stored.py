"""A model on disk, to sample from through an engine that loads it: no weights in this process."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dgpo_cli.core.digests import STATE, check_loaded
from dgpo_cli.core.errors import BackendError, ModelError
from dgpo_cli.core.token_texts import completion_text, spelled
from dgpo_cli.policy import load
from dgpo_cli.policy.fingerprint import weight_files
from dgpo_cli.policy.policy import CANARY
from dgpo_cli.policy.settings import ModelSettings

if TYPE_CHECKING:
    import torch

    from dgpo_cli.samplers.base import Named

_ADAPTER = ("adapter_model.safetensors", "adapter_config.json")
_INDEX = "model.safetensors.index.json"
# A layer's name, and which of its two factors.
_HALF = re.compile(r"(?:base_model\.model\.)?(.+)\.lora_(?:embedding_)?([AB])(?:\.weight)?")


class StoredPolicy:
    """The files of a model, and of an adapter on it, with tokenizer and config.

    Satisfies samplers.base.TrainedWeights: a tensor is read when it is sent, one at a time.
    """

    in_memory = False
    untouched = True  # its files are what `model.path` names
    compute = None  # nothing is computed here

    def __init__(
        self,
        settings: ModelSettings,
        *,
        folder: Path,
        tokenizer: Any,
        config: Any,
        stop_ids: frozenset[int],
        adapter: Path | None,
    ) -> None:
        """folder: of the model's files."""
        self.tokenizer = tokenizer
        self.stop_ids = stop_ids
        self.folder = folder
        self.has_adapter = adapter is not None
        self._settings = settings
        self._config = config
        self._adapter = adapter
        load.check_ends(stop_ids, vocab_size=self.embeddings)
        if adapter is not None and not self._is_packed:
            _check_fit(adapter, base=StoredTensors.of(weight_files(folder)))
        self.adapter_rank = 0 if adapter is None else _rank_of(adapter)

    @cached_property
    def device(self) -> torch.device:
        """The device of the settings, which an engine of this process takes."""
        return load.pick_device(self._settings.device)

    @property
    def embeddings(self) -> int:
        """Number of token ids that the model accepts."""
        return int(self._config.get_text_config().vocab_size)

    @property
    def is_eager(self) -> bool:
        """Whether the settings ask for eager attention; the engine has its own."""
        return self._settings.attention == "eager"

    @property
    def is_checkpoint(self) -> bool:
        """Whether the weights are those of a checkpoint of a run."""
        return (self.folder / STATE).is_file()

    def use_device(self) -> None:
        """See Policy.use_device: this process computes nothing."""

    # TrainedWeights.

    def decode(self, token_ids: Sequence[int]) -> str:
        """See TrainedWeights.decode."""
        return completion_text(self.tokenizer, token_ids)

    def spell(self, token_ids: Sequence[int]) -> str:
        """See TrainedWeights.spell."""
        return spelled(self.tokenizer, token_ids)

    def save(self, folder: Path) -> None:
        """Copy the adapter, or without one the model's files."""
        folder.mkdir(parents=True, exist_ok=True)
        if self._adapter is not None:
            files = [self._adapter / name for name in _ADAPTER]
        else:
            files = [self.folder / "config.json", *weight_files(self.folder), self.folder / _INDEX]
        for file in files:
            if file.is_file():
                shutil.copyfile(file, folder / file.name)

    def tensors(self) -> StoredTensors:
        """See TrainedWeights.tensors.

        Raises:
            BackendError: they are packed, so that a server cannot take them one by one.
        """
        if self._is_packed:
            raise BackendError(
                f"model.path={self._settings.path}: its weights are quantized, and cannot be sent "
                "to a running server; set rollout.backend.kind=vllm"
            )
        return StoredTensors.of(weight_files(self.folder))

    @property
    def _is_packed(self) -> bool:
        return getattr(self._config, "quantization_config", None) is not None

    def canary_ids(self) -> tuple[int, ...]:
        """See TrainedWeights.canary_ids."""
        return tuple(self.tokenizer.encode(CANARY, add_special_tokens=False))

    def logprobs_of(
        self, ids: Sequence[int], *, temperature: float, adapter: bool = True
    ) -> list[float]:
        """Not for weights that are not in memory."""
        raise NotImplementedError

    def release(self) -> None:
        """See TrainedWeights.release: there is nothing on a device."""


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor in a file. See samplers.base.Described."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    file: Path


@dataclass(frozen=True, slots=True)
class StoredTensors:
    """The tensors of safetensors files. See samplers.base.GatheredWeights."""

    described: Sequence[StoredTensor]

    @classmethod
    def of(cls, files: Sequence[Path]) -> StoredTensors:
        """List the tensors of some files, whose numbers are not read."""
        from safetensors import SafetensorError, safe_open

        found = []
        for file in files:
            try:
                with safe_open(str(file), framework="pt") as opened:
                    for name in opened.keys():  # noqa: SIM118
                        tensor = opened.get_tensor(name)  # mapped, not read
                        found.append(StoredTensor(name, tensor.dtype, tuple(tensor.shape), file))
            except (OSError, SafetensorError) as error:
                raise ModelError(f"{file}: cannot be read: {error}") from error
        return cls(found)

    def __iter__(self) -> Iterator[Named]:
        from safetensors import safe_open

        for each in self.described:
            # Opened for each: what was read before is unmapped.
            with safe_open(str(each.file), framework="pt") as opened:
                yield each.name, opened.get_tensor(each.name)


def load_stored(settings: ModelSettings, *, adapter: Path | None) -> StoredPolicy:
    """Read what is needed of a model that an engine loads, and check its files.

    adapter: folder of a saved adapter.

    Raises:
        ModelError: the model or adapter cannot be found or read, or the two do not fit.
        CheckpointError: one is a damaged checkpoint.
    """
    config = load.load_config(settings)
    folder = load.fetch_weights(settings)
    check_loaded(folder)
    if adapter is not None:
        _check_adapter(adapter)
    tokenizer = load.load_tokenizer(settings, folder=adapter)
    generation = load.load_generation_config(settings, config=config)
    return StoredPolicy(
        settings,
        folder=folder,
        tokenizer=tokenizer,
        config=config,
        stop_ids=load.stop_ids_of(generation, tokenizer),
        adapter=adapter,
    )


def _check_adapter(folder: Path) -> None:
    load.check_has_adapter(folder)
    check_loaded(folder)
    if not (folder / _ADAPTER[0]).is_file():
        raise ModelError(f"{folder}: no {_ADAPTER[0]}; vLLM gets an adapter as that file")


def _rank_of(folder: Path) -> int:
    """Return the largest rank of an adapter."""
    file = folder / _ADAPTER[1]
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        return max([int(config["r"]), *map(int, (config.get("rank_pattern") or {}).values())])
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelError(f"{file}: not the configuration of a LoRA adapter") from error


def _check_fit(folder: Path, *, base: StoredTensors) -> None:
    """Compare the sizes of an adapter with those of the base's layers; vLLM would cut them.

    Layers whose name in the files is another one are left out.

    Raises:
        ModelError: the message names the first layer that differs.
    """
    shapes = {each.name: each.shape for each in base.described}
    halves: dict[str, dict[str, tuple[int, ...]]] = {}
    for each in StoredTensors.of([folder / _ADAPTER[0]]).described:
        if (parts := _HALF.fullmatch(each.name)) is not None:
            halves.setdefault(parts[1], {})[parts[2]] = each.shape
    for layer, half in halves.items():
        own = shapes.get(f"{layer}.weight")
        if own is None or half.keys() != {"A", "B"}:
            continue
        adapted = (half["B"][0], half["A"][-1])
        if sorted(adapted) != sorted(own):  # an embedding's are the other way round
            raise ModelError(
                f"{folder}: is the adapter of another model: its {layer} is {adapted[0]} x "
                f"{adapted[1]}, the model's {' x '.join(map(str, own))}"
            )
