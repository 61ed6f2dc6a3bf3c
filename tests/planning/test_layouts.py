"""Memory of a run on many devices, against arithmetic written out."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dgpo_cli.config.load import resolve
from dgpo_cli.planning.budget import Device, MemoryNeed
from dgpo_cli.planning.devices import GPUS
from dgpo_cli.planning.host import host_of
from dgpo_cli.planning.job import Job, Layout, Sampling
from dgpo_cli.planning.memory import GIB, memory_of
from dgpo_cli.planning.plan import Typical, job_of
from dgpo_cli.planning.problems import problems_of
from dgpo_cli.policy.config_file import find_config
from dgpo_cli.policy.shape import shape_of
from tests.policy.configs import job, shape

GPU = Device("G", "cuda", 24 * GIB, None, {"float32": 1e12, "bfloat16": 4e12}, 1e11, "test")
H100 = GPUS["h100"]
P = shape().parameters
ASLEEP = Sampling("vllm", rows=0, share=0.5, sleeps=True)


def preset(name: str, *overrides: str, **changes: object) -> Job:
    overrides = ("model.gradient_checkpointing=full", *overrides)
    settings = resolve(preset=name, overrides=overrides).settings
    found = shape_of(find_config(settings.model).config, name=name)
    one = job_of(settings, shape=found, typical=Typical(), device=H100)
    return replace(one, **changes)  # type: ignore[arg-type]


def in_training(one: Job) -> float:
    return memory_of(one, H100).during("training") / GIB


def test_32b_on_32_gpus_of_80_gb_needs_what_was_counted_by_hand() -> None:
    memory = memory_of(preset("qwen32b-full"), H100)
    # GiB. By hand: 32.76e9 weights of 4 bytes over 32 devices; activations of 64 layers of
    # 22,528 rows of 5,120 numbers in 16 bits and one layer recomputed; 488e6 weights a layer,
    # 779e6 of the head.
    by_hand = {
        "weights": 3.81,
        "gradients": 3.81,
        "optimiser": 7.63,
        "reference": 1.91,
        "activations": 23.1,
        "gathered layer": 0.4877e9 * (2 + 2 + 4 + 4 / 32) / GIB,
        "gather buffer": 1.557e9 * 2 / GIB,
        "gathered heads": 1.557e9 * 2 / GIB,
        "head's gradient": 0.7786e9 * 2 / GIB,
    }
    for name, gib in by_hand.items():
        assert memory.part(name) / GIB == pytest.approx(gib, rel=0.01), name
    fixed = ("process", "collectives", "sampler asleep")
    assert sum(memory.part(name) for name in fixed) / GIB == 4.5
    assert memory.during("training") / GIB == pytest.approx(62.1, rel=0.05)
    assert memory.peak <= H100.room


def test_half_the_gpus_need_8_bit_states_and_twice_the_length_two_gpus_a_row() -> None:
    half = Layout("shard", 16)
    assert in_training(preset("qwen32b-full", layout=half)) == pytest.approx(79.3, rel=0.05)
    less = preset("qwen32b-full", layout=half, state="adamw8bit")
    assert in_training(less) == pytest.approx(67.8, rel=0.05)
    twice = preset("qwen32b-full", prompt=2 * 2048, completion=2 * 20480)
    assert in_training(twice) == pytest.approx(88.5, rel=0.05)
    shared = replace(twice, layout=Layout("shard", 32, sequence=2))
    assert in_training(twice) > H100.room / GIB > in_training(shared)


def parts(memory: MemoryNeed) -> dict[str, int]:
    return {f"{part.when} {part.name}": part.bytes for part in memory.parts}


def test_replicas_are_one_device_each_and_the_buffers_of_collectives() -> None:
    one = parts(memory_of(job(sampling=ASLEEP), GPU))
    each = parts(memory_of(job(sampling=ASLEEP, layout=Layout("replicate", 4)), GPU))
    assert each.pop("always collectives") == GIB
    assert each == one


def test_hybrid_shards_within_a_machine() -> None:
    across = parts(memory_of(job(layout=Layout("hybrid", 32)), GPU))
    within = parts(memory_of(job(layout=Layout("shard", 8)), GPU))
    assert across == within


def test_hybrid_fills_whole_machines() -> None:
    (line,) = problems_of(job(layout=Layout("hybrid", 12)), GPU)
    assert line.startswith("parallel.gpus=12: ")
    for count in (4, 8, 16):
        assert not problems_of(job(layout=Layout("hybrid", count)), GPU)


def test_weights_gathered_in_16_bits_make_the_residual_stream_16_bits() -> None:
    layout = Layout("shard", 2)
    whole = job(compute=2, checkpointing="full")
    sharded = replace(whole, layout=layout)
    assert whole.training.element == 4
    assert sharded.training.element == sharded.training.product == 2
    # The input of every block, which checkpointing keeps, in half the bytes.
    rows = whole.micro_batch.tokens * 3 * 96
    saved = memory_of(whole, GPU).part("activations") - memory_of(sharded, GPU).part("activations")
    assert saved >= rows * 2
    assert memory_of(sharded, GPU).part("reference") == 2 * P // 2
    assert memory_of(sharded, GPU).part("weights") == 4 * P // 2
    assert memory_of(sharded, GPU).part("rounded weights") == 0
    assert replace(sharded, compute=None).training.element == 4


def test_an_offloaded_reference_moves_to_the_host() -> None:
    kept = job(layout=Layout("shard", 16), sampling=ASLEEP, compute=2)
    moved = replace(kept, layout=Layout("shard", 16, offload=True))
    assert memory_of(moved, GPU).part("reference") == 0
    saved = memory_of(kept, GPU).peak - memory_of(moved, GPU).peak
    assert saved == memory_of(kept, GPU).part("reference") == 2 * P // 16
    host = {part.name: part.bytes for part in host_of(moved, GPU)}
    assert host["reference"] == 8 * (2 * P // 16)
    assert "reference" not in {part.name for part in host_of(kept, GPU)}


def test_ranks_that_share_a_row_share_its_activations() -> None:
    alone = job(layout=Layout("shard", 4), micro_rows=1, completion=4000, micro_tokens=1)
    shared = replace(alone, layout=Layout("shard", 4, sequence=4))
    found = [memory_of(each, GPU).part("activations") for each in (alone, shared)]
    assert found[0] == pytest.approx(4 * found[1], rel=0.002)
    for name in ("weights", "gradients", "gathered layer"):
        assert memory_of(shared, GPU).part(name) == memory_of(alone, GPU).part(name)


def test_a_sleeping_sampler_has_the_device_only_while_it_samples() -> None:
    awake = memory_of(job(sampling=replace(ASLEEP, sleeps=False)), GPU)
    asleep = memory_of(job(sampling=ASLEEP), GPU)
    assert asleep.during("sampling") == awake.during("sampling")
    left = asleep.part("sampler asleep")
    assert asleep.during("training") == awake.during("training") - 12 * GIB + left
    assert 0 < left < 8 * GIB
    # Its weights wait in the host's memory.
    host = {part.name: part.bytes for part in host_of(job(sampling=ASLEEP), GPU)}
    assert host["sampler asleep"] == 4 * P


def test_the_host_holds_the_batch_of_every_rank_and_one_checkpoint() -> None:
    many = job(layout=Layout("shard", 16), sampling=ASLEEP)
    host = {part.name: part.bytes for part in host_of(many, GPU)}
    assert host["checkpoint"] == 12 * P * 8 // 16
    assert host["batch"] == 8 * 8 * (40 * 9 + 30 * 24)
    assert host_of(many, replace(GPU, kind="cpu")) == ()


@pytest.mark.parametrize(
    ("overrides", "kept"),
    [
        ((), 0),
        (("rollout.top_k=20", "optim.updates_per_step=1"), 0),  # its pass finds the sets
        (("rollout.top_p=0.9", "optim.updates_per_step=2"), 0),  # not bounded: a note says so
        (("rollout.top_k=20", "optim.updates_per_step=2"), 20),
        (("rollout.top_k=20", "rollout.top_p=0.9", "rollout.dynamic_sampling=true"), 20),
    ],
)
def test_the_host_holds_what_a_truncated_sampler_keeps_for_later_updates(
    overrides: tuple[str, ...], kept: int
) -> None:
    planned = preset("qwen7b-lora", *overrides)
    parts = {part.name: part.bytes for part in host_of(planned, GPU)}
    tokens = planned.prompts * planned.group_size * planned.completion
    assert parts.get("kept tokens", 0) == tokens * 4 * kept


def test_a_sharded_model_is_whole_while_backend_hf_samples() -> None:
    memory = memory_of(job(layout=Layout("shard", 4), compute=2), GPU)
    assert memory.part("gathered model") == 2 * P
    assert memory_of(job(layout=Layout("replicate", 4)), GPU).part("gathered model") == 0
