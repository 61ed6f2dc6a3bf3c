"""What a real vLLM server samples, scores and takes, against the trainer and the HF sampler."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from dgpo_cli.algo.truncation import Truncation
from dgpo_cli.core.errors import BackendError
from dgpo_cli.core.events import NOBODY
from dgpo_cli.core.types import Completion
from dgpo_cli.engine.engine import Engine
from dgpo_cli.engine.setup import make_sampler
from dgpo_cli.environments.process import EnvProcess
from dgpo_cli.policy.batching import pad_rows
from dgpo_cli.policy.policy import Policy
from dgpo_cli.policy.quantization import packed_count
from dgpo_cli.policy.scoring import token_stats
from dgpo_cli.prompts.settings import EnvironmentPrompts, env_source
from dgpo_cli.rewards.played import EnvironmentReward
from dgpo_cli.samplers.base import SamplingParams
from dgpo_cli.samplers.hf import HfSampler
from dgpo_cli.samplers.stopping import StopStrings
from dgpo_cli.samplers.vllm import weight_stream
from dgpo_cli.samplers.vllm.sampler import VllmSampler
from tests.cli.helpers import in_process as dgpo
from tests.policy import tiny
from tests.vllm.conftest import client_of

LIMIT = 24
PARAMS = SamplingParams(temperature=0.7, top_p=1.0, top_k=0, max_completion_tokens=LIMIT)
GREEDY = SamplingParams(temperature=0.0, top_p=1.0, top_k=0, max_completion_tokens=LIMIT)
CLOSE = 5e-5  # nats, float32 on both sides
Load = Callable[..., tuple[Any, Policy]]


def prompts_of(lengths: Sequence[int]) -> list[list[int]]:
    rng = random.Random(3)
    return [[rng.randrange(2, tiny.VOCAB) for _ in range(length)] for length in lengths]


PROMPTS = prompts_of([4, 1, 30, 12])
SEEDS = [[10, 11, 12], [2**62 + 5], [30, 31], [40, 41, 42, 43]]


def sampler_of(load: Load, url: str, *overrides: str) -> tuple[Policy, VllmSampler]:
    backend = ("rollout.backend.kind=vllm-server", f'rollout.backend.urls=["{url}"]')
    settings, policy = load(*backend, *overrides)
    sampler = make_sampler(settings, policy=policy)
    assert isinstance(sampler, VllmSampler)
    return policy, sampler


def sample(
    sampler: Any,
    params: SamplingParams = PARAMS,
    *,
    prompts: Sequence[Sequence[int]] = PROMPTS,
    seeds: Sequence[Sequence[int]] = SEEDS,
) -> list[tuple[Completion, ...]]:
    found: list[tuple[Completion, ...]] = sampler.sample(
        prompts, seeds=seeds, params=params, observer=NOBODY
    )
    return found


def largest_gap(
    policy: Policy,
    found: list[tuple[Completion, ...]],
    *,
    temperature: float,
    prompts: Sequence[Sequence[int]] = PROMPTS,
) -> float:
    """Distance in nats of the sampler's log-probabilities from the trainer's."""
    largest = 0.0
    for prompt, group in zip(prompts, found, strict=True):
        for completion in group:
            ids = completion.token_ids
            own = policy.logprobs_of([*prompt, *ids], temperature=temperature)[-len(ids) :]
            gaps = [abs(a - b) for a, b in zip(own, completion.sampling_logprobs, strict=True)]
            largest = max(largest, *gaps)
    return largest


def move(policy: Policy, *, scale: float = 0.05, seed: int = 5) -> None:
    tiny.nudge((p for _, p in policy.trainable()), scale=scale, seed=seed)


LORA, FULL = ("adapter.kind=lora", "adapter.rank=4"), ("adapter.kind=none",)
FOLDER = (*FULL, "rollout.backend.weight_transfer=folder")
lora_or_full = pytest.mark.parametrize(
    "adapter", [LORA, FULL, FOLDER], ids=["lora", "full", "full-folder"]
)


@pytest.fixture(autouse=True)
def fresh_base(served: str, small_model: Path) -> None:
    """Undo what a test of full weights has left on the server: an adapter needs its base."""
    client_of(served).reload_weights(small_model)


@lora_or_full
def test_greedy_sampling_is_that_of_the_policy_itself(
    load: Load, served: str, adapter: tuple[str, ...]
) -> None:
    policy, sampler = sampler_of(load, served, *adapter)
    with torch.no_grad():
        move(policy)  # before the first sync: an adapter that is not zero
    policy.untouched = policy.has_adapter
    policy.model.generation_config.eos_token_id = [tiny.END, 9, 20]  # so that some end early
    seeds = [[1], [2], [3], [4]]
    found = sample(sampler, GREEDY, seeds=seeds)
    own = sample(HfSampler(policy, batch_size=8), GREEDY, seeds=seeds)
    for group, twin in zip(found, own, strict=True):
        for completion, other in zip(group, twin, strict=True):
            assert completion.token_ids == other.token_ids
            assert completion.text == other.text
            assert completion.finish_reason == other.finish_reason
    assert "stop" in {c.finish_reason for group in found for c in group}
    assert largest_gap(policy, found, temperature=1.0) < CLOSE


def test_stop_strings_end_completions_where_they_end_the_policys_own(
    load: Load, served: str
) -> None:
    policy, sampler = sampler_of(load, served, *LORA)
    seeds = [[1], [2], [3], [4]]
    free = sample(sampler, GREEDY, seeds=seeds)
    spelled = [policy.spell(group[0].token_ids) for group in free]
    stop = (spelled[0][4:6], spelled[2][7:9], spelled[3][0])  # over two tokens, and of one
    assert all(len(string) > 0 and "\ufffd" not in string for string in stop)
    params = replace(GREEDY, stop=stop)
    found = sample(sampler, params, seeds=seeds)
    own = sample(HfSampler(policy, batch_size=8), params, seeds=seeds)
    law = StopStrings(stop, spell=policy.spell)
    for (completion,), (twin,), (whole,) in zip(found, own, free, strict=True):
        assert completion.token_ids == twin.token_ids == whole.token_ids[: law.end(whole.token_ids)]
        assert len(completion.sampling_logprobs) == len(completion.token_ids)
        assert (completion.text, completion.finish_reason) == (twin.text, twin.finish_reason)
    assert len(found[3][0].token_ids) == 1 and found[3][0].finish_reason == "stop"
    assert len(found[0][0].token_ids) < len(free[0][0].token_ids)


@lora_or_full
def test_logprobs_are_the_trainers_before_and_after_every_sync(
    load: Load, served: str, adapter: tuple[str, ...]
) -> None:
    policy, sampler = sampler_of(load, served, *adapter)
    before = sample(sampler)
    assert largest_gap(policy, before, temperature=0.7) < CLOSE
    for version in (1, 2):
        move(policy, seed=version)
        assert largest_gap(policy, before, temperature=0.7) > 100 * CLOSE  # the test can fail
        sampler.sync(policy_version=version)
        after = sample(sampler)
        assert largest_gap(policy, after, temperature=0.7) < CLOSE
        assert {c.policy_version for group in after for c in group} == {version}
        assert after != before
        before = after


def test_an_adapter_on_a_packed_base_arrives_as_it_is(load: Load, served: str) -> None:
    """vLLM adds it to the base in float32: what comes out is that base with this adapter."""
    # Four bits do more to random weights of this size than to any real model.
    rough = ("model.quantization=nf4", "rollout.backend.canary_tolerance=3.0")
    packed, sampler = sampler_of(load, served, *LORA, *rough)
    sample(sampler)
    move(packed)
    sampler.sync(policy_version=1)
    found = sample(sampler)
    assert packed_count(packed.model) > 0
    _, whole = load("rollout.backend.kind=vllm-server", *LORA)
    assert largest_gap(whole, found, temperature=0.7) > 100 * CLOSE
    for (name, ours), (twin, theirs) in zip(packed.trainable(), whole.trainable(), strict=True):
        assert name == twin
        theirs.data.copy_(ours.data)
    assert largest_gap(whole, found, temperature=0.7) < CLOSE
    assert largest_gap(packed, found, temperature=0.7) > 100 * CLOSE  # the base in 4 bits differs


def test_a_completion_depends_on_its_own_seed_and_not_on_its_neighbours(
    load: Load, served: str
) -> None:
    _, sampler = sampler_of(load, served, *LORA)
    together = sample(sampler)
    for prompt, seeds, group in zip(PROMPTS, SEEDS, together, strict=True):
        (alone,) = sample(sampler, prompts=[prompt], seeds=[seeds[-1:]])
        assert alone[0].token_ids == group[-1].token_ids
    ids = [c.token_ids for c in together[3]]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize(("top_p", "top_k"), [(0.8, 0), (1.0, 5), (0.7, 12)])
def test_truncated_logprobs_are_the_trainers_over_what_it_keeps(
    load: Load, served: str, top_p: float, top_k: int
) -> None:
    """The server returns no sets: the trainer's are the same, and top_k comes before top_p."""
    policy, sampler = sampler_of(load, served, *LORA)
    found = sample(sampler, replace(PARAMS, top_p=top_p, top_k=top_k))
    drawn = [each for group in found for each in group]
    prompts = [p for p, group in zip(PROMPTS, found, strict=True) for _ in group]
    rows = pad_rows([(p, each.token_ids) for p, each in zip(prompts, drawn, strict=True)], pad_id=0)
    stats = token_stats(
        policy,
        rows,
        temperature=0.7,
        micro_batch_size=4,
        with_reference=False,
        truncation=Truncation(top_p, top_k),
    )
    assert stats.kept is not None and stats.outside is not None
    own = stats.old_logprobs[rows.mask]
    theirs = torch.tensor([x for each in drawn for x in each.sampling_logprobs])
    assert float((own - theirs).abs().max()) < CLOSE
    assert not stats.outside.any()
    assert float(stats.kept.max()) <= (top_k or tiny.VOCAB - 1)


