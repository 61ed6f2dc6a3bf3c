"""What a plan says that ranks send, against what gloo ranks send when they learn from a batch."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode

from dgpo_cli.algo.credit import DgpoCredit
from dgpo_cli.algo.losses import ClipLoss
from dgpo_cli.engine.learn import Learner
from dgpo_cli.engine.optimizers import build_adamw
from dgpo_cli.engine.piece import Recipe
from dgpo_cli.parallel.gathered import Gathered
from dgpo_cli.parallel.ranks import TorchRanks
from dgpo_cli.parallel.sequence import open_lane
from dgpo_cli.planning.job import Job, Layout, Sampling
from dgpo_cli.planning.traffic import bytes_by_collective, traffic_of
from dgpo_cli.policy.policy import Policy
from dgpo_cli.policy.shape import shape_of
from tests.parallel.learning import sharded
from tests.policy import tiny
from tests.policy.configs import job
from tests.ranks import on_ranks

RANKS, PROMPTS, GROUP, PROMPT, COMPLETION = 2, 4, 4, 6, 12
# Of a whole step, beside what a batch is learnt with.
ELSEWHERE = ("batch", "to the sampler", "sampler's check", "to sample from")
CASES = {
    "shard": ("qwen2-untied", 1),
    "shard, tied, two updates": ("qwen2-tied", 2),
    "shard an adapter": ("lora", 2),
    "replicate an adapter": ("lora", 2),
    "replicate": ("qwen2-tied", 1),
    "replicate, share rows": ("qwen2-untied", 2),
    "shard, share rows": ("qwen2-untied", 1),
    "shard, refreshed": ("qwen2-untied", 2),
    "replicate, refreshed, share rows": ("qwen2-untied", 2),
    "shard, whole batch, refreshed": ("qwen2-untied", 2),
    "replicate, KL, share rows": ("qwen2-untied", 2),
}


def rule_of(case: str) -> DgpoCredit:
    return DgpoCredit(
        refresh="update" if "refreshed" in case else "step",
        target_ess=0.9 if "whole batch" in case else None,
        target_ess_over="batch",
    )


SAMPLED = ("shard", "shard, tied, two updates", "shard an adapter")


def sequence_of(case: str) -> int:
    return 2 if case.endswith("share rows") else 1


def made(family: str) -> Policy:
    if family == "lora":
        return tiny.make_lora_policy(apart=0.02)
    return tiny.make_policy(family, apart=0.02)


def loss_of(case: str) -> ClipLoss:
    return ClipLoss(kl=0.1 if "KL" in case else 0.0)


def learnt(
    ranks: TorchRanks, policy: Policy, *, updates: int, rule: DgpoCredit, loss: ClipLoss
) -> None:
    """Measure a step's batch, and update on it."""
    optimizer = build_adamw(policy, lr=1e-4, betas=(0.9, 0.99), eps=1e-3, weight_decay=0.0)
    recipe = Recipe(
        rule=rule,
        loss=loss,
        temperature=1.0,
        max_completion_tokens=COMPLETION,
        group_size=GROUP,
        micro_batch_size=2,
        updates=updates,
        max_grad_norm=1.0,
    )
    pairs = [([2 + row // GROUP] * PROMPT, [3 + row] * COMPLETION) for row in range(16)]
    advantages = torch.tensor([1.0, -1.0] * 8)
    learner = Learner(policy, optimizer, ranks=ranks)
    batch = learner.measure(tiny.rows_of_pairs(pairs), advantages, recipe=recipe)
    learner.update(batch, recipe=recipe)


# The functions of torch.distributed that FSDP and the ranks call, in any version of torch: the
# collective, the bytes sent of the tensor, and that tensor by its place or its name.
FUNCTIONS = {
    "all_gather_single": ("all-gather", 1, 0, ("output", "output_tensor")),
    "all_gather_into_tensor": ("all-gather", 1, 0, ("output_tensor",)),
    "reduce_scatter_single": ("reduce-scatter", 1, 1, ("input", "input_tensor")),
    "reduce_scatter_tensor": ("reduce-scatter", 1, 1, ("input",)),
    "all_to_all_single": ("all-to-all", 1, 1, ("input",)),
    "all_reduce": ("all-reduce", 2, 0, ("tensor",)),
}


def counting(sent: Counter[str], name: str) -> Callable[..., Any]:
    """Return a function of torch.distributed that adds the bytes that a rank sends in a ring."""
    real = getattr(dist, name)
    collective, times, place, names = FUNCTIONS[name]

    def called(*tensors: Any, **options: Any) -> Any:
        named = [options[each] for each in names if each in options]
        whole = tensors[place] if len(tensors) > place else named[0]
        size = dist.get_world_size(options.get("group"))
        sent[collective] += times * whole.numel() * whole.element_size() * (size - 1) // size
        return real(*tensors, **options)

    return called


def count(ranks: TorchRanks, case: str) -> dict[str, int]:
    """Return the bytes that this rank sends, by collective."""
    family, updates = CASES[case]
    policy = made(family)
    ranks.collective = case.startswith("shard")
    ranks.sequence = sequence_of(case)
    if ranks.collective:
        policy = sharded(policy, "shard", offload=False)
    if (lane := open_lane(ranks)) is not None:
        policy.share_rows(lane)
    with counted_here() as sent:
        learnt(ranks, policy, updates=updates, rule=rule_of(case), loss=loss_of(case))
    return dict(sent)


@contextmanager
def counted_here() -> Iterator[Counter[str]]:
    """Count the bytes that this rank sends, by collective."""
    sent: Counter[str] = Counter()
    with pytest.MonkeyPatch.context() as patch:
        for name in filter(partial(hasattr, dist), FUNCTIONS):
            patch.setattr(dist, name, counting(sent, name))
        yield sent


class Gathers(TorchDispatchMode):
    """Counts the bytes of tensors that are gathered one by one, which dist's functions do not."""

    sent = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        found = function(*args, **(kwargs or {}))
        if "all_gather_into_tensor" in str(function):
            self.sent += found.numel() * found.element_size() * (RANKS - 1) // RANKS
        return found


def count_sampling(case: str) -> dict[str, int]:
    """Return the bytes that this rank sends for its sampler, by the plan's names."""
    policy = sharded(made(CASES[case][0]), "shard", offload=False)
    found = {}
    with counted_here() as sent, policy.whole():
        pass
    found["to sample from"] = sent["all-gather"]
    with counted_here() as sent:
        policy.logprobs_of([2, 3, 4], temperature=1.0)
    found["sampler's check"] = sent["all-gather"]
    if not policy.has_adapter:
        with Gathers() as gathers:
            assert len(list(Gathered(policy.model))) > 10
        found["to the sampler"] = gathers.sent
    return found


def count_all(ranks: TorchRanks) -> dict[str, dict[str, int]]:
    found = {case: count(ranks, case) for case in CASES}
    return found | {f"{case}, sample": count_sampling(case) for case in SAMPLED}


@functools.cache
def counted() -> dict[str, dict[str, int]]:
    first, second = on_ranks(count_all, RANKS)
    assert first == second
    return first


def planned(case: str) -> Job:
    family, updates = CASES[case]
    policy = made(family)
    adapter = sum(w.numel() for _, w in policy.trainable()) if family == "lora" else 0
    config = policy._base.config.to_dict()
    return job(
        shape=shape_of(config, name=family),
        adapter=adapter,
        rank=3 if adapter else 0,
        prompt=PROMPT,
        completion=COMPLETION,
        typical_prompt=PROMPT,
        typical_completion=COMPLETION,
        prompts=PROMPTS,
        group_size=GROUP,
        updates=updates,
        apart=rule_of(case).whole_batch,
        refreshed=rule_of(case).refresh == "update",
        tables=4 if loss_of(case).needs_reference else 3,
        micro_rows=2,
        sampling=Sampling("vllm-server", rows=8, share=0.0),
        layout=Layout(
            "shard" if case.startswith("shard") else "replicate",
            RANKS,
            sequence=sequence_of(case),
        ),
    )


@pytest.mark.parametrize("case", CASES)
def test_ranks_send_what_was_planned(case: str) -> None:
    exchanges = tuple(e for e in traffic_of(planned(case)) if e.name not in ELSEWHERE)
    assert counted()[case] == bytes_by_collective(exchanges)


@pytest.mark.parametrize("case", SAMPLED)
def test_ranks_send_their_samplers_what_was_planned(case: str) -> None:
    by_vllm = planned(case)
    by_hf = replace(by_vllm, sampling=Sampling("hf", rows=8, share=0.0))
    expected = {e.name: e.bytes for one in (by_vllm, by_hf) for e in traffic_of(one)}
    found = counted()[f"{case}, sample"]
    assert found
    for name, size in found.items():
        assert size == pytest.approx(expected[name], rel=0.02), name
