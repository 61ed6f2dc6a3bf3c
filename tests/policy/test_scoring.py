"""Token statistics and log-probabilities: slow twins, layout, and how much is held at once."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dgpo_cli.core.events import Progress
from dgpo_cli.core.types import TokenStats
from dgpo_cli.policy.batching import Rows
from dgpo_cli.policy.packing import Packed
from dgpo_cli.policy.policy import Policy
from dgpo_cli.policy.scoring import token_stats
from dgpo_cli.policy.token_pass import Tiles
from tests.policy import tiny, twins
from tests.recorder import Recorder

FAMILIES = ("qwen2-tied", "qwen2-untied", "gemma2-softcap", "granite-scaled", "cohere-scaled")
SHAPES = [(4, 6), (9, 11), (1, 3), (5, 17), (2, 1), (9, 8)]
PAIRS = tiny.random_pairs(SHAPES)
PAIRS[3] = (PAIRS[0][0], PAIRS[3][1])  # two groups have more than one completion
PAIRS[5] = (PAIRS[1][0], PAIRS[5][1])
ROWS = tiny.rows_of_pairs(PAIRS)
TEMPERATURE = 0.8
COLUMNS = ("old_logprobs", "entropy", "hellinger_sq")


def stats_of(policy: Policy, rows: Rows = ROWS, **changes: Any) -> TokenStats:
    arguments = {"temperature": TEMPERATURE, "micro_batch_size": 4, "with_reference": True}
    return token_stats(policy, rows, **(arguments | changes))


def reference_of(policy: Policy) -> Any:
    """The reference as a model of its own, in float64."""
    if policy.has_adapter:
        return twins.widened(policy.model).unload()
    return twins.widened(policy._reference)


def assert_close(found: TokenStats, expected: TokenStats) -> None:
    """Equal up to the rounding of another order of summation."""
    for name in ("old_logprobs", "entropy"):
        a, b = getattr(found, name), getattr(expected, name)
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)
    # What rounding of the logits moves is the root of the distance, not the distance.
    a, b = found.hellinger_sq.sqrt(), expected.hellinger_sq.sqrt()
    torch.testing.assert_close(a, b, rtol=0, atol=3e-6)


@pytest.mark.parametrize("apart", [1e-3, 5e-2])
@pytest.mark.parametrize("family", FAMILIES)
def test_statistics_equal_the_slow_twin(family: str, apart: float) -> None:
    policy = tiny.make_policy(family, apart=apart)
    stats = stats_of(policy)
    models = twins.widened(policy.model), reference_of(policy)
    largest = 0.0
    for i, pair in enumerate(PAIRS):
        twin = twins.completion_stats(*models, pair, temperature=TEMPERATURE)
        size = len(pair[1])
        assert stats.old_logprobs[i, :size].tolist() == pytest.approx(twin.logprobs, abs=1e-5)
        assert stats.entropy[i, :size].tolist() == pytest.approx(twin.entropy, abs=1e-5)
        for d, exact in zip(stats.hellinger_sq[i].tolist(), twin.hellinger_sq, strict=False):
            # The float32 forward pass itself is good to about 1e-6 of the root.
            assert math.sqrt(d) == pytest.approx(math.sqrt(exact), rel=1e-5, abs=3e-6)
            largest = max(largest, exact)
        for name in COLUMNS:
            assert not getattr(stats, name)[i, size:].any()
    assert largest > apart**2  # the reference is away, or the distance was not put to a test


@pytest.mark.parametrize("micro_batch_size", [1, 4])
def test_statistics_with_an_adapter_equal_the_slow_twin(
    lora_policy: Policy, micro_batch_size: int
) -> None:
    """The twin's policy has the adapter merged into its weights, the reference has none."""
    stats = stats_of(lora_policy, micro_batch_size=micro_batch_size)
    merged = twins.widened(lora_policy.model).merge_and_unload()
    base = reference_of(lora_policy)
    for i, pair in enumerate(PAIRS):
        twin = twins.completion_stats(merged, base, pair, temperature=TEMPERATURE)
        size = len(pair[1])
        assert stats.old_logprobs[i, :size].tolist() == pytest.approx(twin.logprobs, abs=1e-5)
        assert stats.entropy[i, :size].tolist() == pytest.approx(twin.entropy, abs=1e-5)
        found = stats.hellinger_sq[i, :size].sqrt().tolist()
        assert found == pytest.approx([math.sqrt(d) for d in twin.hellinger_sq], abs=3e-6)
        assert min(twin.hellinger_sq) > 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("micro_batch_size", [1, 4, 6])