def test_tokens_are_drawn_from_the_trainers_distribution(load: Load, served: str) -> None:
    """Frequencies of 400 first tokens, within five standard deviations."""
    policy, sampler = sampler_of(load, served, *LORA)
    one = SamplingParams(temperature=0.7, top_p=1.0, top_k=0, max_completion_tokens=1)
    count = 400
    (group,) = sample(sampler, one, prompts=PROMPTS[:1], seeds=[list(range(count))])
    drawn = [c.token_ids[0] for c in group]
    likeliest = max(set(drawn), key=drawn.count)
    share = drawn.count(likeliest) / count
    logprob = policy.logprobs_of([*PROMPTS[0], likeliest], temperature=0.7)[-1]
    probability = float(torch.tensor(logprob).exp())
    assert abs(share - probability) < 5 * (probability * (1 - probability) / count) ** 0.5


@lora_or_full
@pytest.mark.parametrize("scale", [0.05, 1e-5], ids=["large", "small"])
def test_a_sync_that_changes_nothing_on_the_server_is_found(
    load: Load, served: str, adapter: tuple[str, ...], scale: float, monkeypatch: Any
) -> None:
    policy, sampler = sampler_of(load, served, *adapter)
    if policy.has_adapter:
        move(policy)  # B is 0 at first, and a small step of both factors would be lost in it
    sample(sampler)
    save = policy.save
    stale = policy.model.state_dict()
    stale = {name: value.clone() for name, value in stale.items()}

    def save_stale(folder: Any) -> None:
        fresh = {name: value.clone() for name, value in policy.model.state_dict().items()}
        policy.model.load_state_dict(stale)
        save(folder)
        policy.model.load_state_dict(fresh)

    monkeypatch.setattr(policy, "save", save_stale)
    monkeypatch.setattr(policy, "tensors", lambda: list(stale.items()))
    move(policy, scale=scale, seed=8)
    with pytest.raises(BackendError, match="policy version 1"):
        sampler.sync(policy_version=1)


