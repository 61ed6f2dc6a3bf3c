"""Loads a policy: model, adapter, reference and tokenizer."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dgpo_cli.policy import load
from dgpo_cli.policy.policy import Policy
from dgpo_cli.policy.settings import CheckpointingKind, LoraAdapter, ModelSettings, NoAdapter

if TYPE_CHECKING:
    from dgpo_cli.policy.load_sharded import Spread


def load_policy(
    settings: ModelSettings,
    *,
    adapter: LoraAdapter | NoAdapter,
    seed: int,
    with_reference: bool,
    checkpoint: Path | None = None,
    spread: Spread | None = None,
    checkpointing: CheckpointingKind | None = None,
) -> Policy:
    """Load a policy to train: weights from `checkpoint` if given, reference from `settings`.

    Args:
        spread: how its weights are sharded over the ranks, which all load it; None: they are not.
        checkpointing: the kind; None: that of the settings, where auto is full.

    Raises:
        ModelError: something does not load.
    """
    tokenizer = load.load_tokenizer(settings, folder=checkpoint)
    notes: list[str] = []
    if isinstance(adapter, LoraAdapter):
        adapt = partial(_adapted, adapter=adapter, seed=seed, checkpoint=checkpoint)
        if spread is None:
            model = adapt(load.load_model(settings, notes=notes))
        else:
            model = spread.load(settings, adapt=adapt, notes=notes)
        load.name_base(model, settings=settings)
        reference = None
    elif spread is not None:
        model = spread.load(settings, folder=checkpoint, notes=notes)
        reference = spread.load_reference(settings) if with_reference else None
    else:
        model = load.load_model(settings, folder=checkpoint, notes=notes)
        reference = _reference(settings, model=model, fresh=checkpoint is None, on=with_reference)
    policy = Policy(
        model.eval(),
        tokenizer=tokenizer,
        reference=reference,
        compute=load.compute_dtype(settings),
        sharded=spread is not None,
        has_adapter=isinstance(adapter, LoraAdapter),
        untouched=checkpoint is None or isinstance(adapter, LoraAdapter),
        notes=notes,
    )
    kind = checkpointing or settings.gradient_checkpointing
    layers = policy.layers
    layers.checkpoint("full" if kind == "auto" else kind)
    if settings.compile == "on" or (
        settings.compile == "auto" and layers.worth_compiling(sharded=spread is not None)
    ):
        layers.compile()
    return policy


def _adapted(base: Any, *, adapter: LoraAdapter, seed: int, checkpoint: Path | None) -> Any:
    """Return the frozen base with a fresh adapter, or with that of a checkpoint."""
    base.requires_grad_(False)
    if checkpoint is None:
        return load.add_adapter(base, adapter=adapter, seed=seed)
    return load.load_adapter(base, folder=checkpoint, trainable=True)


def load_for_sampling(
    settings: ModelSettings, *, adapter: Path | None = None, reference: ModelSettings | None = None
) -> Policy:
    """Load a model to sample from or score with, without trainable weights.

    Args:
        adapter: folder of a saved adapter; the model without it is then the reference.
        reference: another model as reference; not together with `adapter`.
    """
    notes: list[str] = []
    model = load.load_model(settings, notes=notes).requires_grad_(False)
    other = None
    if adapter is not None:
        model = load.load_adapter(model, folder=adapter, trainable=False)
    elif reference is not None:
        other = load.load_model(reference, notes=notes).requires_grad_(False)
    return Policy(
        model.eval(),
        tokenizer=load.load_tokenizer(settings, folder=adapter),
        reference=other,
        has_adapter=adapter is not None,
        untouched=True,
        compute=load.compute_dtype(settings),
        notes=notes,
    )


def _reference(settings: ModelSettings, *, model: Any, fresh: bool, on: bool) -> Any | None:
    if not on:
        return None
    frozen = copy.deepcopy(model) if fresh else load.load_model(settings)
    return frozen.requires_grad_(False).eval()
