"""The trainer's device: what lies there, when it is free for an engine, and which one it is."""

from __future__ import annotations

import gc
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from dgpo_cli.config.load import resolve
from dgpo_cli.core.types import Batch
from dgpo_cli.engine import checkpoint, setup
from dgpo_cli.engine.engine import Engine
from dgpo_cli.planning import devices
from dgpo_cli.planning.budget import Device
from dgpo_cli.policy.policy import Policy
from dgpo_cli.samplers.vllm.process import OwnedProcess
from tests.engines import PROMPTS, FakeSampler, G, make_engine, rollout
from tests.recorder import Notes

# What a trainer holds between two steps.


class Storages(TorchDispatchMode):
    """Remembers every storage that an operation returns, without keeping it alive."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: list[tuple[weakref.ref[torch.UntypedStorage], str]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for value in tree_iter(out):
            if isinstance(value, torch.Tensor):
                self._seen.append((weakref.ref(value.untyped_storage()), str(func)))
        return out

    def alive(self) -> dict[int, str]:
        """Return where those that are not empty lie, and which operation returned them first."""
        found: dict[int, str] = {}
        for known, func in self._seen:
            storage = known()
            if storage is not None and storage.nbytes():
                found.setdefault(storage.data_ptr(), func)
        return found


def places(values: Any) -> set[int]:
    return {
        value.untyped_storage().data_ptr()
        for value in tree_iter(values)
        if isinstance(value, torch.Tensor)
    }


def of_batch(batch: Batch) -> set[int]:
    parts = (batch, batch.stats, batch.credit)
    return places([getattr(part, name) for part in parts for name in part.__slots__])


def left_over(engine: Engine, *, watched: Callable[[], Batch]) -> list[str]:
    """Return the operations whose results outlive `watched` for no reason."""
    gc.collect()
    gc.disable()  # what only the collector finds is still there when an engine wakes
    try:
        with Storages() as storages:
            batch = watched()
        alive = storages.alive()
    finally:
        gc.enable()
    model = engine.policy.model
    known = places([*model.parameters(), *model.buffers()])
    if engine.policy._reference is not None:
        known |= places([*engine.policy._reference.parameters()])
    assert engine.optimizer is not None
    known |= places(list(engine.optimizer.state.values())) | of_batch(batch)
    return [func for place, func in alive.items() if place not in known]


@pytest.mark.parametrize("updates", [1, 5])
@pytest.mark.parametrize("kind", ["policy", "lora_policy"])
def test_only_weights_moments_and_the_batch_outlive_an_update(
    kind: str, updates: int, request: pytest.FixtureRequest
) -> None:
    engine = make_engine(request.getfixturevalue(kind), optim={"updates_per_step": updates})
    engine.update(engine.make_batch(rollout(engine)), step=0)  # now there are moments
    groups = rollout(engine)

    def step() -> Batch:
        batch = engine.make_batch(groups)
        engine.update(batch, step=1)
        return batch

    assert left_over(engine, watched=step) == []


def test_only_weights_and_the_batch_outlive_a_batch_that_is_measured(policy: Policy) -> None:
    engine = make_engine(policy)
    groups = rollout(engine)

    def measure() -> Batch:
        optimizer, engine.optimizer = engine.optimizer, None  # as `inspect` has none
        batch = engine.make_batch(groups)
        engine.optimizer = optimizer
        return batch

    assert left_over(engine, watched=measure) == []


def test_what_is_kept_for_no_reason_is_found(policy: Policy) -> None:
    """The test of the tests above."""
    engine = make_engine(policy)
    kept: list[torch.Tensor] = []
    hidden = policy.hidden
    policy.hidden = lambda packed: kept.append(hidden(packed)) or kept[-1]  # type: ignore
    groups = rollout(engine)
    assert left_over(engine, watched=lambda: engine.make_batch(groups))


# Who has the device.


class Elsewhere(FakeSampler):
    """A sampler with weights of its own, on the trainer's device."""

    def __init__(self, events: list[str]) -> None:
        super().__init__()
        self.events = events

    def prepare(self, observer: Any) -> None: ...

    def wait_no_more(self) -> None: ...

    def cancel(self) -> None: ...

    def rest(self) -> None:
        self.events.append("rest")

    def sample(self, *args: Any, **options: Any) -> Any:
        self.events.append("sample")
        return super().sample(*args, **options)


