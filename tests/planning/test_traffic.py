"""What devices send each other, against arithmetic written out."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dgpo_cli.planning.budget import Device
from dgpo_cli.planning.cost import times_of
from dgpo_cli.planning.job import Job, Layout, Passes, Sampling
from dgpo_cli.planning.memory import GIB
from dgpo_cli.planning.traffic import Compute, bytes_by_collective, networks_of, traffic_of
from tests.policy.configs import job, shape

LINKED = Device("G", "cuda", 80 * GIB, None, {"float32": 1e12}, 1e12, "test", 400e9)
P = shape().parameters
ROOT = 300 * 96 + 96  # a tied head, and the last norm
LAYERS = P - ROOT
TOKENS = 8 * 30  # completions of a step
REMOTE = Sampling("vllm-server", rows=8, share=0.0)


def lora(**changes: object) -> Job:
    size = shape().adapter_parameters(rank=4, targets="all-linear")
    return job(adapter=size, rank=4, **changes)


def sent(one: Job, passes: Passes | None = None) -> dict[str, int]:
    return {each.name: each.bytes for each in traffic_of(one, passes=passes)}


def test_one_device_sends_nothing() -> None:
    assert traffic_of(job()) == ()


def test_replicas_sum_the_gradients_once_an_update() -> None:
    found = sent(lora(layout=Layout("replicate", 4), updates=2))
    assert found["gradients"] == 2 * 2 * 4 * lora().adapter * 3 // 4
    assert found["statistics"] == 2 * 3 * 4 * TOKENS * 3 // 4
    assert found["batch"] == 8 * 40 * 9 + 4 * TOKENS
    assert found.keys() == {"gradients", "statistics", "batch"}


def test_shards_gather_every_pass_and_scatter_every_gradient() -> None:
    passes = Passes(
        measured=3, trained=5, reference=5, measured_rows=3, trained_rows=5, reference_rows=5
    )
    one = job(layout=Layout("shard", 4), sampling=REMOTE, compute=2)
    assert sent(one, passes) == {
        "weights, forward": 2 * (LAYERS + ROOT) * (3 + 5) * 3 // 4,
        "reference": 2 * (LAYERS + ROOT) * (3 + 2) * 3 // 4,
        "weights, backward": 2 * LAYERS * 5 * 3 // 4,
        "gradients": 4 * (LAYERS + ROOT) * 5 * 3 // 4,
        "to the sampler": 4 * P * 3 // 4,
        "sampler's check": 2 * P * 3 // 4,
        "statistics": 2 * 3 * 4 * TOKENS * 3 // 4,
        "batch": 8 * 40 * 9 + 4 * TOKENS,
    }
    by_collective = bytes_by_collective(traffic_of(one, passes=passes))
    assert by_collective["reduce-scatter"] == 4 * P * 5 * 3 // 4
    assert sum(by_collective.values()) == sum(sent(one, passes).values())


def test_a_sharded_adapter_scatters_its_own_gradient_alone() -> None:
    one = lora(layout=Layout("shard", 2), element=2, compute=2)
    passes = Passes(0, 1, 1, 0, 8, 8)
    found = sent(one, passes)
    assert found["gradients"] == 4 * one.adapter // 2
    assert found["weights, backward"] == 2 * (LAYERS + one.adapter) // 2
    assert found["to sample from"] == found["weights, forward"] == 2 * (P + one.adapter) // 2


def test_machines_that_replicate_send_each_other_their_part_of_the_gradient_alone() -> None:
    passes = Passes(0, 1, 1, 0, 8, 8)
    shard = traffic_of(job(layout=Layout("shard", 8)), passes=passes)
    hybrid = traffic_of(job(layout=Layout("hybrid", 16)), passes=passes)
    (more,) = [each for each in hybrid if each.across == "replicas"]
    assert more.bytes == 2 * (4 * P // 8) // 2
    pairs = {each.name: each.bytes for each in hybrid if each.collective == "all-gather"}
    assert pairs == {e.name: e.bytes for e in shard if e.collective == "all-gather"}


def test_ranks_that_share_a_row_exchange_queries_keys_values_and_outputs() -> None:
    passes = Passes(
        measured=0, trained=1, reference=1, measured_rows=0, trained_rows=2, reference_rows=2
    )
    one = job(layout=Layout("replicate", 2, sequence=2), micro_rows=1)
    (found,) = [each for each in traffic_of(one, passes=passes) if each.name == "attention"]
    # 3 layers of 6 + 6 + 2 + 2 heads of 16 numbers; each has half of 39 tokens, and half of that
    # leaves. Two rows of the policy forward and backward, and of the reference forward.
    assert found.bytes == 3 * (16 * 16 * 4) * 39 // 4 * (2 * 2 + 2)
    # Four cannot share two heads of keys equally: they are repeated.
    four = replace(one, layout=Layout("replicate", 4, sequence=4))
    (found,) = [each for each in traffic_of(four, passes=passes) if each.name == "attention"]
    assert found.bytes == 3 * (20 * 16 * 4) * 39 * 3 // 16 * (2 * 2 + 2)


def test_a_lane_computes_its_share_of_the_rows_and_waits_for_none() -> None:
    one = job(prompts=8, updates=2, micro_rows=2, layout=Layout("replicate", 4))
    # 16 rows an update, 4 a lane, 2 a pass; the second update's were measured before it.
    assert one.passes == Passes(2, 4, 2 + 2, 4, 8, 4 + 4)
    many = replace(one, layout=Layout("replicate", 64))
    assert many.passes == Passes(1, 2, 1 + 1, 1, 2, 1 + 1)


def test_exchanges_hide_behind_their_own_passes() -> None:
    passes = Passes(0, 1, 1, 0, 8, 8)
    one = job(layout=Layout("shard", 8), sampling=REMOTE)
    found = traffic_of(one, passes=passes)
    apart = sum(
        each.bytes / (1e9 if each.collective == "broadcast" else 0.8 * 400e9)
        + (0 if each.collective == "broadcast" else each.calls * 7 * 5e-6)
        for each in found
        if each.when == "apart"
    )
    (much,) = networks_of(found, one, LINKED, compute=Compute(forward=1e3, backward=1e3))
    assert much.exposed == pytest.approx(apart)
    (none,) = networks_of(found, one, LINKED, compute=Compute(forward=0.0, backward=0.0))
    assert none.exposed == pytest.approx(none.seconds)
    assert none.seconds == much.seconds > apart


def test_a_ring_enters_a_machine_once_over_the_links_of_all_its_devices() -> None:
    big = job(layout=Layout("shard", 16), shape=replace(shape(), layers=10_000))
    found = tuple(each for each in traffic_of(big) if each.name == "weights, forward")
    (each,) = found
    none = Compute(0.0, 0.0)
    slow, fast = networks_of(found, big, LINKED, compute=none)
    assert (slow.gigabits, fast.gigabits) == (100, 400)
    waits = each.calls * 15 * 5e-6
    assert slow.seconds - waits == pytest.approx(each.bytes / (0.8 * 8 * 100e9 / 8))
    assert fast.seconds - waits == pytest.approx(each.bytes / (0.8 * 400e9))


def test_communication_is_a_phase_of_a_step() -> None:
    one = job(layout=Layout("shard", 8), sampling=REMOTE)
    (phase,) = [p for p in times_of(one, LINKED) if p.name == "communication"]
    assert phase.seconds > 0
    unknown = replace(LINKED, link=0.0)
    assert "communication" not in {p.name for p in times_of(one, unknown)}
    assert "communication" not in {p.name for p in times_of(job(), LINKED)}
