"""What forward keeps for backward, counted by autograd's own hooks on real models."""

from __future__ import annotations

import gc
import weakref
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from transformers import AutoConfig, AutoModelForCausalLM

from dgpo_cli.planning import devices
from dgpo_cli.planning.activations import (
    Training,
    backward_bytes,
    block_bytes,
    kept_bytes,
    parked_bytes,
    place_bytes,
)
from dgpo_cli.planning.memory import memory_of
from dgpo_cli.policy import packing
from dgpo_cli.policy.layers.wrap import Layers
from dgpo_cli.policy.load import add_adapter
from dgpo_cli.policy.packing import Packed, Shared, pack, packed_hidden
from dgpo_cli.policy.settings import LoraAdapter
from tests.policy.configs import MIXTURES, SMALL, job, shape

ROWS, WIDTH = 4, 25
PLACES = ROWS * WIDTH
CASES = [
    Training(element=4, rank=0, checkpointing="none"),
    Training(element=4, rank=0, checkpointing="full"),
    Training(element=4, rank=5, checkpointing="none"),
    Training(element=4, rank=5, checkpointing="full"),
    Training(element=2, rank=5, checkpointing="none"),
    Training(element=2, rank=5, checkpointing="full"),
    Training(element=4, rank=0, checkpointing="selective"),
    Training(element=2, rank=5, checkpointing="selective"),
    # A sharded model, whose weights are gathered in 16 bits.
    Training(element=2, rank=0, checkpointing="none", compute=2),
    Training(element=2, rank=0, checkpointing="full", compute=2),
]


