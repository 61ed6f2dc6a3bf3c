"""Fills a sharded model from safetensors files: every rank reads its own rows and nothing else.

A model is built on the meta device, without memory; its files say where each weight is. A family
whose checkpoints hold other tensors than its modules (experts that are stacked, say) is loaded by
the leader alone, which sends one tensor at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import safe_open
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from dgpo_cli.parallel.sharding import local_of, root_of

Place = tuple[Path, str]  # a file and the name of a tensor in it


def places_of(model: Any, files: Sequence[Path]) -> dict[str, Place] | None:
    """Return where each parameter and stored buffer of a causal model is, by its name in the model.

    A tied weight is listed under every name. None if the tensors in the files are not those of the
    model: then only transformers knows how to load it.
    """
    if not files or getattr(model, "_weight_conversions", None):
        return None
    stored: dict[str, tuple[Place, tuple[int, ...]]] = {}
    for file in files:
        with safe_open(str(file), framework="pt") as opened:
            for key in opened.keys():  # noqa: SIM118
                stored[key] = (file, key), tuple(opened.get_slice(key).get_shape())
    prefix = f"{model.base_model_prefix}."
    found: dict[str, Place] = {}
    for names, tensor in _by_tensor(model):
        spelt = [each for n in names for each in (n, n.removeprefix(prefix), prefix + n)]
        key = next((each for each in spelt if each in stored), None)
        if key is None or stored[key][1] != tuple(tensor.shape):
            return None
        found |= dict.fromkeys(names, stored[key][0])
    return found


def _by_tensor(model: nn.Module) -> Iterator[tuple[list[str], Tensor]]:
    """Yield each tensor that a checkpoint has, with all its names."""
    names: dict[int, list[str]] = {}
    state = model.state_dict(keep_vars=True)
    for name, tensor in state.items():
        names.setdefault(id(tensor), []).append(name)
    for group in names.values():
        yield group, state[group[0]]


def tied_twice(model: Any) -> list[tuple[str, str]]:
    """Return pairs of weights that the configuration ties, but the files hold twice.

    They are tied if they are equal, which a model without memory cannot tell.
    """
    return [
        (target, source)
        for target, source in dict(getattr(model, "all_tied_weights_keys", None) or {}).items()
        if _tensor(model, target) is not _tensor(model, source)
    ]


def are_equal(pair: tuple[str, str], places: Mapping[str, Place]) -> bool:
    """Whether two weights are equal in the files."""
    one, other = (_read(places[name]) for name in pair)
    return one.dtype == other.dtype and torch.equal(one, other)


def _read(place: Place) -> Tensor:
    with safe_open(str(place[0]), framework="pt") as opened:
        tensor: Tensor = opened.get_tensor(place[1])
        return tensor


def tie(model: Any, pairs: Sequence[tuple[str, str]], *, equal: Sequence[bool]) -> None:
    """Tie those of the pairs of `tied_twice` that are equal, and the others never."""
    for (target, source), same in zip(pairs, equal, strict=True):
        if same:
            owner, _, name = target.rpartition(".")
            setattr(model.get_submodule(owner), name, _tensor(model, source))
        else:
            model.all_tied_weights_keys.pop(target, None)


def _tensor(model: nn.Module, name: str) -> Tensor:
    owner, _, last = name.rpartition(".")
    tensor: Tensor = getattr(model.get_submodule(owner), last)
    return tensor


@contextmanager
def hollow(model: nn.Module) -> Iterator[None]:
    """Stand in for weights on the meta device with host tensors that take no memory.

    peft puts an adapter where the weights are, and one on the meta device would lose its values.
    """

    def stand_in(weight: Tensor) -> Tensor:
        return (
            torch.zeros((), dtype=weight.dtype).expand(weight.shape) if weight.is_meta else weight
        )

    def back(weight: Tensor) -> Tensor:
        holds = weight.untyped_storage().nbytes()
        empty = holds < weight.numel() * weight.element_size()
        return torch.empty_like(weight, device="meta") if empty else weight

    _replace(model, stand_in)
    try:
        yield
    finally:
        _replace(model, back)


def _replace(model: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
    """Replace parameters; those that are tied stay tied."""
    known: dict[int, nn.Parameter] = {}
    old = []  # kept, so that no id is used twice
    for module in model.modules():
        for name, weight in module.named_parameters(recurse=False):
            if id(weight) not in known:
                old.append(weight)
                new = change(weight)
                own = nn.Parameter(new, requires_grad=weight.requires_grad)
                known[id(weight)] = weight if new is weight else own
            module._parameters[name] = known[id(weight)]


def take_memory(model: nn.Module, *, device: torch.device) -> None:
    """Give the shards and buffers of a model that is on the meta device memory of their own."""

    def made(weight: Tensor) -> Tensor:
        if not isinstance(weight, DTensor) or not weight.is_meta:
            return weight
        return DTensor.from_local(
            torch.empty_like(weight.to_local(), device=device),
            weight.device_mesh,
            weight.placements,
            run_check=False,
            shape=weight.shape,
            stride=weight.stride(),
        )

    root = root_of(model)
    _replace(root, made)
    for module in root.modules():
        for name, buffer in module._buffers.items():
            if buffer is not None and buffer.is_meta:
                module._buffers[name] = torch.empty_like(buffer, device=device)


def fill(model: nn.Module, places: Mapping[str, Place]) -> None:
    """Read the own rows of every weight of a causal model from its files, file by file."""
    of_files: dict[Path, list[tuple[str, Tensor]]] = {}
    for name, tensor in _of_checkpoint(model):
        file, key = places[name]
        of_files.setdefault(file, []).append((key, tensor))
    with torch.no_grad():
        for file, tensors in sorted(of_files.items()):
            with safe_open(str(file), framework="pt") as opened:
                for key, tensor in tensors:
                    whole, (start, stop) = opened.get_slice(key), rows_of(tensor)
                    local_of(tensor).copy_(whole[start:stop] if tensor.ndim else whole[...])


def fill_from_leader(
    model: nn.Module, tensors: Mapping[str, Tensor] | None, *, device: torch.device
) -> None:
    """Take the own rows of every weight of a causal model that the leader has whole.

    tensors: the leader's, by the names of the model; None for the others.
    device: of collectives.
    """
    with torch.no_grad():
        for name, tensor in _of_checkpoint(model):
            if tensors is None:
                whole = torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
            else:
                whole = tensors[name].to(device, tensor.dtype).contiguous()
            dist.broadcast(whole, src=0)
            start, stop = rows_of(tensor)
            local_of(tensor).copy_(whole[start:stop] if tensor.ndim else whole)


def _of_checkpoint(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield what a checkpoint of the model without its adapter has, each tensor once."""
    root = root_of(model)
    state = root.state_dict().keys()
    for name, tensor in [*root.named_parameters(), *root.named_buffers()]:
        if name in state and "lora_" not in name:
            yield name.replace(".base_layer.", "."), tensor


def rows_of(tensor: Tensor) -> tuple[int, int]:
    """Return the first and the end of the rows that this rank holds; of a plain tensor all."""
    count = tensor.shape[0] if tensor.ndim else 1
    if not isinstance(tensor, DTensor):
        return 0, count
    mesh = tensor.device_mesh
    size = -(-count // mesh.size(mesh.ndim - 1))
    start = min(count, mesh.get_local_rank(mesh.ndim - 1) * size)
    return start, min(count, start + size)
