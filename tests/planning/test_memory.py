"""Memory by part, against arithmetic written out and against the parts it speaks of."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from transformers import AutoConfig

from dgpo_cli.planning import memory as module
from dgpo_cli.planning.activations import place_bytes
from dgpo_cli.planning.budget import Device
from dgpo_cli.planning.cost import _MFU, forward_flops, head_flops, prefill_flops, times_of
from dgpo_cli.planning.job import Job, Layout, MicroBatch, Sampling
from dgpo_cli.planning.memory import (
    AUTOMATIC,
    GIB,
    MALLOC,
    SPARE,
    cache_bytes_per_token,
    memory_of,
    settled,
    vllm_cache,
    weight_bytes,
)
from dgpo_cli.policy.cache import growing_cache
from dgpo_cli.policy.shape import capacity_for, final_room, tile_size
from dgpo_cli.policy.token_pass.tiles import Tiles
from tests.policy.configs import SMALL, job, shape

GPU = Device("G", "cuda", 24 * GIB, None, {"float32": 1e12, "bfloat16": 4e12}, 1e11, "test")
CPU = Device("C", "cpu", 8 * GIB, 8 * GIB, {}, 0.0, "test")
P = shape().parameters


def lora(**changes: object) -> Job:
    size = shape().adapter_parameters(rank=4, targets="all-linear")
    return job(adapter=size, rank=4, **changes)


def test_full_training_holds_sixteen_bytes_a_weight_and_a_reference() -> None:
    memory = memory_of(job(), GPU)
    parts = {p.name: p.bytes for p in memory.parts}
    assert parts["weights"] == parts["reference"] == parts["gradients"] == 4 * P
    assert parts["optimiser"] == 8 * P


def test_an_adapter_needs_no_second_copy_and_trains_only_itself() -> None:
    memory = memory_of(lora(), GPU)
    assert memory.part("reference") == 0
    size = lora().adapter
    assert memory.part("adapter") == memory.part("gradients") == 4 * size
    assert memory.part("optimiser") == 8 * size


def test_a_rule_without_a_reference_holds_none() -> None:
    assert memory_of(job(distance=False), GPU).part("reference") == 0


def test_nf4_takes_half_a_byte_and_two_scales_for_the_blocks_alone() -> None:
    found = weight_bytes(lora(packed=True, element=2))
    blocks = shape().block_matrices
    scales = blocks / 64 + 4 * blocks / 64 / 256
    assert found == pytest.approx(2 * (P - blocks) + blocks / 2 + scales, abs=2)


def test_8_bit_states_take_two_bytes_and_their_scales() -> None:
    found = memory_of(job(state="adamw8bit"), GPU).part("optimiser")
    assert found == pytest.approx(2 * P * (1 + 4 / 256), abs=1)
    assert memory_of(job(state="paged-adamw8bit"), GPU).part("optimiser") == 0


def test_shards_divide_weights_and_what_is_trained_but_not_activations() -> None:
    one, four = memory_of(job(), GPU), memory_of(job(layout=Layout("shard", 4)), GPU)
    for name in ("weights", "reference", "gradients", "optimiser"):
        assert four.part(name) == one.part(name) // 4
    assert four.part("activations") == one.part("activations")


def test_the_room_of_the_cache_is_that_of_the_growing_cache() -> None:
    prompt, fed = 40, 300
    cache = growing_cache(AutoConfig.for_model(**SMALL))
    layer = cache.layers[0]
    layer.update(torch.zeros(1, 2, prompt, 16), torch.zeros(1, 2, prompt, 16))
    layer.batch_select_indices(torch.tensor([0]))  # the prompt alone, exactly filled
    for _ in range(fed):
        layer.update(torch.zeros(1, 2, 1, 16), torch.zeros(1, 2, 1, 16))
    assert layer._keys.shape[-2] == final_room(prompt=prompt, fed=fed)


def test_on_a_gpu_the_cache_has_the_capacity_of_fixed_addresses() -> None:
    one = job(sampling=Sampling("hf", rows=8, share=0.0), prompt=300)
    room = capacity_for(300 + one.completion - 1)
    rows = min(8, one.rows)
    layer = rows * room * shape().keys * 4
    found = memory_of(one, GPU).part("key-value cache")
    assert found == rows * room * cache_bytes_per_token(one) + 3 * layer
    capped = replace(one, shape=replace(one.shape, eager=True))
    assert memory_of(capped, GPU).part("key-value cache") != found


def test_keys_and_values_of_a_token_are_those_of_every_layer() -> None:
    assert cache_bytes_per_token(job()) == 2 * 3 * (2 * 16) * 4


def test_a_vllm_cache_is_what_its_share_leaves() -> None:
    one = lora(sampling=Sampling("vllm", rows=0, share=0.5))
    assert memory_of(one, GPU).part("sampler") == 12 * GIB
    assert vllm_cache(one, GPU) == 12 * GIB - 4 * P - module.VLLM_WORKSPACE
    # vLLM may hold 16 bits a weight where the trainer holds 32, and split an engine.
    less = replace(one, sampling=replace(one.sampling, element=2, split=4))
    assert vllm_cache(less, GPU) == 12 * GIB - 2 * P // 4 - module.VLLM_WORKSPACE
    assert cache_bytes_per_token(less) == cache_bytes_per_token(one) / 2
    elsewhere = replace(one, sampling=Sampling("vllm-server", rows=0, share=0.0))
    assert memory_of(elsewhere, GPU).part("sampler") == 0


def test_the_peak_is_the_larger_of_two_phases() -> None:
    much = job(
        sampling=Sampling("hf", rows=8, share=0.0), prompt=4000, micro_rows=1, micro_tokens=1
    )
    for one in (job(), much):
        memory = memory_of(one, GPU)
        phases = (memory.during("sampling"), memory.during("training"))
        assert memory.peak == max(phases)
        always = sum(p.bytes for p in memory.parts if p.when == "always")
        rest = {
            when: sum(p.bytes for p in memory.parts if p.when == when)
            for when in ("sampling", "training")
        }
        assert phases == (always + rest["sampling"], always + rest["training"])


def test_a_micro_batch_is_bounded_by_rows_and_by_tokens_but_holds_one_row() -> None:
    # Groups of 4 in runs of 3: two prompts may meet in one.
    assert job(micro_rows=3, micro_tokens=10_000).micro_batch == MicroBatch(2 * 10 + 90, 120, 90)
    assert job(micro_rows=8, micro_tokens=100).micro_batch == MicroBatch(100, 100, 100)
    assert job(micro_rows=8, micro_tokens=1).micro_batch == MicroBatch(40, 40, 40)
    # A step has no more rows; two groups of 4 have two prompts.
    assert job(micro_rows=0).micro_batch == job(micro_rows=99).micro_batch
    assert job(micro_rows=0, micro_tokens=100).micro_batch == MicroBatch(100, 100, 100)
    assert job(micro_rows=99).micro_batch == MicroBatch(2 * 10 + 8 * 30, 8 * 40, 8 * 30)


def test_rows_so_long_that_padding_counts_more_are_taken_to_share_nothing() -> None:
    long = job(completion=12 * shape().hidden, micro_tokens=10**6)
    assert long.micro_batch.tokens == long.micro_batch.places == 4 * long.row_tokens


def test_a_typical_row_has_its_share_of_the_prompt() -> None:
    assert job().tokens_of_a_row == 30 + 10 / 4
    assert job(micro_rows=2).tokens_of_a_row == 30 + 10 / 2
    assert job(micro_rows=8).tokens_of_a_row == 30 + 2 * 10 / 8
    assert job(micro_rows=1).tokens_of_a_row == job(micro_tokens=1).tokens_of_a_row == 40


def test_tiles_bound_the_statistics_pass_whatever_the_vocabulary() -> None:
    def found(vocab: int) -> int:
        one = lora(shape=replace(shape(), vocab=vocab), completion=4000, micro_tokens=99_999)
        return memory_of(one, GPU).part("statistics pass")

    assert found(300) == found(150_000)
    tiles = Tiles.fitting(shape().hidden, device=torch.device("cuda"))
    buffers = 4 * tiles.rows * tiles.columns * 3
    kept = 16_000 * shape().hidden * (4 + 4 + 4)
    assert kept <= found(300) <= kept + 2 * buffers


def test_the_heap_is_counted_only_where_glibc_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.delenv(MALLOC, raising=False)
    kept = memory_of(job(), CPU)
    monkeypatch.setenv(MALLOC, "65536")
    returned = memory_of(job(), CPU)
    assert kept.part("allocator") > 0
    assert returned.part("allocator") == 0
    assert kept.peak - returned.peak == kept.part("allocator")


@pytest.mark.parametrize("width", [96, 576, 3584, 8192])
@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_the_tiles_of_a_plan_are_those_of_the_pass(width: int, kind: str) -> None:
    found = tile_size(width, cpu=kind == "cpu")
    assert Tiles(*found) == Tiles.fitting(width, device=torch.device(kind))


def test_forward_work_is_two_operations_a_weight_and_attention() -> None:
    # Four rows in a micro-batch share a prompt of 10, but for attention.
    products = 2 * shape().block_matrices * (30 + 10 / 4)
    attention = 4 * 3 * 96 * 40 * 40 / 2
    assert forward_flops(job(), rows=5) == 5 * (products + attention)
    one_prompt = 2 * shape().block_matrices * 10 + 4 * 3 * 96 * 10 * 10 / 2
    assert prefill_flops(job()) == 2 * one_prompt
    assert head_flops(job(), rows=5) == 2 * 300 * 96 * 5 * 30


def test_checkpointing_costs_one_more_forward_pass() -> None:
    def backward(one: Job) -> float:
        return next(p.seconds for p in times_of(one, GPU) if p.name == "backward")

    more = backward(job(checkpointing="full")) - backward(job())
    assert more == pytest.approx(forward_flops(job(), rows=8) / (0.4 * 1e12))


def test_selective_computes_all_but_attention_again() -> None:
    def backward(kind: str) -> float:
        return next(
            p.seconds for p in times_of(job(checkpointing=kind), GPU) if p.name == "backward"
        )

    attention = 8 * 4 * 3 * 96 * 40 * 40 / 2
    assert backward("full") - backward("selective") == pytest.approx(attention / (0.4 * 1e12))
    assert backward("offload") == backward("full")


def test_auto_takes_the_fastest_kind_whose_training_fits() -> None:
    one = lora(micro_rows=0, completion=3000)
    needs = {
        kind: memory_of(replace(one, checkpointing=kind), GPU).during("training")
        for kind in AUTOMATIC
    }
    assert list(needs) == ["none", "selective", "full"]
    assert needs["none"] > needs["selective"] > needs["full"]
    auto = replace(one, checkpointing="auto")
    for kind, need in needs.items():
        found = settled(auto, replace(GPU, memory=math.ceil(need / (1 - SPARE))))
        assert (found.checkpointing, found.chosen) == (kind, True)
        # Another device, or layout, chooses anew.
        assert settled(found, GPU).checkpointing == "none"
    assert settled(auto, replace(GPU, memory=1)).checkpointing == "full"
    assert settled(one, replace(GPU, memory=1)) == one


def test_repeated_keys_and_values_are_as_wide_as_their_queries() -> None:
    plain, repeated = (place_bytes(shape(), lora(repeats=on).training) for on in (False, True))
    assert plain == (96 + 2 * 32 + 96) * 4 + 4 * 6
    assert repeated == 4 * 96 * 4 + 4 * 6


def test_lora_runs_half_of_the_backward_pass() -> None:
    (back,) = [p.seconds for p in times_of(lora(), GPU) if p.name == "backward"]
    assert back == pytest.approx(forward_flops(lora(), rows=8) / (0.4 * 1e12))


def test_decoding_reads_the_weights_and_a_cache_that_is_repeated_for_every_query_head() -> None:
    # So slow a memory that nothing else counts; 8 rows side by side, 30 tokens each.
    slow = replace(GPU, bandwidth=1e6)
    prefill = prefill_flops(job()) / (0.4 * 1e12)
    for kv_heads, passes in ((2, 1 + 2 * 6 / 2), (6, 1)):
        one = job(shape=replace(shape(), kv_heads=kv_heads))
        (found,) = [p.seconds for p in times_of(one, slow) if p.name == "sampling"]
        cached = 8 * (10 + 30 / 2) * cache_bytes_per_token(one)
        expected = 30 * (weight_bytes(one) + cached * passes) / (0.6 * 1e6) + prefill
        assert found == pytest.approx(expected)


def test_on_a_cpu_the_next_step_is_prepared_while_nothing_is_computed() -> None:
    device = Device("C", "cpu", 8 * GIB, 8 * GIB, {"float32": 1e12}, 1e6, "test")
    seconds = {
        kind: next(
            p.seconds for p in times_of(job(), replace(device, kind=kind)) if p.name == "sampling"
        )
        for kind in ("cpu", "cuda")
    }
    prefill = {kind: prefill_flops(job()) / (mfu * 1e12) for kind, mfu in _MFU.items()}
    waits = seconds["cpu"] - prefill["cpu"] - (seconds["cuda"] - prefill["cuda"])
    assert waits == pytest.approx(30 * 3 * 2e-4, rel=1e-6)


def test_an_unknown_speed_gives_no_times() -> None:
    assert times_of(job(), CPU) == ()


def test_overlap_costs_a_forward_pass_and_hides_what_servers_elsewhere_do() -> None:
    elsewhere = Sampling("vllm-server", rows=0, share=0.0)
    before = {p.name: p.seconds for p in times_of(lora(sampling=elsewhere), GPU)}
    found = times_of(lora(sampling=elsewhere, overlap=True), GPU)
    after = {p.name: p.seconds for p in found}
    assert {name: after[name] for name in before} == before
    assert after["old log-probs"] == before["reference"]  # both are a forward pass and the head
    assert [p.name for p in found if p.beside] == ["sampling"]
    here = times_of(lora(sampling=Sampling("vllm", rows=0, share=0.9), overlap=True), GPU)
    assert not any(p.beside for p in here)


def test_overlap_keeps_the_trained_weights_of_one_step_before_in_the_hosts_memory() -> None:
    assert memory_of(lora(overlap=True), CPU).part("weights before") == 4 * lora().adapter
    assert memory_of(job(overlap=True), CPU).part("weights before") == 4 * P
    assert memory_of(job(overlap=True), CPU).part("weights aside") == 4 * P
    assert memory_of(lora(overlap=True), CPU).part("weights aside") == 0
    assert memory_of(job(overlap=True), GPU).part("weights before") == 0
