"""What a plan says that a sharded pass holds, against the tensors that are alive in it."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from dgpo_cli.parallel.ranks import Ranks
from dgpo_cli.parallel.sharding import make_mesh, shard
from dgpo_cli.planning.budget import Device
from dgpo_cli.planning.job import Layout
from dgpo_cli.planning.memory import GIB, memory_of
from dgpo_cli.policy.policy import Policy
from dgpo_cli.policy.shape import shape_of
from tests.policy import tiny
from tests.policy.configs import job
from tests.ranks import on_ranks

CPU = Device("C", "cpu", 8 * GIB, None, {}, 0.0, "test")
FAMILY, PROMPT, ROWS = "qwen2-untied", 8, 4
SIZES = {
    "vocab_size": 6000,
    "hidden_size": 64,
    "intermediate_size": 512,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
# Completion tokens, and whether activations are recomputed. In the first case the gradients of
# embedding and head are what is largest.
CASES = ((60, True), (1000, True), (300, False))


class Held(TorchDispatchMode):
    """The most bytes that tensors have held; FSDP empties storages that it keeps."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._storages: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        found = function(*args, **(kwargs or {}))
        for value in tree_iter((found, args)):
            if type(value) in (torch.Tensor, torch.nn.Parameter):
                storage = value.untyped_storage()
                self._storages[storage._cdata] = weakref.ref(storage)
        self.peak = max(self.peak, self.now())
        return found

    def now(self) -> int:
        storages = [reference() for reference in self._storages.values()]
        return sum(storage.nbytes() for storage in storages if storage is not None)


def held(ranks: Ranks, width: int, checkpointing: bool) -> int:
    """Return the bytes that the second pass adds to weights and gradients."""
    whole = tiny.make_policy(FAMILY, apart=0.01, **SIZES)
    if checkpointing:
        whole.model.gradient_checkpointing_enable({"use_reentrant": False})
    mesh, compute = make_mesh("shard", device_type="cpu", node_size=2), torch.bfloat16
    for model in (whole.model, whole._reference):
        assert model is not None
        shard(model, mesh=mesh, compute=compute)
    policy = Policy(
        whole.model,
        tokenizer=whole.tokenizer,
        reference=whole._reference,
        has_adapter=False,
        sharded=True,
        compute=compute,
    )
    rows = tiny.rows_of_pairs([([2 + row] * PROMPT, [3 + row] * width) for row in range(ROWS)])

    def learn() -> None:
        with policy.training():
            policy.token_columns(rows, temperature=1.0, reference=True).logprobs.sum().backward()

    with Held() as meter:
        learn()
        gc.collect()
        before = meter.peak = meter.now()
        learn()
    return meter.peak - before


def held_in_all(ranks: Ranks) -> list[int]:
    return [held(ranks, *case) for case in CASES]


def test_a_sharded_pass_holds_what_was_planned() -> None:
    found = on_ranks(held_in_all, 2, collective=True)[0]
    config = tiny.config_of(FAMILY, **SIZES).to_dict()
    for measured, (width, checkpointing) in zip(found, CASES, strict=True):
        one = job(
            shape=shape_of(config, name=FAMILY),
            compute=2,
            checkpointing="full" if checkpointing else "none",
            prompt=PROMPT,
            completion=width,
            prompts=ROWS,
            group_size=1,
            layout=Layout("shard", 2),
        )
        parts = {p.name: p.bytes for p in memory_of(one, CPU).parts if p.when == "training"}
        # The allocator's blocks are no tensors, and a CPU has no stream with a pool of its own.
        for name in ("gradients", "allocator", "gather buffer"):
            parts.pop(name, None)
        parts["next layer"] = one.layer * 2
        assert measured == pytest.approx(sum(parts.values()), rel=0.12), (width, parts)
