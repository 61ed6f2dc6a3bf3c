"""The HF sampler against a slow twin, and what must not move a completion."""

from __future__ import annotations

import copy
import dataclasses
import math
import random
from typing import Any

import numpy as np
import pytest
import torch

from dgpo_cli.core.errors import ConfigError
from dgpo_cli.core.events import NOBODY, Observer
from dgpo_cli.core.types import Completion
from dgpo_cli.policy.policy import Policy
from dgpo_cli.samplers import hf
from dgpo_cli.samplers.base import SamplingParams
from dgpo_cli.samplers.hf import HfSampler
from tests.policy import families, tiny
from tests.recorder import Recorder

LIMIT = 24
STOPS = (tiny.END, 9, 20, 33)
FAMILIES = ("qwen2-tied", "qwen2-untied", "gemma2-softcap", "granite-scaled", "cohere-scaled")
EVERY = (*FAMILIES, *families.ATTENTION, *families.RECURRENT)
PARAMS = SamplingParams(temperature=0.9, top_p=1.0, top_k=0, max_completion_tokens=LIMIT)
GREEDY = SamplingParams(temperature=0.0, top_p=1.0, top_k=0, max_completion_tokens=LIMIT)


def make_policy(family: str = "qwen2-tied") -> Policy:
    """A policy with four tokens that end a completion, so that lengths differ widely."""
    policy = tiny.make_policy(family)
    policy.model.generation_config.eos_token_id = list(STOPS)
    return policy


def make_prompts(lengths: list[int], *, seed: int = 0) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(2, tiny.VOCAB) for _ in range(length)] for length in lengths]


def sample(
    generator: Any,
    prompts: list[list[int]],
    seeds: list[list[int]],
    *,
    params: SamplingParams = PARAMS,
    batch_size: int = 256,
    observer: Observer = NOBODY,
) -> list[tuple[Completion, ...]]:
    sampler = HfSampler(generator, batch_size=batch_size)
    return sampler.sample(prompts, seeds=seeds, params=params, observer=observer)