@pytest.fixture(autouse=True)
def _uneven(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sequences of one length need fewer copies; what is counted is what the others need."""
    monkeypatch.setattr(Packed, "full", property(lambda self: False))


def decoder(training: Training, *, family: str) -> tuple[Any, Any]:
    """Return the model that is trained and its decoder, in training mode."""
    more = MIXTURES.get(family, {"model_type": family})
    config = AutoConfig.for_model(**{**SMALL, **more})
    dtype = torch.float32 if training.element == 4 else torch.bfloat16
    model = base = AutoModelForCausalLM.from_config(config).to(dtype)
    packing.attach()
    if not training.full:
        model.requires_grad_(False)
        model = add_adapter(model, adapter=LoraAdapter(rank=training.rank), seed=0)
    Layers(model, reference=None, packs=True, tell=print).checkpoint(training.checkpointing)
    model.train()
    return model, base.get_decoder()


def packed(*, prompt: int = 0) -> Packed:
    """Return rows of one length, whose first `prompt` tokens are shared."""
    ids = (torch.arange(ROWS * WIDTH) % 300).view(ROWS, WIDTH)
    shared = Shared(torch.zeros_like(ids[:, 0]), torch.full_like(ids[:, 0], prompt))
    return pack(ids, torch.ones_like(ids, dtype=torch.bool), shared=shared)


def saved_bytes(model: Any, body: Any, rows: Packed) -> int:
    """Return the bytes that a forward pass saves for backward, as autograd's hooks see them."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    # The ids and the places of the packing are the batch's own, not activations.
    foreign = weights | {
        t.untyped_storage().data_ptr() for t in (rows.ids, rows.positions, rows.slots, rows.sources)
    }
    saved: dict[int, torch.UntypedStorage] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in foreign:
            saved[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        packed_hidden(body, rows)
    return sum(storage.nbytes() for storage in saved.values())


@pytest.mark.parametrize("prompt", [0, 10])
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("training", [c for c in CASES if c.checkpointing != "selective"], ids=str)
def test_what_is_kept_is_what_autograd_saves(training: Training, family: str, prompt: int) -> None:
    model, body = decoder(training, family=family)
    rows = packed(prompt=prompt)
    tokens = PLACES - (ROWS - 1) * prompt
    found = saved_bytes(model, body, rows)
    normed = shape({**SMALL, "model_type": family})
    counted = kept_bytes(normed, training, tokens=tokens, places=PLACES)
    if training.checkpointing != "none":
        # Checkpoints keep the rotary angles as arguments, which the hooks do not see.
        counted -= tokens * 2 * shape().head_dim * training.element
    assert found == counted


# gpt-oss runs eager attention, whose matrices are counted apart.
@pytest.mark.parametrize("family", [name for name in MIXTURES if name != "gpt_oss"])
@pytest.mark.parametrize(("element", "rank"), [(4, 0), (2, 5)])
def test_what_experts_keep_is_near_what_autograd_saves(
    family: str, element: int, rank: int
) -> None:
    model, body = decoder(Training(element, rank, "none"), family=family)
    found = saved_bytes(model, body, packed())
    mixture = shape({**SMALL, **MIXTURES[family]})
    counted = kept_bytes(mixture, Training(element, rank, "none"), tokens=PLACES, places=PLACES)
    if rank and mixture.experts is not None and mixture.experts.adapted:
        # The experts' weights with their adapter, which do not depend on tokens.
        weights = 3 * mixture.experts.count * mixture.experts.width * mixture.hidden
        counted += mixture.experts.layers * weights * element
    assert counted == pytest.approx(found, rel=0.07)


@dataclass
class Live(TorchDispatchMode):
    """Counts the bytes of all tensors that are alive, and the most there were."""

    now: int = 0
    peak: int = 0
    seen: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        out = function(*args, **(kwargs or {}))
        for value in tree_iter(out):
            if isinstance(value, torch.Tensor):
                self.add(value)
        return out

    def add(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self.seen:
            return
        self.seen.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self.forget, key, size)

    def forget(self, key: int, size: int) -> None:
        self.seen.discard(key)
        self.now -= size


@pytest.mark.parametrize("prompt", [0, 10])
@pytest.mark.parametrize("training", CASES, ids=str)
def test_the_peak_of_backward_is_near_the_counted_one(training: Training, prompt: int) -> None:
    model, body = decoder(training, family="llama")
    rows = packed(prompt=prompt)
    tokens = PLACES - (ROWS - 1) * prompt
    live = Live()
    for parameter in model.parameters():
        live.add(parameter)
    for _ in range(2):  # the second time the gradients are there from the start
        gc.collect()
        before = live.peak = live.now
        with live:
            packed_hidden(body, rows).float().sum().backward()
    counted = kept_bytes(shape(), training, tokens=tokens, places=PLACES) + backward_bytes(
        shape(), training, tokens=tokens, places=PLACES
    )
    assert counted == pytest.approx(live.peak - before, rel=0.12)


@pytest.mark.parametrize(("element", "rank"), [(4, 0), (2, 5)])
def test_selective_keeps_what_attention_gives_beside_what_full_keeps(
    element: int, rank: int
) -> None:
    rows, found = packed(prompt=10), {}
    for kind in ("full", "selective"):
        model, body = decoder(Training(element, rank, kind), family="llama")
        live = Live()
        for parameter in model.parameters():
            live.add(parameter)
        gc.collect()
        before = live.now
        with live:
            out = packed_hidden(body, rows)
        gc.collect()
        found[kind] = live.now - before
        del out, model, body
    tokens = PLACES - (ROWS - 1) * 10
    full, more = (
        kept_bytes(shape(), Training(element, rank, kind), tokens=tokens, places=PLACES)
        for kind in found
    )
    assert found["selective"] - found["full"] == more - full > 0


def test_offload_keeps_two_inputs_and_parks_all_in_the_hosts_memory() -> None:
    full, less = (Training(4, 0, kind) for kind in ("full", "offload"))
    deep, row = replace(shape(), layers=7), shape().hidden * 4
    counts = [kept_bytes(deep, each, tokens=9, places=9) for each in (full, less)]
    assert counts[0] - counts[1] == 9 * row * (7 - 2)
    assert [parked_bytes(deep, each, tokens=9) for each in (full, less)] == [0, 9 * row * 7]


def test_checkpointing_keeps_one_row_a_block() -> None:
    plain, less = CASES[0], CASES[1]
    block = 7 * block_bytes(shape(), plain) + 9 * place_bytes(shape(), plain)
    row = shape().hidden * 4
    counts = [kept_bytes(shape(), each, tokens=7, places=9) for each in (plain, less)]
    assert counts[0] - counts[1] == shape().layers * (block - 7 * row)


EAGER = {
    "gemma2": {"model_type": "gemma2", "attn_logit_softcapping": 50.0},
    "gpt_oss": MIXTURES["gpt_oss"],
}


@pytest.mark.parametrize("family", EAGER)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_eager_attention_needs_what_is_counted_for_its_matrices(
    family: str, dtype: torch.dtype
) -> None:
    config = {**SMALL, **EAGER[family], "hidden_size": 48, "intermediate_size": 16, "head_dim": 8}
    built = AutoConfig.for_model(**config, attn_implementation="eager")
    model = AutoModelForCausalLM.from_config(built).to(dtype).train()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    width = 768
    live = Live()
    with live:
        ids = torch.arange(width)[None] % 300
        hidden = model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
        hidden.float().sum().backward()
    element = torch.finfo(dtype).bits // 8
    one = job(
        shape=shape(config),
        element=element,
        checkpointing="full",
        eager=True,
        prompt=1,
        completion=width - 1,
        micro_rows=1,
    )
    counted = memory_of(one, devices.GPUS["h100"]).part("attention matrices")
    assert 0.75 * live.peak < counted < 1.35 * live.peak