VERBS: dict[str, Callable[[Engine, Any, Batch], object]] = {
    "make_batch": lambda engine, groups, batch: engine.make_batch(groups),
    "logprobs": lambda engine, groups, batch: engine.logprobs(groups),
    "noise": lambda engine, groups, batch: engine.measure_noise(groups, number=1),
    "update": lambda engine, groups, batch: engine.update(batch, step=0),
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_sampler_on_the_device_rests_before_every_verb_that_computes(
    policy: Policy, verb: str
) -> None:
    events: list[str] = []
    engine = make_engine(policy, optim={"updates_per_step": 5})
    engine.sampler = Elsewhere(events)
    groups = rollout(engine)
    batch = engine.make_batch(groups)
    hidden = policy.hidden

    def watched(packed: Any) -> torch.Tensor:
        events.append("pass")
        return hidden(packed)

    policy.hidden = watched  # type: ignore[method-assign]
    events.clear()
    for _ in range(2):  # two rounds of one step
        engine.sample(PROMPTS, seeds=[[0] * G] * len(PROMPTS))
    VERBS[verb](engine, groups, batch)
    assert events[:4] == ["sample", "sample", "rest", "pass"]


# One of several GPUs.


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Two GPUs that do nothing but tell what is asked of them, and of which."""
    told: list[str] = []
    current = threading.local()

    @contextmanager
    def within(device: torch.device) -> Iterator[None]:
        before = getattr(current, "index", 0)
        current.index = device.index
        yield
        current.index = before

    def use(device: torch.device) -> None:
        current.index = device.index

    def here() -> int:
        return getattr(current, "index", 0)

    fakes: dict[str, Any] = {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "device_count": lambda: 2,
        "device": within,
        "set_device": use,
        "current_device": here,
        "empty_cache": lambda: told.append(f"empty {here()}"),
        "synchronize": lambda device=None: told.append(f"settle {device}"),
        "get_rng_state": lambda: torch.tensor([here()], dtype=torch.uint8),
        "set_rng_state": lambda state: told.append(f"generator {here()} {state.tolist()}"),
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    yield told


def test_memory_is_freed_on_the_policys_device_from_any_thread(
    policy: Policy, gpus: list[str]
) -> None:
    policy.release()
    assert gpus == []  # on a CPU
    policy.__dict__["device"] = torch.device("cuda", 1)
    policy.release()
    thread = threading.Thread(target=policy.release)
    thread.start()
    thread.join()
    assert gpus == ["empty 1"] * 2 and torch.cuda.current_device() == 0


def test_a_thread_that_samples_uses_the_policys_device(policy: Policy, gpus: list[str]) -> None:
    policy.__dict__["device"] = torch.device("cuda", 1)
    engine = make_engine(policy)
    found: list[int] = []

    def draw() -> None:
        engine.sample(PROMPTS[:1], seeds=[[0] * G])
        found.append(torch.cuda.current_device())

    thread = threading.Thread(target=draw)
    thread.start()
    thread.join()
    assert found == [1]


def test_times_wait_for_the_policys_device_alone(policy: Policy, gpus: list[str]) -> None:
    policy.__dict__["device"] = torch.device("cuda", 1)
    engine = make_engine(policy)
    engine.sample(PROMPTS[:1], seeds=[[0] * G])
    assert set(gpus) == {"settle cuda:1"}


def test_a_checkpoint_has_the_generator_of_the_policys_device(gpus: list[str]) -> None:
    torch.cuda.set_device(torch.device("cuda", 1))
    state = checkpoint.rng_state()
    assert [each.tolist() for each in state["cuda"]] == [[1]]
    torch.cuda.set_device(torch.device("cuda", 0))  # a run may resume on another
    checkpoint.set_rng_state(state)
    torch.cuda.set_device(torch.device("cuda", 1))
    checkpoint.set_rng_state(state)
    assert gpus == ["generator 0 [1]", "generator 1 [1]"]


def test_a_checkpoint_with_the_generators_of_all_devices_gives_each_its_own(
    gpus: list[str],
) -> None:
    """As earlier versions wrote them, and on a machine with more devices than this one."""
    state = checkpoint.rng_state()
    state["cuda"] = [torch.tensor([number], dtype=torch.uint8) for number in (5, 6, 7)]
    for number in (0, 1):
        torch.cuda.set_device(torch.device("cuda", number))
        checkpoint.set_rng_state(state)
    assert gpus == ["generator 0 [5]", "generator 1 [6]"]


def test_generators_of_a_device_that_is_not_used_stay_alone(
    gpus: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With model.device=cpu nothing begins on a GPU."""
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    state = checkpoint.rng_state()
    assert state["cuda"] == []
    checkpoint.set_rng_state({**state, "cuda": [torch.tensor([1], dtype=torch.uint8)]})
    assert gpus == []


# Torch's allocator.


@pytest.mark.parametrize(
    ("device", "overrides", "variable", "grows"),
    [
        ("cuda", (), None, True),
        ("cuda:1", ("rollout.backend.kind=vllm",), None, True),
        ("cpu", (), None, False),
        (
            *("cuda", ("rollout.backend.kind=vllm", "rollout.backend.weight_transfer=ipc")),
            *(None, False),
        ),
        ("cuda", (), "PYTORCH_ALLOC_CONF", False),
        ("cuda", (), "PYTORCH_CUDA_ALLOC_CONF", False),
    ],
)
def test_segments_grow_in_the_trainer_unless_the_user_or_ipc_needs_others(
    gpus: list[str],
    device: str,
    overrides: tuple[str, ...],
    variable: str | None,
    grows: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    changed: list[str] = []
    monkeypatch.setattr(torch._C, "_accelerator_setAllocatorSettings", changed.append)
    for name in setup._ALLOCATOR:
        monkeypatch.delenv(name, raising=False)
    if variable is not None:
        monkeypatch.setenv(variable, "max_split_size_mb:64")
    environment = dict(os.environ)
    settings = resolve(overrides=[f"model.device={device}", *overrides]).settings
    setup._let_segments_grow(settings)
    assert changed == (["expandable_segments:True"] if grows else [])
    assert dict(os.environ) == environment  # which vLLM, workers and ranks would get


def test_torch_takes_the_setting_of_its_allocator() -> None:
    settings = torch._C._accelerator_getAllocatorSettings  # type: ignore[attr-defined]
    before = settings()
    change = torch._C._accelerator_setAllocatorSettings  # type: ignore[attr-defined]
    change("expandable_segments:True")
    assert settings() == "expandable_segments:True"
    change(before)


def test_an_engine_sees_the_users_allocator_and_not_the_trainers(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, log = tmp_path / "f", tmp_path / "log"
    folder.mkdir()
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "max_split_size_mb:64")
    monkeypatch.delenv("PYTORCH_ALLOC_CONF", raising=False)
    process = OwnedProcess(["env"], folder=folder, log=log, environment={})
    process.wait()
    process.close()
    told = [line for line in log.read_text().splitlines() if "ALLOC_CONF" in line]
    assert told == ["PYTORCH_CUDA_ALLOC_CONF=max_split_size_mb:64"]


def test_auto_takes_the_kind_that_the_plan_takes_for_the_leaders_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = resolve(preset="tiny", overrides=("model.gradient_checkpointing=auto",)).settings
    for memory, kind in ((64 << 30, "none"), (1 << 20, "full")):
        device = Device("C", "cpu", memory, None, {}, 0.0, "test")
        monkeypatch.setattr(devices, "whole", lambda setting, device=device: device)
        notes = Notes()
        with setup.training_engine(settings, observer=notes) as engine:
            assert engine.policy.layers.checkpointing == kind
        (note,) = [text for text in notes.texts if "checkpointing" in text]
        assert note.startswith(f"gradient checkpointing: {kind} (needs ")

    follower: Any = SimpleNamespace(leads=False, share=lambda found: found or ("selective", "why"))
    assert setup._checkpointing(settings, ranks=follower, observer=Notes()) == "selective"
