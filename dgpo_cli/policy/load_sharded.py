"""Loads a causal model sharded over the ranks: no rank ever holds a whole copy."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dgpo_cli.core.digests import check_loaded
from dgpo_cli.parallel.ranks import Ranks
from dgpo_cli.policy import attention, load
from dgpo_cli.policy.settings import ModelSettings

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"


@dataclass(frozen=True, slots=True)
class Spread:
    """The ranks and their mesh. offload: keep the reference in host memory between its passes."""

    ranks: Ranks
    mesh: DeviceMesh
    offload: bool = False

    def load(
        self,
        settings: ModelSettings,
        *,
        folder: Path | None = None,
        adapt: Callable[[Any], Any] = lambda model: model,
        notes: list[str],
    ) -> Any:
        """Load the policy's model; see `load_sharded`."""
        return load_sharded(
            settings, ranks=self.ranks, mesh=self.mesh, folder=folder, adapt=adapt, notes=notes
        )

    def load_reference(self, settings: ModelSettings) -> Any:
        """Load the frozen model of full training."""
        return load_sharded(
            reference_settings(settings),
            ranks=self.ranks,
            mesh=self.mesh,
            adapt=lambda model: model.requires_grad_(False),
            offload=self.offload,
        )


def load_sharded(
    settings: ModelSettings,
    *,
    ranks: Ranks,
    mesh: DeviceMesh,
    folder: Path | None = None,
    adapt: Callable[[Any], Any] = lambda model: model,
    offload: bool = False,
    notes: list[str] | None = None,
) -> Any:
    """Load what `load.load_model` would, sharded over a mesh of all ranks. Collective.

    The weights are those that transformers would load, to the bit.

    Args:
        adapt: adds an adapter or freezes weights, and returns the model; it sees weights without
            values.
        offload: keep the shards in host memory.

    Raises:
        ModelError, ConfigError, CheckpointError: see `load.load_model`.
    """
    import torch

    from dgpo_cli.parallel import weights
    from dgpo_cli.parallel.sharding import run_inside, shard

    device = torch.device(mesh.device_type)
    location = str(folder) if folder else load.model_location(settings.path)
    if ranks.leads:
        check_loaded(Path(location))
    base = _in_turn(ranks, lambda: _without_memory(settings, location=location, folder=folder))
    revision = None if folder else settings.revision
    places = weights.places_of(base, _files(location, revision=revision))
    direct = ranks.share(places is not None)
    whole = None if direct or not ranks.leads else _whole(settings, location, folder)
    twice = weights.tied_twice(base)
    if twice:
        equal = [_equal(pair, places, whole) for pair in twice] if ranks.leads else None
        weights.tie(base, twice, equal=ranks.share(equal))
    with weights.hollow(base):
        model = adapt(base)
    shard(model, mesh=mesh, compute=load.compute_dtype(settings), offload=offload)
    weights.take_memory(model, device=torch.device("cpu") if offload else device)
    if direct:
        assert places is not None
        weights.fill(model, places)
    else:
        weights.fill_from_leader(
            model, None if whole is None else whole.state_dict(), device=device
        )
    with torch.no_grad():
        note = run_inside(model, lambda: attention.settle(base, chosen=settings.attention))
    if note is not None and notes is not None:
        notes.append(note)
    return model.eval()


def reference_settings(settings: ModelSettings) -> ModelSettings:
    """Return the settings of a frozen model, which needs no more than the dtype it computes in.

    Weights of the policy are rounded to that for every pass, so equal models stay equal.
    """
    import torch

    if load.compute_dtype(settings) != torch.bfloat16:
        return settings
    return settings.model_copy(update={"dtype": "bfloat16"})


def _in_turn(ranks: Ranks, work: Callable[[], Any]) -> Any:
    """Run work on one rank of each machine first: it may download what the others then find."""
    if ranks.count == 1:
        return work()
    turn = ranks.channel()  # a download may take longer than a collective may
    found = work() if ranks.local == 0 else None
    turn.gather(None)
    return work() if ranks.local else found


def _without_memory(settings: ModelSettings, *, location: str, folder: Path | None) -> Any:
    """Build the model on the meta device; its buffers have their values."""
    model = load.from_pretrained(settings, location=location, folder=folder, device_map="meta")
    load.without_dropout(model)
    _restore_buffers(model, settings=settings)
    return model


def _restore_buffers(model: Any, *, settings: ModelSettings) -> None:
    """Compute the buffers that a checkpoint does not have, as the model's constructor does."""
    import torch
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM

    stored = model.state_dict().keys()
    missing = [n for n, buffer in model.named_buffers() if n not in stored and buffer.is_meta]
    if not missing:
        return
    with torch.random.fork_rng(devices=[]), init_empty_weights(include_buffers=False):
        twin = AutoModelForCausalLM.from_config(
            copy.deepcopy(model.config),
            dtype=getattr(torch, settings.dtype),
            trust_remote_code=settings.trust_remote_code,
        )
    for name in missing:
        owner, _, last = name.rpartition(".")
        model.get_submodule(owner)._buffers[last] = twin.get_buffer(name)


def _files(location: str, *, revision: str | None) -> list[Path]:
    """Return the files that transformers loads from a folder or the hub's cache; [] if others."""
    import json

    def found(name: str) -> Path | None:
        if Path(location).is_dir():
            path = Path(location) / name
            return path if path.is_file() else None
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(location, name, revision=revision)
        return Path(cached) if isinstance(cached, str) else None

    single, index = found(_SINGLE), found(_INDEX)
    if single is not None:
        return [single]
    if index is None:
        return []
    names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    parts = [found(name) for name in names]
    return [part for part in parts if part is not None] if None not in parts else []


def _whole(settings: ModelSettings, location: str, folder: Path | None) -> Any:
    return load.from_pretrained(settings, location=location, folder=folder)


def _equal(pair: tuple[str, str], places: Any, whole: Any) -> bool:
    """Whether two weights are equal: as in the files, or tied in the loaded model."""
    from dgpo_cli.parallel import weights

    if whole is None:
        return weights.are_equal(pair, places)
    state = whole.state_dict(keep_vars=True)
    return state[pair[0]] is state[pair[1]]