def test_all_weights_go_over_without_a_folder(load: Load, served: str, monkeypatch: Any) -> None:
    policy, sampler = sampler_of(load, served, *FULL)

    def save(folder: Path) -> None:
        raise AssertionError("written down")

    monkeypatch.setattr(policy, "save", save)
    policy.untouched = False
    sample(sampler)
    move(policy)
    sampler.sync(policy_version=1)
    assert largest_gap(policy, sample(sampler), temperature=0.7) < CLOSE


def test_a_transfer_that_breaks_off_is_an_error_and_the_next_one_is_whole(
    load: Load, served: str, monkeypatch: Any
) -> None:
    policy, sampler = sampler_of(load, served, *FULL)
    sample(sampler)
    move(policy)
    fill, sent = weight_stream._bytes_of, []

    def cut(tensor: torch.Tensor, *, dtype: torch.dtype | None) -> memoryview:
        sent.append(tensor)
        if len(sent) == 6:  # within a layer, of which some weights are there by now
            raise ConnectionResetError
        return fill(tensor, dtype=dtype)

    with monkeypatch.context() as patch:
        patch.setattr(weight_stream, "_bytes_of", cut)
        with pytest.raises(BackendError, match=r"over TCP .*weight_transfer=folder"):
            sampler.sync(policy_version=1)
    assert len(sent) == 6
    client_of(served).start_update()  # as a trainer that was killed then leaves it
    move(policy, seed=6)
    sampler.sync(policy_version=2)
    assert largest_gap(policy, sample(sampler), temperature=0.7) < CLOSE


