"""Rows at fixed addresses draw what rows in a growing cache draw; graphs are made in order."""

from __future__ import annotations

import contextlib
import copy
import warnings
import weakref
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dgpo_cli.core.events import NOBODY
from dgpo_cli.policy import cache as cache_module
from dgpo_cli.policy.policy import Policy
from dgpo_cli.policy.shape import capacity_for
from dgpo_cli.samplers.base import SamplingParams
from dgpo_cli.samplers.hf import HfSampler
from dgpo_cli.samplers.steps import EagerRunner, GraphRunner, Step
from tests.policy import families, tiny
from tests.recorder import Notes, Recorder
from tests.samplers.test_hf import (
    PARAMS,
    assert_same,
    make_policy,
    make_prompts,
    sample,
)

SEEDS = [[10 * i + j for j in range(5)] for i in range(4)]
FIXED = ("qwen2-tied", "qwen2-untied", "granite-scaled", "cohere-scaled", *families.ATTENTION)


class Noting(EagerRunner):
    """Notes the keys of steps, and how many were known when each was run."""

    def __init__(self) -> None:
        self.keys: list[Any] = []
        self.releases = 0

    def run(self, step: Step, *, key: object) -> None:
        self.keys.append(key)
        step()

    def release(self) -> None:
        self.releases += 1


def fixed(
    policy: Any,
    prompts: list[list[int]],
    seeds: list[list[int]],
    *,
    params: SamplingParams = PARAMS,
    runner: Any = None,
    batch_size: int = 256,
    unseen: int = 8,
    observer: Any = NOBODY,
) -> Any:
    sampler = HfSampler(
        policy, batch_size=batch_size, runner=runner or EagerRunner(), unseen=unseen
    )
    return sampler.sample(prompts, seeds=seeds, params=params, observer=observer)


def long_policy() -> Policy:
    """A policy whose completions end after some dozens of tokens, with grouped queries."""
    return tiny.make_lora_policy(apart=0.05)


@pytest.mark.parametrize("unseen", [1, 8])
@pytest.mark.parametrize("top", [(1.0, 0), (0.8, 5)])
def test_fixed_addresses_draw_the_same_tokens(top: tuple[float, int], unseen: int) -> None:
    """With an adapter, grouped queries, padding, growth, rows that end at different times."""
    params = SamplingParams(0.9, *top, max_completion_tokens=300)
    policy, noting = long_policy(), Noting()
    prompts = make_prompts([5, 2, 9, 40])
    expected = sample(policy, prompts, SEEDS, params=params)
    assert_same(
        fixed(policy, prompts, SEEDS, params=params, runner=noting, unseen=unseen), expected
    )
    if top == (1.0, 0):
        assert len({rows for rows, _ in noting.keys}) > 2  # dropped
        assert len({capacity for _, capacity in noting.keys}) > 1  # grown


@pytest.mark.parametrize("family", FIXED)
@torch.no_grad()
def test_logprobs_of_fixed_addresses_are_those_of_each_whole_sequence(family: str) -> None:
    policy, noting = make_policy(family), Noting()
    prompts = make_prompts([3, 11, 1, 7])
    found = fixed(policy, prompts, SEEDS, runner=noting)
    assert bool(noting.keys) == (policy.fixed_rows() is not None)
    for prompt, completions in zip(prompts, found, strict=True):
        for completion in completions:
            ids = torch.tensor([[*prompt, *completion.token_ids]])
            logits = policy.model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1]
            every = (logits / PARAMS.temperature).log_softmax(dim=-1)
            expected = every[range(len(completion.token_ids)), completion.token_ids]
            assert completion.sampling_logprobs == pytest.approx(expected.tolist(), abs=2e-4)


def test_layers_with_windows_or_states_are_left_to_the_growing_cache() -> None:
    for family, fits in (("qwen3", True), ("mistral", False), ("gemma2-softcap", False)):
        assert (make_policy(family).fixed_rows() is not None) == fits
    assert make_policy("mamba").fixed_rows() is None


def test_a_layer_that_fixed_addresses_get_wrong_is_left_to_the_growing_cache(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cache_module, "folds", lambda query, key: False)
    right = cache_module._FixedLayer.update
    monkeypatch.setattr(
        cache_module._FixedLayer, "update", lambda layer, k, v, *a: right(layer, k, 2 * v, *a)
    )
    assert make_policy().fixed_rows() is None


