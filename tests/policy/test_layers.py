"""Laws of compiled layers, and of what the backward pass computes again."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from dgpo_cli.policy import load
from dgpo_cli.policy.batching import Rows
from dgpo_cli.policy.layers import parking
from dgpo_cli.policy.layers import wrap as layers
from dgpo_cli.policy.load_policy import load_policy
from dgpo_cli.policy.policy import Policy
from dgpo_cli.policy.settings import LoraAdapter, ModelSettings, NoAdapter
from tests.policy import tiny

ROWS = tiny.rows_of_pairs(tiny.random_pairs([(3, 5), (3, 9), (4, 2), (6, 7)], seed=1))
LONGER = tiny.rows_of_pairs(tiny.random_pairs([(3, 15), (9, 4), (5, 30)], seed=2))
EQUAL = tiny.rows_of_pairs(tiny.random_pairs([(3, 15)] * 4, seed=3))
LAYERS = 2
KINDS = ("none", "full", "selective", "offload")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("layers") / "model"
    tiny.build_model("qwen2-untied", num_hidden_layers=LAYERS).save_pretrained(made)
    tiny.char_tokenizer().save_pretrained(made)
    return made


def policy_of(folder: Path, *, lora: bool, adapter: Any = None, **model: Any) -> Policy:
    lora_or_not = (adapter or LoraAdapter(rank=3, alpha=6.0)) if lora else NoAdapter()
    settings = ModelSettings(path=str(folder), device="cpu", **model)
    return load_policy(settings, adapter=lora_or_not, seed=0, with_reference=True)


def gradient(policy: Policy, rows: Rows = ROWS) -> torch.Tensor:
    for _, weight in policy.trainable():
        weight.grad = None
    with policy.training():
        policy.token_logprobs(rows, temperature=1.0).sum().backward()
    return torch.cat([p.grad.flatten() for _, p in policy.trainable() if p.grad is not None])


def distance(policy: Policy, rows: Rows) -> torch.Tensor:
    return policy.token_columns(rows, temperature=1.0, reference=True).hellinger_sq


def moved(policy: Policy) -> Policy:
    tiny.nudge((weight for _, weight in policy.trainable()), scale=0.05)
    return policy


def graphs() -> int:
    return int(counters["stats"]["unique_graphs"])


def without_compiled_graphs() -> None:
    torch.compiler.reset()
    counters.clear()


# Compiled layers.


@pytest.mark.parametrize(
    ("lora", "kind", "dtype"),
    [
        (True, "none", "bfloat16"),
        (True, "selective", "bfloat16"),
        (False, "full", "float32"),
        pytest.param(True, "offload", "float32", marks=pytest.mark.slow),
        pytest.param(False, "selective", "bfloat16", marks=pytest.mark.slow),
        pytest.param(False, "none", "bfloat16", marks=pytest.mark.slow),
    ],
)
def test_one_compiled_graph_serves_policy_and_reference_so_equal_models_are_0_apart(
    folder: Path, lora: bool, kind: str, dtype: str
) -> None:
    without_compiled_graphs()
    how = {"dtype": dtype, "compute": "bfloat16", "gradient_checkpointing": kind}
    policy = policy_of(folder, lora=lora, compile="on", **how)
    with torch.no_grad():
        assert not distance(policy, ROWS).any()
    with policy.training():
        assert not distance(policy, ROWS).any()
    found = gradient(policy)
    for rows in (LONGER, EQUAL):
        assert not distance(policy, rows).any()
    assert graphs() == 1  # adapter on and off, two models, with gradients and without, all lengths
    plain = gradient(policy_of(folder, lora=lora, compile="off", **how))
    assert float((found - plain).norm() / plain.norm()) < 0.06  # bfloat16 in another order


@pytest.mark.parametrize("lora", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_compiled_layers_measure_the_distance_that_uncompiled_ones_measure(
    folder: Path, lora: bool
) -> None:
    without_compiled_graphs()
    compiled, plain = (moved(policy_of(folder, lora=lora, compile=on)) for on in ("on", "off"))
    with torch.no_grad():
        exact = distance(plain, LONGER)
        assert float(exact.max()) > 0.01
        torch.testing.assert_close(distance(compiled, LONGER), exact, atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(gradient(compiled), gradient(plain), atol=1e-4, rtol=1e-4)
    ids = tuple(range(1, 9))
    for adapter in (True, False):
        found, expected = (
            p.logprobs_of(ids, temperature=1.0, adapter=adapter) for p in (compiled, plain)
        )
        assert found == pytest.approx(expected, abs=1e-5)


def test_a_frozen_reference_is_frozen_again_and_nothing_is_kept_of_its_pass(folder: Path) -> None:
    without_compiled_graphs()
    policy = policy_of(folder, lora=False, compile="on")
    hidden = policy.reference_hidden(policy.predicted(ROWS).packed)
    with torch.no_grad():
        assert not policy.reference_hidden(policy.predicted(ROWS).packed).requires_grad
    assert policy._reference is not None
    assert not any(p.requires_grad for p in policy._reference.parameters())
    del hidden


def test_compiled_layers_leave_no_trace_in_what_is_saved_or_merged(
    folder: Path, tmp_path: Path
) -> None:
    compiled, plain = (moved(policy_of(folder, lora=True, compile=on)) for on in ("on", "off"))
    assert list(compiled.model.state_dict()) == list(plain.model.state_dict())
    compiled.save(tmp_path / "saved")
    again = load.load_adapter(
        load.load_model(ModelSettings(path=str(folder), device="cpu")),
        folder=tmp_path / "saved",
        trainable=False,
    )
    ids = torch.tensor([[1, 2, 3, 4]])
    with torch.no_grad():
        expected = plain.model(ids).logits
        assert torch.equal(again(ids).logits, expected)
        assert torch.equal(compiled.model(ids).logits, expected)
        with compiled.model.disable_adapter(), plain.model.disable_adapter():
            assert torch.equal(compiled.model(ids).logits, plain.model(ids).logits)
        merged = compiled.model.merge_and_unload()
        torch.testing.assert_close(merged(ids).logits, expected, atol=1e-5, rtol=1e-5)


def test_what_is_not_packed_runs_uncompiled(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def compiled(*args: Any) -> Any:
        raise AssertionError("compiled")

    monkeypatch.setattr(layers.torch, "compile", lambda function, **_: compiled)
    policy = policy_of(folder, lora=False, compile="on")
    policy.model.model(input_ids=torch.tensor([[1, 2, 3]]), use_cache=False)
    assert not policy.notes


@pytest.mark.parametrize("lora", [True, False])
def test_a_compiler_that_fails_leaves_layers_as_they_are_and_says_so_once(
    folder: Path, lora: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def compiled(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == 2:  # in the middle of a pass of the reference
            raise RuntimeError("no C++ compiler\nand more")
        return layers._run(*args)

    monkeypatch.setattr(layers.torch, "compile", lambda function, **_: compiled)
    policy, plain = (moved(policy_of(folder, lora=lora, compile=on)) for on in ("on", "off"))
    heard: list[str] = []
    policy.listener = heard.append
    for _ in range(2):
        assert torch.equal(distance(policy, ROWS), distance(plain, ROWS))
    assert torch.equal(gradient(policy), gradient(plain))
    assert len(calls) == 2
    assert heard == policy.notes
    assert heard == [
        "layers run uncompiled, the compiler failed: RuntimeError: no C++ compiler; "
        "model.compile=off does not try it"
    ]


def test_an_error_of_the_model_is_no_error_of_the_compiler(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*args: Any) -> Any:
        raise ZeroDivisionError("the model's")

    monkeypatch.setattr(layers.torch, "compile", lambda function, **_: fails)
    monkeypatch.setattr(layers, "_run", fails)
    policy = policy_of(folder, lora=True, compile="on")
    with pytest.raises(ZeroDivisionError):
        policy.token_logprobs(ROWS, temperature=1.0)
    assert not policy.notes


def test_auto_compiles_large_models_on_cuda_that_are_whole_and_plain(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def chosen(*, device: str, least: float, sharded: bool = False, dora: bool = False) -> bool:
        policy = policy_of(folder, lora=True, adapter=LoraAdapter(rank=3, dora=dora))
        fake = SimpleNamespace(device=SimpleNamespace(type=device), numel=lambda: 1000, ndim=2)
        monkeypatch.setattr(layers, "_WORTH_COMPILING", least)
        monkeypatch.setattr(
            layers, "_base_of", lambda model: SimpleNamespace(parameters=lambda: [fake])
        )
        try:
            return policy.layers.worth_compiling(sharded=sharded)
        finally:
            monkeypatch.undo()

    assert chosen(device="cuda", least=1000)
    assert not chosen(device="cuda", least=1001)
    assert not chosen(device="cpu", least=1000)
    assert not chosen(device="cuda", least=1000, sharded=True)
    assert not chosen(device="cuda", least=1000, dora=True)


def test_an_adapter_that_cannot_be_switched_is_not_compiled(folder: Path) -> None:
    policy = policy_of(folder, lora=True, adapter=LoraAdapter(rank=3, dora=True), compile="on")
    experts = tiny.make_lora_policy("qwen3_moe")
    experts.layers.compile()
    assert experts.notes == policy.notes
    assert not experts.layers.compiled
    assert policy.notes == ["model.compile has no effect with DoRA, or adapters of experts"]
    assert not policy.layers.compiled


# What is computed again.


class Kernels(TorchDispatchMode):
    """Counts calls of attention's kernel, and the bytes of tensors that are alive."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self._storages: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.calls += function in layers._ATTENTION
        found = function(*args, **(kwargs or {}))
        for value in tree_iter(found):
            if isinstance(value, torch.Tensor):
                storage = value.untyped_storage()
                self._storages[storage._cdata] = weakref.ref(storage)
        return found

    def alive(self) -> int:
        gc.collect()
        storages = [reference() for reference in self._storages.values()]
        return sum(storage.nbytes() for storage in storages if storage is not None)