def test_a_sequence_of_the_longest_length_fits_and_one_more_is_refused(
    load: Load, served: str
) -> None:
    _, sampler = sampler_of(load, served, *FULL)
    for limit, fits in ((128 - 30, True), (128 - 29, False)):
        params = SamplingParams(temperature=1.0, top_p=1.0, top_k=0, max_completion_tokens=limit)
        if fits:
            sample(sampler, params, prompts=PROMPTS[2:3], seeds=[[1]])
        else:
            with pytest.raises(BackendError, match="takes 128 tokens"):
                sample(sampler, params, prompts=PROMPTS[2:3], seeds=[[1]])


def test_rollout_and_evaluation_go_through_a_server(
    small_model: Path, served: str, tmp_path: Path
) -> None:
    settings = (
        *("model.device=cpu", "rollout.backend.kind=vllm-server", "rollout.group_size=2"),
        *(f'rollout.backend.urls=["{served}"]', "rollout.backend.max_num_seqs=4"),
        *("rollout.max_completion_tokens=8", "reward.workers=1", "train.threads=1"),
    )
    sets = [part for setting in settings for part in ("--set", setting)]
    model = ("--model", str(small_model))
    out = tmp_path / "r.jsonl"
    ended = dgpo("rollout", "--prompts", "sums", "--limit", "3", *model, *sets, "--out", str(out))
    assert ended.exit_code == 0, ended.output
    assert len(out.read_text().splitlines()) >= 3
    folder = tmp_path / "eval"
    ended = dgpo("eval", "--bench", "sums-easy", "--k", "1", *model, *sets, "--out", str(folder))
    assert ended.exit_code == 0, ended.output
    assert json.loads((folder / "card.json").read_text())["environment"]["backend"] == "vllm-server"


def test_turns_are_sampled_from_the_tokens_of_the_whole_conversation(
    load: Load, served: str
) -> None:
    """The trainer's log-probabilities of a conversation are the server's of each turn."""
    backend = ("rollout.backend.kind=vllm-server", f'rollout.backend.urls=["{served}"]')
    settings, policy = load(*backend, *FULL, "rollout.max_completion_tokens=60")
    games = Path(__file__).parents[1] / "environments" / "games.py"
    prompts = EnvironmentPrompts(env=f"{games}:Count", max_turn_tokens=9)
    settings = settings.model_copy(update={"prompts": prompts, "reward": EnvironmentReward()})
    with Engine(
        settings,
        policy=policy,
        sampler=make_sampler(settings, policy=policy),
        environment=EnvProcess(env_source(prompts)),
    ) as engine:
        assert engine._environment is not None
        tasks = engine._environment.tasks()
        seeds = [[10 * i, 10 * i + 1] for i in range(len(tasks))]
        groups = engine.score(engine.sample(tasks, seeds=seeds))
        again = engine.sample(tasks, seeds=seeds)
        found = iter(engine.logprobs(groups).logprobs)
    completions = [c for group in groups for c in group.completions]
    assert all(len(c.environment) == 2 for c in completions)
    for completion in completions:
        pairs = zip(completion.sampling_logprobs, next(found), strict=True)
        assert max(abs(a - b) for a, b in pairs) < CLOSE
    assert [c.token_ids for g in again for c in g.completions] == [c.token_ids for c in completions]
