"""The four verbs: what goes in, what comes out, and in which order."""

from __future__ import annotations

import copy
import itertools
import math
from typing import Any

import pytest
import torch

from dgpo_cli.algo.advantages import AdvantageSettings
from dgpo_cli.algo.credit import DgpoCredit, EntropyCredit, UniformCredit
from dgpo_cli.core.types import Group
from dgpo_cli.engine.optimizers import build_adamw
from dgpo_cli.policy.policy import Policy
from dgpo_cli.samplers.base import SamplingParams
from tests.algo import twins as algo_twins
from tests.engine import updates
from tests.engines import (
    ANSWERS,
    PROMPTS,
    TEXTS,
    G,
    completion_of,
    equal,
    make_engine,
    rollout,
    sampler_of,
    weights_of,
)
from tests.policy import tiny


def test_sample_encodes_by_the_template_and_keeps_the_order(policy: Policy) -> None:
    engine = make_engine(policy)
    seeds = [[7, 8, 9], [1, 2, 3], [4, 5, 6]]
    groups = engine.sample(PROMPTS[:3], seeds=seeds)
    [(ids, asked, params)] = sampler_of(engine).asked
    # <user> 1 + 1 1 ? <end> <assistant>
    assert ids[1] == (3, 6, 15, 6, 6, 23, 1, 4)
    assert asked == seeds
    assert params == SamplingParams(temperature=0.8, top_p=1.0, top_k=0, max_completion_tokens=6)
    for group, prompt, own, texts, prompt_ids in zip(
        groups, PROMPTS, seeds, TEXTS, ids, strict=False
    ):
        assert (group.prompt, group.prompt_ids) == (prompt, prompt_ids)
        assert [c.text for c in group.completions] == texts
        assert [c.seed for c in group.completions] == own
        assert engine.prompt_length(prompt) == len(prompt_ids)


def test_score_keeps_the_order_and_gives_group_advantages(policy: Policy) -> None:
    engine = make_engine(policy)
    scored = rollout(engine)
    grader: Any = engine.grader
    assert [(i.gold, i.text) for i in grader.items] == [
        (answer, text) for answer, texts in zip(ANSWERS, TEXTS, strict=True) for text in texts
    ]
    assert {i.finish_reason for i in grader.items} == {"stop"}
    for group, answer, texts in zip(scored, ANSWERS, TEXTS, strict=True):
        rewards = [float(text == answer) for text in texts]
        assert group.rewards == tuple(rewards)
        expected = algo_twins.advantages(rewards, baseline="group-mean", std="group")
        assert group.advantages == pytest.approx(expected if any(rewards) else [0.0] * G)
    assert [group.has_signal for group in scored] == [True, True, True, True, False]


def test_the_advantage_settings_are_the_runs(policy: Policy) -> None:
    engine = make_engine(policy)
    advantage = AdvantageSettings(baseline="leave-one-out", std="none")
    engine.settings = engine.settings.model_copy(update={"advantage": advantage})
    assert rollout(engine)[0].advantages == pytest.approx((1.0, -0.5, -0.5))