@pytest.mark.parametrize("lora", [True, False])
def test_no_kind_of_checkpointing_changes_a_bit_of_the_gradient(folder: Path, lora: bool) -> None:
    dropout = LoraAdapter(rank=3, alpha=6.0, dropout=0.3)
    found = []
    for kind in KINDS:
        policy = moved(policy_of(folder, lora=lora, adapter=dropout, gradient_checkpointing=kind))
        assert policy.layers.checkpointing == kind
        torch.manual_seed(5)
        found.append(gradient(policy))
    assert found[0].any()
    assert all(torch.equal(each, found[0]) for each in found[1:])


@pytest.mark.parametrize(
    ("kind", "calls"),
    [("none", LAYERS), ("selective", LAYERS), ("full", 2 * LAYERS), ("offload", 2 * LAYERS)],
)
def test_only_kinds_that_do_not_keep_attention_compute_it_twice(
    folder: Path, kind: str, calls: int
) -> None:
    policy = policy_of(folder, lora=True, gradient_checkpointing=kind)
    with Kernels() as kernels:
        gradient(policy)
    assert kernels.calls == calls


def test_selective_keeps_outputs_and_sums_of_attention_beyond_what_full_keeps(
    folder: Path,
) -> None:
    kept = {}
    for kind in ("full", "selective", "none"):
        policy = policy_of(folder, lora=True, gradient_checkpointing=kind)
        packed = policy.predicted(ROWS).packed
        with Kernels() as kernels:
            hidden = policy.hidden(packed)
            kept[kind] = kernels.alive()
        del hidden
    config = policy.model.config
    places, heads = packed.lines * packed.width, config.num_attention_heads
    size = config.hidden_size // heads
    assert kept["selective"] - kept["full"] == LAYERS * places * heads * (size + 1) * 4
    assert kept["none"] > 2 * kept["selective"]