@pytest.mark.parametrize("family", [*FAMILIES, "lora"])
def test_an_unmoved_policy_has_a_distance_of_exactly_zero(
    family: str, micro_batch_size: int, dtype: torch.dtype
) -> None:
    lora = family == "lora"
    policy = tiny.make_lora_policy(dtype=dtype) if lora else tiny.make_policy(family, dtype=dtype)
    stats = stats_of(policy, micro_batch_size=micro_batch_size)
    assert torch.count_nonzero(stats.hellinger_sq) == 0
    assert torch.count_nonzero(stats.entropy) == int(ROWS.mask.sum())
    assert stats.entropy.dtype == stats.hellinger_sq.dtype == torch.float32


def test_without_the_reference_only_the_distance_is_missing(policy: Policy) -> None:
    alone, both = stats_of(policy, with_reference=False), stats_of(policy)
    assert torch.equal(alone.old_logprobs, both.old_logprobs)
    assert torch.equal(alone.entropy, both.entropy)
    assert not alone.hellinger_sq.any() and both.hellinger_sq.any()


def test_the_temperature_divides_the_logits_of_both(policy: Policy) -> None:
    """Logits of half the weights are those of twice the temperature."""
    warm = stats_of(policy, temperature=2.0)
    for model in (policy.model, policy._reference):
        inner = model.model
        with torch.no_grad():
            inner.norm.weight.mul_(0.5)
    assert_close(stats_of(policy, temperature=1.0), warm)


@pytest.mark.parametrize("micro_batch_size", [0, 1, 2, 3, 5, 6, 100])
def test_the_micro_batch_size_changes_nothing(policy: Policy, micro_batch_size: int) -> None:
    assert_close(stats_of(policy, micro_batch_size=micro_batch_size), stats_of(policy))


