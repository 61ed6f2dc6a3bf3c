"""Ranks that share each micro-batch compute what one device computes."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from dgpo_cli.core.errors import ConfigError
from dgpo_cli.engine.noise import noise_of_distance
from dgpo_cli.parallel.ranks import ALONE, TorchRanks
from dgpo_cli.parallel.sequence import Lane, open_lane
from dgpo_cli.policy import load
from dgpo_cli.policy.batching import Rows
from dgpo_cli.policy.policy import Policy
from tests.engine import updates
from tests.parallel import learning
from tests.policy import tiny
from tests.ranks import on_ranks

NAMES = (
    "tied",
    "untied, checkpointed",
    "adapter, checkpointed, two updates",
    "two updates, sequence-mean",
    "carried groups",
    "off-policy correction",
    "several turns",
    "several turns, two updates, double",
    "one tau for the batch",
    "KL, top_p, refreshed",
    "top_p and top_k, carried groups",
    "KL, gspo, top_p, two updates",
    "one row a pass",
)
CASES = {name: learning.CASES[name] for name in NAMES}
SHAPES = [
    *(("replicate", shape) for shape in ("2 of 2", "2 of 4", "4 of 4")),
    *(("shard", shape) for shape in ("2 of 4", "4 of 4")),
]


def lane_of(ranks: TorchRanks, sequence: int) -> Lane:
    ranks.sequence = sequence
    lane = open_lane(ranks)
    assert lane is not None
    return lane


def learnt(ranks: TorchRanks, kind: Any) -> dict[str, dict[str, Any]]:
    """Run every case with rows shared by 2, and by 4 where there are as many."""
    found = {}
    for sequence in (2, 4)[: ranks.count // 2]:
        lane = lane_of(ranks, sequence)
        for name, case in CASES.items():
            policy = learning.make_policy(case)
            if kind != "replicate":
                policy = learning.sharded(policy, kind, offload=sequence == 4)
            policy.share_rows(lane)
            found[f"{sequence} of {ranks.count}", name] = learning.learn(ranks, case, policy)
    return found


expected = functools.cache(lambda case: learning.learn(ALONE, case, learning.make_policy(case)))


@functools.cache
def found(kind: str, count: int) -> list[dict[tuple[str, str], dict[str, Any]]]:
    return on_ranks(learnt, count, kind, collective=kind == "shard")


@pytest.mark.parametrize(("kind", "shape"), SHAPES)
@pytest.mark.parametrize("case", CASES)
def test_a_lane_learns_what_one_device_learns(case: str, shape: str, kind: str) -> None:
    first, *others = (each[shape, case] for each in found(kind, int(shape[-1])))
    learning.check_equal(first, expected(CASES[case]), rounding=2 if CASES[case].double else 8)
    for other in others:  # to the bit: they hold one policy
        learning.check_equal(other, first, within=0.0)


# Rows of 1 to 24 tokens, two of which share their prompt: 46 tokens, and on 4 ranks 12 a chunk.
PAIRS = tiny.random_pairs([(3, 1), (9, 15), (4, 9), (1, 2)], seed=4)
ROWS = tiny.rows_of_pairs([*PAIRS, (PAIRS[2][0], [5, 6, 7])])
TINIEST = tiny.rows_of_pairs(tiny.random_pairs([(2, 1)], seed=4))  # 2 tokens: ranks with none
MODELS: dict[str, dict[str, Any]] = {
    "qwen2-tied": {},
    "granite-scaled": {"num_key_value_heads": 1},
    "llama": {"num_attention_heads": 12, "num_key_value_heads": 6, "hidden_size": 96},
    "qwen3": {"num_attention_heads": 8, "head_dim": 8, "num_key_value_heads": 8},
    "gemma": {"head_dim": 264},  # too large for sdpa's own grouped queries
    "deepseek_v3": {},  # values are of another size than keys
    "mixtral": {},
    "gpt2": {},  # learnt positions
}


def gradients(policy: Policy, rows: Rows, *, sums: TorchRanks | None = None) -> list[Tensor]:
    """Return log-probabilities, entropy, distance, and gradients of a product of all
    log-probabilities of a row: of what no rank can compute from its own tokens."""
    policy.model.zero_grad(set_to_none=True)
    with policy.training():
        columns = policy.token_columns(rows, temperature=0.8, reference=True)
        (columns.logprobs.exp().clamp(min=0.1).log().mean() ** 2).backward()
    found = [p.grad if p.grad is not None else torch.zeros_like(p) for _, p in policy.trainable()]
    if sums is not None:
        sums.sum_(found)
    alone = policy.token_logprobs(rows, temperature=0.8).detach()[rows.mask]
    return [columns.logprobs.detach(), columns.entropy, columns.hellinger_sq, alone, *found]


def compared(ranks: TorchRanks) -> dict[str, float]:
    """Return how far every model is from one device, as a share of its largest number."""
    lane, worst = lane_of(ranks, 4), {}
    for family, changes in MODELS.items():
        for rows in (ROWS, TINIEST):
            policy = tiny.make_policy(family, apart=0.02, **changes)
            load.without_dropout(policy.model)
            twins = gradients(policy, rows)
            policy.share_rows(lane)
            apart = [
                float((mine - twin).abs().max() / (twin.abs().max() + 1e-3))
                for mine, twin in zip(gradients(policy, rows, sums=ranks), twins, strict=True)
            ]
            worst[family] = max(worst.get(family, 0.0), *apart)
    return worst


def test_every_shape_of_attention_is_shared_as_on_one_device() -> None:
    for each in on_ranks(compared, 4):
        assert each.keys() == MODELS.keys()
        assert max(each.values()) < 2e-5, each


@contextmanager
def kept_bytes() -> Iterator[list[int]]:
    """Count the bytes of what autograd keeps for backward."""
    seen: dict[int, int] = {}
    total: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            storage = tensor.untyped_storage()
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield total
    total.append(sum(seen.values()))


@contextmanager
def moved_bytes() -> Iterator[list[int]]:
    """Count the bytes that this rank gives to exchanges."""
    exchange, moved = torch.distributed.all_to_all_single, []

    def counted(output: Tensor, given: Tensor, **options: Any) -> Any:
        moved.append(given.nbytes)
        return exchange(output, given, **options)

    torch.distributed.all_to_all_single = counted
    try:
        yield moved
    finally:
        torch.distributed.all_to_all_single = exchange


LONG = tiny.rows_of_pairs(tiny.random_pairs([(10, 110)] * 4, seed=1))  # 476 tokens
SIZES = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 8}


def cost(ranks: TorchRanks) -> dict[tuple[int, str], tuple[int, int]]:
    """Return the bytes kept and moved by one pass with gradient."""
    found = {}
    for compute in (torch.float32, torch.bfloat16):
        for sequence in (1, 2, 4):
            model = tiny.build_model("llama", **SIZES)
            policy = Policy(
                model, tokenizer=tiny.char_tokenizer(), reference=None, has_adapter=False,
                compute=None if compute is torch.float32 else compute,
            )  # fmt: skip
            if sequence > 1:
                policy.share_rows(lane_of(ranks, sequence))
            with moved_bytes() as moved, kept_bytes() as kept:
                value = policy.token_logprobs(LONG, temperature=1.0).sum()
                value.backward()
            found[sequence, str(compute)] = kept[0], sum(moved)
    return found


def test_a_rank_keeps_its_share_of_the_activations_and_moves_what_is_counted() -> None:
    """Per token and layer: queries, keys and values, the result, and their gradients."""
    each = on_ranks(cost, 4)
    tokens, layers, size = 4 * (10 + 109), 2, 8
    for dtype, width in (("torch.float32", 4), ("torch.bfloat16", 2)):
        whole, nothing = each[0][1, dtype]
        assert nothing == 0
        for sequence, keys in ((2, 2), (4, 4)):  # 2 heads of keys are repeated for 4 ranks
            numbers = layers * tokens // sequence * (8 + 2 * keys + 8) * size
            for rank in each:
                kept, moved = rank[sequence, dtype]
                # Heads are there before and after an exchange, and some of them twice.
                assert kept < 1.3 * whole / sequence
                assert moved == 2 * numbers * width


def refused(ranks: TorchRanks) -> list[str]:
    """Return why four models cannot be shared."""

    class Broken(Lane):
        def by_tokens(self, row: Tensor) -> Tensor:
            return Lane.by_tokens(self, row.roll(1, dims=0))

    lane, found = lane_of(ranks, 4), []
    broken = Broken(lane.number, lane.count, lane.group)
    six = {"num_attention_heads": 6, "num_key_value_heads": 2, "hidden_size": 48}
    odd = {"num_attention_heads": 5, "num_key_value_heads": 5, "hidden_size": 40}
    for given, family, changes in (
        (lane, "llama", six), (lane, "llama", odd), (lane, "gemma2-softcap", {}),
        (broken, "llama", {}),
    ):  # fmt: skip
        policy = tiny.make_policy(family, **changes)
        if family == "gemma2-softcap":  # its class then has another name
            policy = learning.sharded(policy, "shard", offload=False)
        with pytest.raises(ConfigError) as caught:
            policy.share_rows(given)
        found.append(str(caught.value))
    return found


def noise(ranks: TorchRanks) -> tuple[Tensor, Tensor]:
    """Return the noise of the distance on one device and in a lane.

    A canary runs on one rank alone.
    """
    policy, recipe = tiny.make_policy("llama"), updates.recipe_of()
    alone = noise_of_distance(policy, updates.PAIRS, recipe=recipe)
    canary = policy.logprobs_of(range(5, 20), temperature=1.0)
    policy.share_rows(lane_of(ranks, 4))
    if ranks.leads:
        assert policy.logprobs_of(range(5, 20), temperature=1.0) == canary
    return alone, noise_of_distance(policy, updates.PAIRS, recipe=recipe)


def test_the_noise_in_a_lane_is_that_of_one_device_and_a_canary_needs_no_lane() -> None:
    (alone, first), *others = on_ranks(noise, 4)
    assert all(torch.equal(other, first) for _, other in others)
    # Its draws are the same; in some tokens rounding adds to them.
    assert torch.corrcoef(torch.stack([alone, first]))[0, 1] > 0.95


def rounded(ranks: TorchRanks) -> list[tuple[float, float]]:
    """Return, for products in bfloat16, the largest distance of equal weights, and how far
    log-probabilities are from those of one device."""
    found, lane = [], lane_of(ranks, 4)
    for dtype in (torch.float32, torch.bfloat16):
        model = tiny.build_model("llama").to(dtype)
        policy = Policy(
            model, tokenizer=tiny.char_tokenizer(), reference=copy.deepcopy(model),
            has_adapter=False, compute=torch.bfloat16,
        )  # fmt: skip
        with torch.no_grad():
            twin = policy.token_logprobs(ROWS, temperature=1.0)
            policy.share_rows(lane)
            columns = policy.token_columns(ROWS, temperature=1.0, reference=True)
        apart = (columns.logprobs - twin[ROWS.mask]).abs().max()
        found.append((float(columns.hellinger_sq.max()), float(apart)))
    return found


def test_in_bfloat16_equal_weights_are_exactly_0_apart_in_a_lane() -> None:
    for found in on_ranks(rounded, 4):
        for distance, apart in found:
            assert distance == 0.0 and apart < 0.3  # bfloat16 has 3 digits of logits up to 20


def test_a_model_that_cannot_be_shared_is_refused_with_the_fix() -> None:
    six, odd, *others = on_ranks(refused, 4)[0]
    assert six == (
        "parallel.sequence=4: LlamaForCausalLM has 6 attention heads, which 4 ranks cannot share "
        "equally; set parallel.sequence=2"
    )
    assert odd.endswith("5 attention heads, which 4 ranks cannot share equally; "
                        "set parallel.sequence=1")  # fmt: skip
    for text, name in zip(others, ("Gemma2ForCausalLM", "LlamaForCausalLM"), strict=True):
        assert text.startswith(f"parallel.sequence=4: {name} needs a whole row on one device")
        assert text.endswith("set parallel.sequence=1")