def test_a_compiled_layer_that_keeps_attention_computes_it_once(folder: Path) -> None:
    without_compiled_graphs()
    name = "aten::_scaled_dot_product_flash_attention_for_cpu"
    found = {}
    for kind in ("selective", "full"):
        policy = policy_of(folder, lora=True, compile="on", gradient_checkpointing=kind)
        gradient(policy)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            gradient(policy)
        found[kind] = sum(each.count for each in profile.key_averages() if each.key == name)
    assert found == {"selective": LAYERS, "full": 2 * LAYERS}


def test_a_model_that_does_not_pack_is_recomputed_by_transformers(folder: Path) -> None:
    eager = {"attention": "eager", "gradient_checkpointing": "selective"}
    policy = policy_of(folder, lora=True, **eager)
    assert policy.model.is_gradient_checkpointing
    assert policy.layers.checkpointing == "full"
    assert policy.notes == ["gradient checkpointing: full (selective needs packed rows)"]


class Moves(parking.Copies):
    """Writes down what moves."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.names: dict[int, int] = {}

    def away(self, tensor: torch.Tensor) -> Any:
        self.log.append(f"away {(number := len(self.names))}")
        self.names[number] = number
        return number, tensor.clone()

    def back(self, mark: Any) -> Any:
        self.log.append(f"back {mark[0]}")
        return mark

    def arrived(self, mark: Any) -> torch.Tensor:
        self.log.append(f"use {mark[0]}")
        return mark[1].clone()


def test_an_input_leaves_once_and_comes_back_while_the_layer_after_it_is_pulled_back(
    tmp_path: Path,
) -> None:
    tiny.build_model("qwen2-untied", num_hidden_layers=4).save_pretrained(tmp_path)
    tiny.char_tokenizer().save_pretrained(tmp_path)
    policy = policy_of(tmp_path, lora=True, gradient_checkpointing="offload")
    moves = Moves()
    policy.layers._parking = parking.Parking(4, copies=moves)
    found = gradient(policy)
    assert moves.log == [
        *("away 0", "away 1", "away 2"),  # the last layer's is needed at once
        *("back 2", "use 2", "back 1", "use 1", "back 0", "use 0"),
    ]
    assert torch.equal(found, gradient(policy_of(tmp_path, lora=True)))


def test_copies_on_cuda_wait_for_what_they_read_and_are_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log: list[str] = []

    class Stream:
        def __init__(self, name: str) -> None:
            self.name, self.events = name, 0

        def wait_stream(self, other: Stream) -> None:
            log.append(f"{self.name} waits for {other.name}")

        def wait_event(self, event: str) -> None:
            log.append(f"{self.name} waits for {event}")

        def record_event(self) -> str:
            self.events += 1
            return f"{self.name}'s {self.events}"

    class Inside:
        def __init__(self, stream: Stream) -> None:
            self.name = stream.name

        def __enter__(self) -> None:
            log.append(f"in {self.name}")

        def __exit__(self, *_: object) -> None:
            log.append("out")

    computing = Stream("computing")
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream("copying"))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: computing)
    monkeypatch.setattr(torch.cuda, "stream", Inside)
    monkeypatch.setattr(parking, "_pinned", torch.empty_like)
    copies = parking.CudaCopies(torch.device("cpu"))
    copied = ["copying waits for computing", "in copying", "out"]

    first, second = torch.arange(3.0), torch.arange(3.0, 6.0)
    marks = [copies.away(first)]
    assert log == copied
    log.clear()
    marks.append(copies.away(second))
    assert log == ["computing waits for copying's 1", *copied]
    log.clear()
    fetched = copies.back(marks[1])
    assert log == ["computing waits for copying's 2", *copied]
    log.clear()
    other = copies.back(marks[0])
    assert log == copied
    log.clear()
    assert torch.equal(copies.arrived(fetched), second)
    assert torch.equal(copies.arrived(other), first)
    assert log == ["computing waits for copying's 3", "computing waits for copying's 4"]