@pytest.mark.parametrize(("family", "shares"), [("qwen2-tied", True), ("gemma2-softcap", False)])
def test_a_prompt_is_computed_once_where_the_model_can_be_packed(
    family: str, shares: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = tiny.make_policy(family)
    prompts = [prompt for prompt, _ in PAIRS]
    counted: list[int] = []
    plain = policy.hidden

    def noted(packed: Packed) -> Tensor:
        counted.append(len(packed.ids))
        return plain(packed)

    monkeypatch.setattr(policy, "hidden", noted)
    stats_of(policy, micro_batch_size=len(PAIRS))
    whole = sum(len(prompt) + len(completion) - 1 for prompt, completion in PAIRS)
    twice = len(prompts[3]) + len(prompts[5])
    assert counted == [whole - twice if shares else whole]


@pytest.mark.parametrize(("left", "right"), [(7, 0), (0, 5), (3, 9)])
def test_more_padding_changes_nothing(policy: Policy, left: int, right: int) -> None:
    """Not a bit: what is only padding is cut off before the forward pass."""
    wide = stats_of(policy, tiny.rows_of_pairs(PAIRS, more_left=left, more_right=right))
    plain = stats_of(policy)
    for name in COLUMNS:
        found = getattr(wide, name)
        assert torch.equal(found[:, : ROWS.mask.shape[1]], getattr(plain, name))
        assert not found[:, ROWS.mask.shape[1] :].any()


def test_longer_neighbours_change_nothing(policy: Policy) -> None:
    """Their lengths are padding to a row, on both sides."""
    together = stats_of(policy, micro_batch_size=6)
    for i, pair in enumerate(PAIRS):
        alone, size = stats_of(policy, tiny.rows_of_pairs([pair])), len(pair[1])
        row = TokenStats(*(getattr(together, name)[[i], :size] for name in COLUMNS))
        assert_close(row, alone)


def test_permuting_rows_permutes_the_statistics(policy: Policy) -> None:
    order = [4, 0, 3, 5, 1, 2]
    turned = stats_of(policy, tiny.rows_of_pairs([PAIRS[i] for i in order]), micro_batch_size=2)
    plain = stats_of(policy)
    expected = TokenStats(*(getattr(plain, name)[order] for name in COLUMNS))
    assert_close(turned, expected)


def cut_into(monkeypatch: pytest.MonkeyPatch, tiles: Tiles) -> None:
    monkeypatch.setattr(Tiles, "fitting", staticmethod(lambda width, *, device: tiles))


@pytest.mark.parametrize("tiles", [Tiles(1, 1, 1), Tiles(2, 7, 1), Tiles(7, 1000, 3)])
def test_the_size_of_a_tile_changes_nothing(
    policy: Policy, monkeypatch: pytest.MonkeyPatch, tiles: Tiles
) -> None:
    whole = stats_of(policy)
    cut_into(monkeypatch, tiles)
    assert_close(stats_of(policy), whole)


def test_rows_that_need_no_reference_have_no_distance(policy: Policy) -> None:
    """And the reference does not run on them; the other rows are as if alone."""
    needed = torch.tensor([True, False, True, False, False, True])
    seen: list[int] = []
    forward = policy.reference_hidden

    def counted(packed: Packed) -> Tensor:
        seen.append(int((packed.positions == 0).sum()))  # every sequence starts at 0
        return forward(packed)

    policy.reference_hidden = counted  # type: ignore[method-assign]
    part = stats_of(policy, needs_reference=needed, micro_batch_size=2)
    assert sum(seen) == int(needed.sum())
    alone = stats_of(policy, ROWS.take(needed.nonzero().squeeze(1)), micro_batch_size=2)
    width = alone.entropy.shape[1]
    for name in COLUMNS:
        assert torch.equal(getattr(part, name)[needed, :width], getattr(alone, name))
    assert not part.hellinger_sq[~needed].any()
    assert_close(
        TokenStats(part.old_logprobs, part.entropy, alone.hellinger_sq.new_zeros(1)),
        TokenStats(
            stats_of(policy).old_logprobs, stats_of(policy).entropy, alone.hellinger_sq.new_zeros(1)
        ),
    )


class Largest(TorchDispatchMode):
    """Notes the largest tensor that any operation makes, in elements."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        self.numel = max([self.numel, *sizes])
        return result


@pytest.mark.parametrize("what", ["statistics", "gradient"])
@pytest.mark.parametrize("small", [True, False])
def test_logits_of_a_whole_batch_are_never_held(
    monkeypatch: pytest.MonkeyPatch, what: str, small: bool
) -> None:
    """A vocabulary of 1500 against 32 hidden numbers: logits dwarf whatever else there is.

    With room for all of them the same measurement finds them, so that it does measure.
    """
    policy = tiny.make_policy("qwen2-untied", apart=0.05, vocab_size=1500)
    rows = tiny.rows_of_pairs(tiny.random_pairs([(5, 40)] * 8, vocab=1500))
    logits = 8 * 40 * 1500
    cut_into(monkeypatch, Tiles(64, 128, 16) if small else Tiles(320, 1500, 320))
    with Largest() as largest:
        if what == "statistics":
            stats_of(policy, rows, micro_batch_size=8)
        else:
            policy.token_logprobs(rows, temperature=TEMPERATURE).sum().backward()
    if small:
        # The head itself is the largest thing (V * D); every chunk of logits is a quarter of it.
        assert largest.numel == 1500 * 32 < logits / 8
    else:
        assert largest.numel >= logits


def test_logits_are_not_kept_for_backward() -> None:
    """Tiles that are small one by one would add up to the whole, which autograd's own way keeps."""
    policy = tiny.make_policy("qwen2-untied", vocab_size=1500)
    rows = tiny.rows_of_pairs(tiny.random_pairs([(5, 40)] * 8, vocab=1500))

    def kept(run: Callable[[], object]) -> int:
        saved: list[int] = []

        def pack(tensor: Tensor) -> Tensor:
            saved.append(tensor.numel() if tensor.shape[-1:] == (1500,) else 0)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            run()
        return sum(saved)

    hidden = torch.zeros(8 * 40, 32, requires_grad=True)
    assert kept(lambda: policy.head.logits(hidden).log_softmax(-1)) >= 8 * 40 * 1500
    assert kept(lambda: policy.token_logprobs(rows, temperature=TEMPERATURE)) == 0


def test_the_adapters_reference_is_the_base_and_no_second_copy() -> None:
    policy = tiny.make_lora_policy(apart=0.05)
    base = sum(p.numel() for p in tiny.build_model("qwen2-untied").parameters())
    adapter = sum(p.numel() for name, p in policy.model.named_parameters() if "lora_" in name)
    assert policy.parameter_counts() == {"held": base + adapter, "trained": adapter}


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("family", [*FAMILIES, "lora"])
def test_logprobs_of_an_update_are_the_old_ones(
    monkeypatch: pytest.MonkeyPatch, family: str, chunked: bool
) -> None:
    """In one layout bit for bit: the ratio of a first update is exactly 1."""
    if chunked:
        cut_into(monkeypatch, Tiles(5, 8, 2))
    lora = family == "lora"
    policy = tiny.make_lora_policy(apart=0.05) if lora else tiny.make_policy(family, apart=0.05)
    with policy.training():
        found = policy.token_logprobs(ROWS, temperature=TEMPERATURE)
    # As update does it: in the order, and with the width, of the micro-batch.
    order = torch.argsort(ROWS.prompt_mask.sum(1) + ROWS.mask.sum(1), descending=True, stable=True)
    old = stats_of(policy, micro_batch_size=6).old_logprobs
    with policy.training():
        same_layout = policy.token_logprobs(ROWS.take(order), temperature=TEMPERATURE)
    assert torch.equal(same_layout, old[order])
    torch.testing.assert_close(found, old, rtol=0, atol=1e-5)
    assert not found.masked_select(~ROWS.mask).any()


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_gradient_of_logprobs_equals_the_slow_twin(
    monkeypatch: pytest.MonkeyPatch, family: str, chunked: bool
) -> None:
    if chunked:
        cut_into(monkeypatch, Tiles(5, 8, 2))
    policy = tiny.make_policy(family)
    pull = torch.randn(ROWS.mask.shape, generator=torch.Generator().manual_seed(1))
    (policy.token_logprobs(ROWS, temperature=TEMPERATURE) * pull).sum().backward()
    twin = twins.widened(policy.model)
    twin.zero_grad()
    for i, pair in enumerate(PAIRS):
        logprobs = twins.completion_logprobs(twin, pair, temperature=TEMPERATURE)
        (logprobs * pull[i, : len(pair[1])].double()).sum().backward()
    expected = dict(twin.named_parameters())
    for name, parameter in policy.model.named_parameters():
        exact = expected[name].grad
        error = (parameter.grad.double() - exact).norm() / exact.norm()
        assert error < 2e-5, name


def test_progress_counts_every_token_once(policy: Policy) -> None:
    recorder = Recorder()
    stats_of(policy, micro_batch_size=2, observer=recorder)
    total = int(ROWS.mask.sum())
    assert recorder.phases == [("statistics", total, "tokens", total)]
    assert len(recorder.of(Progress)) == 1 + 3 + 1