def test_a_row_of_a_batch_is_its_completion(policy: Policy) -> None:
    engine = make_engine(policy)
    scored = rollout(engine)
    batch = engine.make_batch(scored)
    for row in range(len(scored) * G):
        group, j = scored[row // G], row % G
        mask, prompt_mask = batch.mask[row], batch.prompt_mask[row]
        assert tuple(batch.prompt_ids[row][prompt_mask].tolist()) == group.prompt_ids
        assert tuple(batch.completion_ids[row][mask].tolist()) == group.completions[j].token_ids
        assert float(batch.advantages[row]) == pytest.approx(group.advantages[j])
    assert batch.lengths.tolist() == [len(text) + 1 for texts in TEXTS for text in texts]


@pytest.mark.parametrize("rule", [DgpoCredit(tau=0.05), UniformCredit(), EntropyCredit()])
def test_the_credit_of_a_batch_is_its_rules(policy: Policy, rule: Any) -> None:
    batch = make_engine(policy, credit=rule).make_batch(rollout(make_engine(policy)))
    expected = rule.credit(batch.stats, batch.mask, vocab_size=tiny.VOCAB)
    assert torch.equal(batch.credit.weights, expected.weights)
    assert batch.credit.weights.sum(1).tolist() == pytest.approx(batch.lengths.tolist(), rel=1e-5)


@pytest.mark.parametrize("rule", [DgpoCredit(), UniformCredit(), EntropyCredit()])
def test_the_reference_is_run_only_for_a_rule_that_looks_at_it(
    policy: Policy, rule: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    plain = policy.reference_hidden

    def count(*arguments: Any, **others: Any) -> torch.Tensor:
        calls.append(1)
        return plain(*arguments, **others)

    monkeypatch.setattr(policy, "reference_hidden", count)
    engine = make_engine(policy, credit=rule)
    scored = rollout(engine)
    batch = engine.make_batch(scored)
    used = rule.needs_reference
    assert bool(calls) == bool(batch.stats.hellinger_sq.any()) == used
    assert ("policy/hellinger_sq_mean" in engine.metrics(scored, batch=batch)) == used


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_the_first_step_of_dgpo_is_the_step_of_grpo_to_the_bit(kind: str) -> None:
    """Nothing has moved, so d = 0 and w = 1; the second step differs."""
    make = {"full": tiny.make_policy, "lora": tiny.make_lora_policy}[kind]
    steps: dict[str, list[list[torch.Tensor]]] = {}
    for rule in (DgpoCredit(tau=0.01), UniformCredit()):
        engine = make_engine(make(), credit=rule)
        before = weights_of(engine.policy)
        scored = rollout(engine)
        ends = []
        for step in range(2):
            engine.update(engine.make_batch(scored), step=step)
            ends.append(weights_of(engine.policy))
        assert not equal(before, ends[0])
        steps[rule.rule] = ends
    assert equal(steps["dgpo"][0], steps["uniform"][0])
    assert not equal(steps["dgpo"][1], steps["uniform"][1])


@pytest.mark.parametrize(
    ("pieces", "edges"),
    [
        (1, [0, 15]),
        (2, [0, 6, 15]),
        (3, [0, 3, 9, 15]),
        (5, [0, 3, 6, 9, 12, 15]),
        (9, [0, 3, 6, 9, 12, 15]),  # more than there are groups
    ],
)
def test_updates_of_a_step_are_cut_at_whole_groups(
    policy: Policy, pieces: int, edges: list[int]
) -> None:
    """And the step is those updates one after the other, each on the next weights."""
    engine = make_engine(policy, optim={"updates_per_step": pieces, "max_grad_norm": 0.0})
    batch = engine.make_batch(rollout(engine))
    twin = copy.deepcopy(policy)
    adamw = build_adamw(twin, lr=1e-2, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
    results = [
        updates.run_update(
            twin, adamw, batch, index=torch.arange(start, stop), max_completion_tokens=6
        )
        for start, stop in itertools.pairwise(edges)
    ]
    metrics = engine.update(batch, step=0)
    assert equal(weights_of(policy), weights_of(twin))
    applied = sum(result.applied for result in results)
    assert metrics["optim/updates"] == applied == engine.policy_version
    assert metrics["loss/value"] == pytest.approx(sum(r.loss for r in results) / len(results))
    if pieces > 1:
        assert metrics["loss/ratio_max"] > 1.0 + 1e-3  # later updates see moved weights


def test_a_sync_hands_the_weights_and_their_version_to_the_sampler(policy: Policy) -> None:
    engine = make_engine(policy)
    engine.policy_version = 40
    engine.sync()
    batch = engine.make_batch(rollout(engine))
    for step in range(2):
        engine.update(batch, step=step)
        assert sampler_of(engine).versions == [40, 41][: step + 1]
        engine.sync()
    assert sampler_of(engine).versions == [40, 41, 42]


def test_groups_of_any_size_are_scored_alone(policy: Policy) -> None:
    """A group is graded by its own answer, however many completions it has."""
    engine = make_engine(policy)
    groups = [
        Group(PROMPTS[0], (3, 6), tuple(completion_of(t) for t in ("3", "4"))),
        Group(PROMPTS[1], (3, 6), (completion_of("7"),)),
        Group(PROMPTS[0], (3, 6), tuple(completion_of(t) for t in ("4", "3", "3", "3"))),
    ]
    scored = engine.score(groups)
    assert [group.rewards for group in scored] == [(1.0, 0.0), (1.0,), (0.0, 1.0, 1.0, 1.0)]
    assert scored[1].advantages == (0.0,)
    assert scored[2].advantages == pytest.approx((-1.5, 0.5, 0.5, 0.5), abs=1e-5)


@pytest.mark.parametrize(("every", "measured"), [(0, [1]), (3, [1, 3, 6]), (1, [1, 2, 3, 4, 5, 6])])
def test_the_noise_floor_is_measured_at_first_and_every_so_many_steps(
    policy: Policy, every: int, measured: list[int]
) -> None:
    engine = make_engine(policy, credit=DgpoCredit(noise_every=every))
    scored = rollout(engine)
    assert engine.make_batch(scored).stats.noise_floor is None
    found = {number: engine.measure_noise(scored, number=number) for number in range(1, 7)}
    assert [number for number, metrics in found.items() if metrics] == measured
    last = found[measured[-1]]["noise/floor"]
    assert 0 < last < 1e-11
    assert engine.make_batch(scored).stats.noise_floor == engine.noise_floor == last


def test_a_run_that_went_on_measures_at_once_only_where_no_floor_was_kept(policy: Policy) -> None:
    engine = make_engine(policy, credit=DgpoCredit(noise_every=20))
    scored = rollout(engine)
    engine.noise_floor = 3e-13
    assert engine.measure_noise(scored, number=8) == {}
    assert engine.noise_floor == 3e-13
    engine.noise_floor = None
    assert engine.measure_noise(scored, number=8)["noise/floor"] == engine.noise_floor


@pytest.mark.parametrize("rule", [UniformCredit(), EntropyCredit()])
def test_a_rule_without_a_distance_pays_for_no_noise(
    policy: Policy, rule: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine(policy, credit=rule)
    scored = rollout(engine)
    monkeypatch.setattr(policy, "hidden", None)  # nothing may be run
    assert engine.measure_noise(scored, number=1) == {}
    assert engine.noise_floor is None


@pytest.mark.parametrize("over", ["completion", "batch"])
def test_a_target_takes_hold_as_soon_as_the_policy_has_moved(over: Any) -> None:
    """The first step is GRPO's to the bit; the fraction of the second is the target, and said."""
    rule = DgpoCredit(target_ess=0.9, target_ess_over=over, max_weight=100.0)
    engine = make_engine(tiny.make_policy(), credit=rule)
    scored = rollout(engine)
    found = []
    for step in range(2):
        noise = engine.measure_noise(scored, number=step + 1)
        batch = engine.make_batch(scored)
        found.append(engine.metrics(scored, batch=batch) | noise)
        engine.update(batch, step=step)
    first, second = found
    assert first["credit/effective_fraction"] == first["credit/weight_max"] == 1.0
    assert math.isnan(first["credit/tau_p50"]) and first["credit/held_by_ties"] == 1.0
    assert second["credit/tau_min"] > 0
    # Most of these completions have two or three tokens: some are held up by ties or the noise.
    assert second["credit/effective_fraction"] == pytest.approx(0.9, abs=0.02)
    assert second["credit/tau_min"] <= second["credit/tau_p50"] <= second["credit/tau_max"] < 0.5
