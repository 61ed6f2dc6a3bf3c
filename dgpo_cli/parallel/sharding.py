"""Shards a model's weights over the ranks (FSDP2): each rank holds 1/N of every tensor.

The layers of the decoder are gathered one at a time, forward and backward; everything else
(embedding, final norm, head) is the root, whose weights are whole while a pass runs. Gradients are
summed over the ranks, not averaged: normalisers are those of the whole update.

Where a function is collective, every rank must call it, in the same order.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from weakref import WeakSet

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor
from torch.utils._pytree import tree_leaves

from dgpo_cli.core.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")

_WORK = "_dgpo_work"  # the method of a root that runs something inside a forward pass
_WHOLE: WeakSet[nn.Module] = WeakSet()  # roots whose weights are whole at present


def make_mesh(kind: Literal["shard", "hybrid"], *, device_type: str, node_size: int) -> DeviceMesh:
    """Return all ranks as a mesh to shard over. Collective; one serves policy and reference.

    Args:
        kind: hybrid shards within a machine, and every machine holds all weights.
        node_size: ranks of a machine, which have consecutive numbers.
    """
    count = torch.distributed.get_world_size()
    if kind == "shard":
        return init_device_mesh(device_type, (count,), mesh_dim_names=("ranks",))
    assert count % node_size == 0
    shape = count // node_size, node_size
    return init_device_mesh(device_type, shape, mesh_dim_names=("nodes", "ranks"))


def shard(
    model: nn.Module, *, mesh: DeviceMesh, compute: torch.dtype | None, offload: bool = False
) -> None:
    """Shard the weights of a causal model, with an adapter or without, in place.

    Weights may be on the meta device; see weights.py. What is trained and what is frozen must be
    settled, and an adapter added. Afterwards every forward pass runs in `run_inside`.

    Args:
        compute: dtype in which weights are gathered; None: as stored. Gradients are summed in
            float32.
        offload: keep the shards in host memory.

    Raises:
        ModelError: the model has weights that cannot be sharded.
    """
    root = root_of(model)
    _check_weights(root)
    precision = MixedPrecisionPolicy(
        param_dtype=compute, reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    cuda = mesh.device_type == "cuda"
    place = CPUOffloadPolicy(pin_memory=cuda) if offload else OffloadPolicy()
    for module, reshard in [*((layer, True) for layer in layers_of(root)), (root, False)]:
        fully_shard(
            module,
            mesh=mesh,
            mp_policy=precision,
            offload_policy=place,
            reshard_after_forward=reshard,
        )
    for module in _sharded_modules(root):
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)
        if module is not root and any(isinstance(part, nn.ModuleList) for part in module.modules()):
            _reduce_unused(module)
    setattr(root, _WORK, lambda work: work())
    register_fsdp_forward_method(root, _WORK)


def _reduce_unused(layer: Any) -> None:
    """Let an expert that got no token on this rank take part in the sum, with zeros."""
    if hasattr(layer, "set_reduce_scatter_unused_params"):  # not in torch's earlier versions
        layer.set_reduce_scatter_unused_params(True, recurse=False)


def root_of(model: nn.Module) -> nn.Module:
    """Return the causal model itself, without peft's wrapper."""
    root: nn.Module = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
    return root


def is_sharded(model: nn.Module) -> bool:
    return isinstance(root_of(model), FSDPModule)


def run_inside(model: nn.Module, work: Callable[[], T], *, keep: bool = False) -> T:
    """Return work(), which runs inside a forward pass of the root: embedding, norm and head are
    whole plain tensors there. Collective. A model that is not sharded just runs it.

    Args:
        work: returns a tensor, or a tuple, list or dict of them: the backward pass starts from
            those that autograd finds there.
        keep: leave the root's own weights whole afterwards, until `release`.
    """
    root = root_of(model)
    if not isinstance(root, FSDPModule) or root in _WHOLE:
        return work()
    _WHOLE.add(root)
    try:
        found: T = getattr(root, _WORK)(work)
    except BaseException:
        if hasattr(root, "reset_iter_state"):
            root.reset_iter_state()
        raise
    finally:
        _WHOLE.discard(root)
    if not keep and not any(getattr(leaf, "requires_grad", False) for leaf in tree_leaves(found)):
        # The root is kept for a backward pass. Without one it would outlive an optimiser's step.
        root.reshard()
    return found


def release(model: nn.Module) -> None:
    """Shard the root's own weights again."""
    root = root_of(model)
    if isinstance(root, FSDPModule) and root not in _WHOLE:
        root.reshard()


@contextmanager
def whole(model: nn.Module) -> Iterator[None]:
    """Hold all weights whole, so that passes without gradient are not collective. Collective at
    both ends. For a sampler whose ranks decode different lengths.
    """
    root = root_of(model)
    if not isinstance(root, FSDPModule) or root in _WHOLE:
        yield
        return
    # A pass of the root tells its layers that they are not roots themselves.
    getattr(root, _WORK)(lambda: ())
    parts = _sharded_modules(root)
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    _WHOLE.add(root)
    try:
        with torch.no_grad():
            yield
    finally:
        _WHOLE.discard(root)
        for part in parts:
            part.reshard()
            part.set_reshard_after_forward(part is not root, recurse=False)
        # FSDP has noted every pass, to fetch layers ahead in a backward pass. What a rank has
        # sampled would decide what it fetches, and ranks that fetch otherwise wait for ever.
        root._get_fsdp_state()._comm_ctx.post_forward_order.clear()  # no public way


def layers_of(root: nn.Module) -> list[nn.Module]:
    """Return the repeated layers of a model that share no weight with anything else."""
    layers = [layer for layer in _listed(root) if next(layer.parameters(), None) is not None]
    layers_with: dict[int, set[int]] = defaultdict(set)
    for number, layer in enumerate(layers):
        for part in layer.modules():
            layers_with[id(part)].add(number)
    owners: dict[int, set[int]] = defaultdict(set)
    for part in root.modules():
        for weight in part.parameters(recurse=False):
            owners[id(weight)] |= layers_with.get(id(part), {-1})
    return [
        layer
        for number, layer in enumerate(layers)
        if all(owners[id(weight)] == {number} for weight in layer.parameters())
    ]


def _listed(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the entries of the outermost lists of modules."""
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield from child
        else:
            yield from _listed(child)


def _sharded_modules(root: nn.Module) -> list[Any]:
    return [module for module in root.modules() if isinstance(module, FSDPModule)]


def _check_weights(root: nn.Module) -> None:
    """Raise a ModelError for weights that FSDP cannot shard."""
    fix = "set parallel.kind=replicate"
    for name, weight in root.named_parameters():
        if not weight.is_floating_point():
            raise ModelError(f"{name} is quantised, which cannot be sharded; {fix}")
        if weight.ndim == 0:
            raise ModelError(f"{name} is a single number, which cannot be sharded; {fix}")
    trained = {str(p.dtype).removeprefix("torch.") for p in root.parameters() if p.requires_grad}
    if len(trained) > 1:
        raise ModelError(
            f"the trained weights are stored as {' and '.join(sorted(trained))}, which cannot be "
            "sharded together; set model.dtype=float32"
        )


def local_of(tensor: Tensor) -> Tensor:
    """Return a rank's own rows of a sharded tensor; a plain tensor itself."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
