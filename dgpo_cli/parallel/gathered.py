"""The whole tensors of a sharded model, one at a time, as a checkpoint has them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from dgpo_cli.parallel.sharding import root_of


@dataclass(frozen=True, slots=True)
class Described:
    """A tensor of a checkpoint, without its values."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Unit:
    """Weights of a model (by name) and the tensors of a checkpoint that they become.

    same: one weight, which is the tensor of that name; experts, say, are apart in checkpoints.
    """

    sources: Mapping[str, Tensor]
    tensors: tuple[Described, ...]
    same: bool

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors)


class Gathered:
    """The weights of a causal model by the names of a checkpoint; tied ones come once.

    Iterating is collective and gathers one after the other, so that nobody holds the whole model.
    What they are like is known without gathering. Not for a model with an adapter.
    """

    def __init__(self, model: nn.Module, *, dtype: torch.dtype | None = None) -> None:
        """dtype: of floating-point tensors; None: as stored."""
        self._root = root_of(model)
        self._dtype = dtype
        self.units = tuple(_units(self._root, dtype=dtype))

    @property
    def described(self) -> tuple[Described, ...]:
        return tuple(tensor for unit in self.units for tensor in unit.tensors)

    def __len__(self) -> int:
        return sum(len(unit.tensors) for unit in self.units)

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        for unit in self.units:
            yield from self.converted(unit, self.gather(unit)).items()

    def gather(self, unit: Unit) -> dict[str, Tensor]:
        """Return the whole weights of a unit. Collective."""
        with torch.no_grad():
            return {n: whole_of(_cast(t, self._dtype)) for n, t in unit.sources.items()}

    def converted(self, unit: Unit, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors of a checkpoint that the weights of a unit become."""
        return dict(weights) if unit.same else _reverted(self._root, weights)


def whole_of(tensor: Tensor) -> Tensor:
    """Return the whole of a sharded tensor; a plain one itself. Collective."""
    if not isinstance(tensor, DTensor):
        return tensor.detach()
    with torch.no_grad():
        whole: Tensor = tensor.full_tensor()
    return whole.detach()


def _cast(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    return tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor


def _units(root: Any, *, dtype: torch.dtype | None) -> Iterator[Unit]:
    state = root.state_dict().keys()
    ignored = set(getattr(root, "_keys_to_ignore_on_save", None) or ())
    named = [*root.named_parameters(), *root.named_buffers()]
    own = {name: t for name, t in named if name in state and name not in ignored}
    plain = {n: _cast(_like(t), dtype) for n, t in own.items()}
    together = _reverted(root, plain)
    same = {name for name, empty in plain.items() if together.get(name) is empty}
    apart = {n: _reverted(root, {n: empty}) for n, empty in plain.items() if n not in same}
    left = {name: t for name, t in together.items() if name not in same}
    if _shapes(left) != _shapes({k: t for found in apart.values() for k, t in found.items()}):
        yield Unit(own, _described(together), same=False)  # some become one tensor together
        return
    for name, tensor in own.items():
        found = {name: plain[name]} if name in same else apart[name]
        yield Unit({name: tensor}, _described(found), same=name in same)


def _like(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")


def _reverted(root: Any, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights under the names, and in the pieces, that the model was loaded from."""
    from transformers.core_model_loading import revert_weight_conversion

    found: dict[str, Tensor] = revert_weight_conversion(root, dict(weights))
    return found


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _described(tensors: Mapping[str, Tensor]) -> tuple[Described, ...]:
    return tuple(Described(n, tuple(t.shape), t.dtype) for n, t in tensors.items())