@pytest.mark.parametrize("unseen", [3, 8, 64])
def test_looking_seldom_at_what_ended_changes_nothing(unseen: int) -> None:
    policy, prompts = make_policy("gemma2-softcap"), make_prompts([5, 2, 9, 4])
    recorder = Recorder()
    sampler = HfSampler(policy, batch_size=7, unseen=unseen)
    found = sampler.sample(prompts, seeds=SEEDS, params=PARAMS, observer=recorder)
    assert_same(found, sample(policy, prompts, SEEDS, batch_size=7))
    assert recorder.phases == [("sampling", 20, "completions", 20)]


def test_queries_of_a_key_head_are_not_given_copies_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shapes: set[tuple[int, ...]] = set()
    sdpa = torch.nn.functional.scaled_dot_product_attention

    def noting(query: Any, key: Any, value: Any, **kwargs: Any) -> Any:
        shapes.add((*query.shape[1:3], *key.shape[1:3]))
        return sdpa(query, key, value, **kwargs)

    policy, prompts = make_policy(), make_prompts([5, 2])
    policy.fixed_rows()
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", noting)
    fixed(policy, prompts, SEEDS[:2])
    # Of 2 key heads with 2 query heads each, after the prefill.
    assert (2, 2, 2, 64) in shapes
    assert all(place[2] == 2 for place in shapes if place[3] == 64)


def test_a_nan_of_one_batch_does_not_reach_the_next() -> None:
    policy = make_policy("qwen2-untied")
    prompts = make_prompts([30, 8])
    with torch.no_grad():
        policy.model.get_input_embeddings().weight[prompts[0][0]] = float("nan")
    prompts[1] = [t for t in prompts[1] if t != prompts[0][0]]
    seeds = [[0, 1, 2], [3, 4, 5]]
    greedy = SamplingParams(0.0, 1.0, 0, max_completion_tokens=3)
    found = fixed(policy, prompts, seeds, params=greedy, batch_size=3)
    assert_same(found[1:], sample(policy, prompts[1:], seeds[1:], params=greedy))


def test_batches_of_a_round_use_the_same_addresses_and_the_round_frees_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    policy, noting = make_policy(), Noting()
    made: list[Any] = []
    own = policy.fixed_rows

    def kept() -> Any:
        made.append(own())
        return made[-1]

    monkeypatch.setattr(policy, "fixed_rows", kept)
    prompts = make_prompts([9, 9, 8, 7])
    fixed(policy, prompts, SEEDS, runner=noting, batch_size=5)
    [rows] = made
    assert rows.addresses == 1  # the first load
    assert noting.releases == 3  # no logits yet, new addresses, the end
    assert not rows._layers and not rows._flat and rows._hidden.numel() == 0


def test_a_failure_frees_what_the_round_held() -> None:
    class Failing(Noting):
        def run(self, step: Step, *, key: object) -> None:
            raise RuntimeError("lost")

    failing = Failing()
    with pytest.raises(RuntimeError, match="lost"):
        fixed(make_policy(), make_prompts([4]), [[0, 1, 2]], runner=failing)
    assert failing.releases == 3


def test_capacities_are_few_and_at_most_a_quarter_too_large() -> None:
    found = [capacity_for(n) for n in range(1, 40_000)]
    assert all(n <= c for n, c in enumerate(found, start=1))
    assert all(4 * c <= 5 * (n + 3) for n, c in enumerate(found, start=1) if n > 256)
    assert all(c % 64 == 0 for c in found)
    assert len(set(found)) < 40