class Counting:
    """A generator that notes the shape of every forward pass."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self.shapes: list[tuple[int, ...]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._policy, name)

    def next_logits(self, input_ids: torch.Tensor, **others: Any) -> torch.Tensor:
        self.shapes.append(tuple(input_ids.shape))
        return self._policy.next_logits(input_ids, **others)


@torch.no_grad()
def twin_completion(
    model: Any, prompt: list[int], *, seed: int, temperature: float
) -> tuple[list[int], list[float]]:
    """One token after the other in float64: no cache, no padding, no neighbours."""
    stream = np.random.Generator(np.random.Philox(key=seed))
    ids: list[int] = []
    logprobs: list[float] = []
    while len(ids) < LIMIT and not (ids and ids[-1] in STOPS):
        logits = model(input_ids=torch.tensor([prompt + ids])).logits[0, -1].tolist()
        top = max(logits)
        powers = [math.exp((x - top) / temperature) for x in logits]
        target, token, held = stream.random() * math.fsum(powers), 0, powers[0]
        while held <= target:
            token += 1
            held += powers[token]
        ids.append(token)
        logprobs.append(math.log(powers[token] / math.fsum(powers)))
    return ids, logprobs


def assert_same(found: list[Any], expected: list[Any]) -> None:
    for mine, theirs in zip(found, expected, strict=True):
        for a, b in zip(mine, theirs, strict=True):
            assert a.token_ids == b.token_ids
            assert a.sampling_logprobs == pytest.approx(b.sampling_logprobs, abs=1e-5)
            assert (a.text, a.finish_reason, a.seed) == (b.text, b.finish_reason, b.seed)


@pytest.mark.parametrize("family", FAMILIES)
def test_completions_and_their_logprobs_equal_the_slow_twin(family: str) -> None:
    policy = make_policy(family)
    prompts = make_prompts([3, 11, 1, 7])
    seeds = [[100 * i + j for j in range(3)] for i in range(4)]
    found = sample(policy, prompts, seeds)
    model = copy.deepcopy(policy.model).double()
    lengths = set()
    for prompt, own, completions in zip(prompts, seeds, found, strict=True):
        for seed, completion in zip(own, completions, strict=True):
            ids, logprobs = twin_completion(model, prompt, seed=seed, temperature=0.9)
            assert completion.token_ids == tuple(ids)
            assert completion.sampling_logprobs == pytest.approx(logprobs, abs=1e-5)
            assert completion.seed == seed
            lengths.add(len(ids))
    assert len(lengths) > 3  # rows ended at different times, or the batch was not put to a test


def test_a_completion_is_the_same_alone_and_among_others() -> None:
    policy = make_policy()
    prompts = make_prompts([5, 2, 9, 4, 9])
    seeds = [[10 * i + j for j in range(4)] for i in range(5)]
    together = sample(policy, prompts, seeds)
    for i, prompt in enumerate(prompts):
        for j, seed in enumerate(seeds[i]):
            assert_same(sample(policy, [prompt], [[seed]]), [(together[i][j],)])


@pytest.mark.parametrize("batch_size", [1, 3, 7, 20])
def test_the_batch_size_changes_nothing(batch_size: int) -> None:
    policy = make_policy()
    prompts = make_prompts([5, 2, 9, 4])
    seeds = [[10 * i + j for j in range(5)] for i in range(4)]
    assert_same(
        sample(policy, prompts, seeds, batch_size=batch_size), sample(policy, prompts, seeds)
    )


def test_the_order_of_prompts_and_seeds_changes_nothing() -> None:
    policy = make_policy()
    prompts = make_prompts([5, 2, 9, 4])
    seeds = [[10 * i + j for j in range(5)] for i in range(4)]
    turned = sample(policy, prompts[::-1], [own[::-1] for own in seeds[::-1]], batch_size=6)
    assert_same([own[::-1] for own in turned[::-1]], sample(policy, prompts, seeds, batch_size=6))


def test_a_longer_neighbour_changes_nothing() -> None:
    """Its length is padding on the left of all others."""
    policy = make_policy()
    [short, long] = make_prompts([3, 60])
    seeds = [1, 2, 3]
    beside = sample(policy, [short, long], [seeds, seeds])
    assert_same(beside[:1], sample(policy, [short], [seeds]))


@pytest.mark.parametrize("family", EVERY)
@torch.no_grad()
def test_sampling_logprobs_are_those_of_each_whole_sequence(family: str) -> None:
    """States, windows, padding and dropped rows included: LIMIT is beyond every window."""
    policy = make_policy(family)
    prompts = make_prompts([3, 11, 1, 7, 3])
    found = sample(policy, prompts, [[10 * i + j for j in range(4)] for i in range(5)])
    for prompt, completions in zip(prompts, found, strict=True):
        for completion in completions:
            ids = torch.tensor([[*prompt, *completion.token_ids]])
            logits = policy.model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1]
            every = (logits / PARAMS.temperature).log_softmax(dim=-1)
            expected = every[range(len(completion.token_ids)), completion.token_ids]
            assert completion.sampling_logprobs == pytest.approx(expected.tolist(), abs=2e-4)


@pytest.mark.parametrize("family", families.NOT_SAMPLED)
def test_a_model_whose_rows_cannot_be_selected_is_refused_by_the_sampler(family: str) -> None:
    told = r"rollout\.backend\.kind=hf cannot sample from \w+: .*; set rollout\.backend\.kind=vllm"
    with pytest.raises(ConfigError, match=told):
        HfSampler(make_policy(family), batch_size=4)


def test_prompts_of_other_lengths_are_not_padded_where_padding_is_let_in() -> None:
    """The convolutions of LFM2 have biases: they make something of padding."""
    counting = Counting(make_policy("lfm2"))
    assert not counting.pads_prompts
    sample(counting, make_prompts([3, 11, 11, 3, 7]), [[0, 1]] * 5, batch_size=4)
    shapes = [shape for shape in counting.shapes if shape[1] > 1]
    assert shapes == [(2, 11), (1, 7), (2, 3)]


@pytest.mark.parametrize("family", EVERY)
def test_greedy_equals_generate(family: str) -> None:
    policy = make_policy(family)
    prompts = make_prompts([4, 9, 1, 6, 12], seed=3)
    found = sample(policy, prompts, [[0]] * 5, params=GREEDY)
    for prompt, (completion,) in zip(prompts, found, strict=True):
        ids = torch.tensor([prompt])
        output = policy.model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=LIMIT
        )
        assert completion.token_ids == tuple(output[0, len(prompt) :].tolist())


def test_greedy_does_not_depend_on_the_seed() -> None:
    found = sample(make_policy(), make_prompts([4, 6]), [[1, 2], [3, 4]], params=GREEDY)
    assert all(a.token_ids == b.token_ids for a, b in found)


def test_seeds_give_different_completions() -> None:
    found = sample(make_policy(), make_prompts([4]), [list(range(20))])
    assert len({completion.token_ids for completion in found[0]}) > 15


def test_the_end_token_is_kept_and_counted_and_not_in_the_text() -> None:
    policy = make_policy()
    found = sample(policy, make_prompts([4, 6]), [list(range(30))] * 2)
    reasons = set()
    for completion in (c for group in found for c in group):
        reasons.add(completion.finish_reason)
        stopped = completion.token_ids[-1] in STOPS
        assert completion.finish_reason == ("stop" if stopped else "length")
        assert not any(token in STOPS for token in completion.token_ids[:-1])
        assert len(completion.token_ids) == len(completion.sampling_logprobs)
        body = completion.token_ids[:-1] if stopped else completion.token_ids
        characters = [(tiny.SPECIAL + tiny.ALPHABET)[i] for i in body if i >= len(tiny.SPECIAL)]
        assert completion.text == "".join(characters)
        if not stopped:
            assert len(completion.token_ids) == LIMIT
    assert reasons == {"stop", "length"}


def test_an_end_token_at_the_limit_is_a_stop() -> None:
    policy, [prompt] = make_policy(), make_prompts([4])
    [group] = sample(policy, [prompt], [list(range(30))])
    ended = next(c for c in group if c.finish_reason == "stop" and len(c.token_ids) > 2)
    size = len(ended.token_ids)
    for limit, reason in ((size, "stop"), (size - 1, "length")):
        cut = SamplingParams(0.9, 1.0, 0, max_completion_tokens=limit)
        [[again]] = sample(policy, [prompt], [[ended.seed]], params=cut)
        assert again.token_ids == ended.token_ids[:limit]
        assert again.finish_reason == reason


def test_completions_carry_the_version_that_was_last_synced() -> None:
    sampler = HfSampler(make_policy(), batch_size=4)

    def version() -> int:
        [[found]] = sampler.sample([[5]], seeds=[[0]], params=PARAMS, observer=NOBODY)
        return found.policy_version

    assert version() == 0
    sampler.sync(policy_version=17)
    assert version() == 17


def test_an_update_of_the_weights_is_seen_by_the_next_sample() -> None:
    policy, prompts = make_policy(), make_prompts([5, 8])
    before = sample(policy, prompts, [[0, 1], [2, 3]])
    tiny.nudge(policy.model.parameters(), scale=0.3)
    after = sample(policy, prompts, [[0, 1], [2, 3]])
    twin = copy.deepcopy(policy.model).double()
    ids, _ = twin_completion(twin, prompts[0], seed=0, temperature=0.9)
    assert after[0][0].token_ids == tuple(ids) != before[0][0].token_ids


@pytest.mark.parametrize("family", ["qwen2-tied", "gemma2-softcap"])
def test_dropping_ended_rows_happens_and_changes_nothing(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = make_policy(family)
    prompts, seeds = make_prompts([5, 2, 9]), [[10 * i + j for j in range(6)] for i in range(3)]

    def rows(share: float) -> tuple[list[Any], list[int]]:
        monkeypatch.setattr(hf, "_COMPACT_SHARE", share)
        counting = Counting(policy)
        found = sample(counting, prompts, seeds)
        return found, [shape[0] for shape in counting.shapes[1:]]

    never, all_rows = rows(2.0)
    always, fewest_rows = rows(0.0)
    some, fewer_rows = rows(0.2)
    assert_same(always, never)
    assert_same(some, never)
    lengths = [len(c.token_ids) for group in never for c in group]
    # A row that ended at its n-th token is not computed for the n-th next one.
    assert fewest_rows == [sum(n > i for n in lengths) for i in range(1, max(lengths))]
    assert set(all_rows) == {18}
    assert sum(fewest_rows) < sum(fewer_rows) < sum(all_rows)


def test_equal_prompts_are_prefilled_once() -> None:
    [one, two] = make_prompts([5, 8])
    counting = Counting(make_policy())
    sample(counting, [one, two, one], [[1, 2, 3, 4], [5, 6], [7]])
    assert counting.shapes[0] == (2, 8)
    assert counting.shapes[1] == (7, 1)


def test_no_forward_pass_is_run_after_the_last_token() -> None:
    counting = Counting(make_policy())
    found = sample(counting, make_prompts([5]), [[0, 1, 2]])
    assert len(counting.shapes) == max(len(c.token_ids) for c in found[0])


def test_progress_counts_every_completion_once() -> None:
    recorder = Recorder()
    prompts, seeds = make_prompts([5, 3]), [[0, 1, 2], [3, 4]]
    sample(make_policy(), prompts, seeds, batch_size=2, observer=recorder)
    assert recorder.phases == [("sampling", 5, "completions", 5)]


def test_weights_are_left_without_gradients_and_in_the_same_mode() -> None:
    policy = make_policy()
    before = copy.deepcopy(policy.model.state_dict())
    sample(policy, make_prompts([5]), [[0, 1]])
    assert all(
        torch.equal(before[name], value) for name, value in policy.model.state_dict().items()
    )
    assert all(p.grad is None for p in policy.model.parameters())
    assert not policy.model.training


def test_a_long_prompt_leaves_its_completions_less_room() -> None:
    policy = make_policy()
    prompts = make_prompts([3, 20, 12, 23])
    seeds = [[10 * i + j for j in range(4)] for i in range(4)]
    total = dataclasses.replace(PARAMS, max_total_tokens=26)
    found = sample(policy, prompts, seeds, params=total)
    lengths = set()
    for prompt, own, completions in zip(prompts, seeds, found, strict=True):
        room = min(LIMIT, 26 - len(prompt))
        alone = dataclasses.replace(PARAMS, max_completion_tokens=room)
        assert_same([completions], sample(policy, [prompt], [own], params=alone))
        lengths |= {len(each.token_ids) == room for each in completions}
    assert lengths == {True, False}