class FakeCuda:
    """torch.cuda as far as graphs go: notes what is called, and keeps steps as graphs."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.mode = 0
        self.captured: list[Any] = []
        self.main = SimpleNamespace(wait_stream=lambda other: self.calls.append("main waits"))
        self.current: Any = self.main

    def Stream(self) -> Any:
        return SimpleNamespace(wait_stream=lambda other: self.calls.append("side waits"))

    def current_stream(self) -> Any:
        return self.current

    @contextlib.contextmanager
    def stream(self, stream: Any) -> Iterator[None]:
        if stream is not self.main:
            self.calls.append("on side")
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    def get_sync_debug_mode(self) -> int:
        return self.mode

    def set_sync_debug_mode(self, mode: Any) -> None:
        warnings.warn("Synchronization debug mode is a prototype feature", stacklevel=2)
        self.mode = mode

    def CUDAGraph(self) -> Any:
        class Graph:
            def replay(_) -> None:
                self.calls.append("replay")

        graph = Graph()
        self.captured.append(weakref.ref(graph))
        return graph

    def graph_pool_handle(self) -> object:
        self.calls.append("pool")
        return "pool"

    @contextlib.contextmanager
    def graph(self, graph: Any, *, pool: Any, stream: Any, capture_error_mode: str) -> Any:
        assert (pool, capture_error_mode) == ("pool", "thread_local") and stream is not None
        self.calls.append("capture")
        before, self.current = self.current, stream
        yield
        self.current = before  # not after an error, as in torch

    def current_device(self) -> int:
        return 0

    def synchronize(self) -> None:
        self.calls.append("synchronize")

    def empty_cache(self) -> None:
        assert not any(graph() for graph in self.captured)
        self.calls.append("empty")


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    fake = FakeCuda()
    for name in dir(FakeCuda):
        if not name.startswith("_"):
            monkeypatch.setattr(torch.cuda, name, getattr(fake, name))
    return fake


def test_a_key_is_warmed_up_then_captured_then_replayed_and_then_freed(cuda: FakeCuda) -> None:
    runner = GraphRunner()

    def step() -> None:
        cuda.calls.append("step")

    for _ in range(3):
        runner.run(step, key="a")
    warm = ["side waits", "on side", "step", "main waits"]
    assert cuda.calls == [*warm, "pool", "capture", "step", "replay", "replay"]
    assert cuda.mode == 0
    cuda.calls.clear()
    for _ in range(2):
        runner.run(step, key="b")
    assert cuda.calls == [*warm, "capture", "step", "replay"]
    cuda.calls.clear()
    runner.release()
    runner.release()
    assert cuda.calls == ["synchronize", "empty"]
    runner.run(step, key="a")
    assert cuda.calls[2:] == warm


def test_a_step_that_waits_for_the_device_is_run_as_it_is(cuda: FakeCuda) -> None:
    runner, done = GraphRunner(), []

    def step() -> None:
        if cuda.mode == "error":
            raise RuntimeError("called a synchronizing CUDA operation")
        done.append(1)

    for _ in range(3):
        runner.run(step, key="a")
    assert len(done) == 3
    assert "capture" not in cuda.calls and cuda.mode == 0


def test_a_step_that_cannot_be_captured_is_run_as_it_is(
    cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner, done = GraphRunner(), []

    def step() -> None:
        if cuda.calls[-1:] == ["capture"]:
            cuda.calls.append("failed")
            raise RuntimeError("operation not permitted when stream is capturing\nmore")
        done.append(1)

    monkeypatch.setattr(
        torch._C, "_cuda_endAllocateToPool", lambda *of: cuda.calls.append("ended"), raising=False
    )
    for _ in range(3):
        runner.run(step, key="a")
    assert len(done) == 3 and cuda.calls.count("ended") == 1
    assert cuda.calls.count("capture") == 1 and "replay" not in cuda.calls
    assert runner.problem == "operation not permitted when stream is capturing"
    assert cuda.current is cuda.main


def test_finding_what_waits_warns_of_nothing(cuda: FakeCuda) -> None:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        GraphRunner().run(lambda: None, key="a")
    assert not found


def test_sampling_without_graphs_is_told_once(cuda: FakeCuda) -> None:
    runner, notes = GraphRunner(), Notes()
    runner.problem = "a reason"
    sampler = HfSampler(make_policy(), batch_size=8, runner=runner)
    for _ in range(2):
        sampler.sample(make_prompts([3]), seeds=[[1]], params=PARAMS, observer=notes)
    assert notes.texts == ["sampling without CUDA graphs, which takes longer: a reason"]


def test_an_interrupted_warm_up_leaves_the_rows_as_they_were(cuda: FakeCuda) -> None:
    """The step is run again as it is: it must feed each token once."""
    policy, prompts = make_policy(), make_prompts([5, 3])
    waiting = copy.copy(policy)
    plain = policy.fixed_logits

    def fixed_logits(rows: Any) -> torch.Tensor:
        if cuda.mode == "error":
            with pytest.raises(ZeroDivisionError):
                rows.feed(lambda **kwargs: 1 // 0)
            raise RuntimeError("called a synchronizing CUDA operation")
        return plain(rows)

    waiting.fixed_logits = fixed_logits  # type: ignore[method-assign]
    found = fixed(waiting, prompts, SEEDS[:2], runner=GraphRunner())
    assert_same(found, sample(policy, prompts, SEEDS[:2]))
