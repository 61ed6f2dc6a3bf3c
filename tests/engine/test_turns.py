"""Completions of several turns: what an environment wrote is read, and never learnt from."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch

from dgpo_cli.algo.losses import ClipLoss
from dgpo_cli.algo.off_policy import Correction
from dgpo_cli.algo.summary import rollout_metrics
from dgpo_cli.core.types import Batch, ScoredGroup, Verdict
from dgpo_cli.engine.batch_metrics import sampler_metrics
from dgpo_cli.engine.learn import Learner
from dgpo_cli.engine.noise import noise_of_distance
from dgpo_cli.policy.policy import Policy
from dgpo_cli.runs.rollouts import training_lines
from tests.engine import updates
from tests.engine.test_update import AGGREGATIONS, SHIFTS, twin_rule
from tests.engines import PROMPTS, G, completion_of, make_engine
from tests.policy import tiny, twins

# Of PAIRS: several spans, spans of one token, and rows of one turn.
SPANS: list[list[tuple[int, int]]] = [
    [(2, 4)], [(1, 3), (6, 10)], [], [(3, 9), (11, 12)], [], [(2, 5)], [(1, 2)], [], [(4, 12)],
]  # fmt: skip
TURNS = [(*pair, spans) for pair, spans in zip(updates.PAIRS, SPANS, strict=True)]
OWN = [
    len(twins.own_tokens(len(pair[1]), spans))
    for pair, spans in zip(updates.PAIRS, SPANS, strict=True)
]
FAMILIES = ["qwen2-tied", "gemma2-softcap", "qwen3_moe"]  # packed, padded, with experts


def batch_of(policy: Policy, *, turns: Any = TURNS, **options: Any) -> Batch:
    return updates.make_batch(policy, rows=tiny.rows_of_pairs(turns), **options)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_gradient_are_those_of_a_twin_that_sums_over_the_policys_tokens(
    family: str, aggregation: str
) -> None:
    """The twin reads every token, and has a term and a share of the credit for the policy's."""
    policy = tiny.make_policy(family, apart=0.05)
    batch = batch_of(policy, shifts=SHIFTS)
    capture = updates.Capture(policy)
    result = updates.run_update(policy, capture, batch, loss=ClipLoss(aggregation=aggregation))  # type: ignore[arg-type]
    loss, gradient = twins.update_gradient(
        twins.widened(policy.model),
        twins.widened(policy._reference),
        updates.PAIRS,
        advantages=updates.ADVANTAGES,
        shifts=SHIFTS,
        rule=twin_rule(aggregation),
        environment=SPANS,
    )
    assert result.loss == pytest.approx(loss, rel=1e-5, abs=1e-7)
    updates.assert_same_gradient(capture.gradients, gradient)
    signal = [own for own, a in zip(OWN, updates.ADVANTAGES, strict=True) if a]
    assert result.signal_tokens == sum(signal)


def test_the_pass_that_measures_and_trains_gives_the_gradient_of_two() -> None:
    policy = tiny.make_policy(apart=0.05)
    rows = tiny.rows_of_pairs(TURNS)
    recipe = updates.recipe_of(group_size=9)
    capture = updates.Capture(policy)
    learner = Learner(policy, capture)
    batch = learner.measure(rows, torch.tensor(updates.ADVANTAGES), recipe=recipe)
    learner.update(batch, recipe=recipe)
    updates.assert_same_gradient(
        capture.gradients, updates.gradient_of(policy, batch_of(policy)), error=1e-5
    )
    assert batch.filled is not None and batch.lengths.tolist() == OWN
    assert batch.filled.sum(dim=1).tolist() == [length for _, length in updates.SHAPES]


def test_numbers_of_the_environments_tokens_are_zero_and_weights_have_a_mean_of_one() -> None:
    batch = batch_of(tiny.make_policy(apart=0.05))
    stats, own = batch.stats, batch.mask
    for column in (stats.old_logprobs, stats.entropy, stats.hellinger_sq, batch.credit.weights):
        assert not column[~own].any() and bool((column[own] != 0).any())
    means = batch.credit.weights.sum(dim=1) / own.sum(dim=1)
    assert means.tolist() == pytest.approx([1.0] * 9, abs=1e-5)


def test_a_token_of_the_environment_moves_what_follows_and_nothing_before() -> None:
    policy = tiny.make_policy(apart=0.05)
    prompt, completion, spans = TURNS[1]
    first = batch_of(policy, turns=TURNS).stats.old_logprobs[1]
    other = list(completion)
    other[6] = other[6] % 20 + 2  # of the second span
    changed = [*TURNS[:1], (prompt, other, spans), *TURNS[2:]]
    second = batch_of(policy, turns=changed).stats.old_logprobs[1]
    assert torch.equal(first[:6], second[:6])
    assert abs(float(first[10] - second[10])) > 1e-3


def test_a_sequence_correction_is_the_product_over_the_policys_tokens() -> None:
    batch = batch_of(tiny.make_policy(apart=0.05))
    sampled = batch.stats.old_logprobs - 0.01 * batch.mask
    sampled[~batch.mask] = -7.0  # whatever is there
    found, _ = Correction("sequence", "truncate", 100.0).weights(
        batch.stats.old_logprobs, sampled, batch.mask
    )
    for row, own in enumerate(OWN):
        weights = found[row][batch.mask[row]].tolist()
        assert weights == pytest.approx([math.exp(0.01 * own)] * own, rel=1e-4)
    assert not found[~batch.mask].any()


def test_the_noise_is_measured_on_the_policys_tokens() -> None:
    policy = tiny.make_policy(apart=0.05)
    noise = noise_of_distance(policy, TURNS, recipe=updates.recipe_of())
    assert len(noise) == sum(OWN)


def two_turns(policy: Policy) -> tuple[Any, list[ScoredGroup]]:
    """An engine, and groups whose completions say something, are answered, and go on."""
    engine = make_engine(policy)
    groups = []
    for at, prompt in enumerate(PROMPTS):
        completions = []
        for number in range(G):
            plain = completion_of(f"{at}{number}+12=3", seed=number)
            logprobs = list(plain.sampling_logprobs)
            logprobs[2:5] = [0.0] * 3
            turns = dataclasses.replace(
                plain, sampling_logprobs=tuple(logprobs), environment=((2, 5),)
            )
            completions.append(turns if number else plain)
        verdicts = tuple(Verdict("correct", None, float(n == 1)) for n in range(G))
        ids = engine.encode(prompt)
        groups.append(ScoredGroup(prompt, ids, tuple(completions), verdicts, (-0.5, 1.0, -0.5)))
    return engine, groups


def test_metrics_count_the_policys_own_tokens(policy: Policy) -> None:
    engine, groups = two_turns(policy)
    found = rollout_metrics(groups)
    # 7 characters and EOS, of which 3 are the environment's in two of three completions.
    assert found["completion/length_max"] == 8.0 and found["completion/length_min"] == 5.0
    assert found["completion/tokens"] == 5 * (8 + 5 + 5)
    assert found["env/turns_mean"] == pytest.approx(5 / 3)
    assert found["env/turns_max"] == 2.0
    assert found["env/tokens_share"] == pytest.approx((0 + 3 / 8 + 3 / 8) / 3)
    batch = engine.make_batch(groups)
    gap = (batch.stats.old_logprobs + 0.5)[batch.mask].double()
    assert sampler_metrics(groups, batch)["sampler/logprob_gap_mean"] == pytest.approx(
        float(gap.abs().mean())
    )
    single = [dataclasses.replace(g, completions=(g.completions[0],) * G) for g in groups]
    assert not any(name.startswith("env/") for name in rollout_metrics(single))


def test_kept_logprobs_of_earlier_weights_keep_their_places(policy: Policy) -> None:
    engine, groups = two_turns(policy)
    measured = engine.logprobs(groups)
    found = measured.logprobs
    assert [len(row) for row in found] == [8] * 15
    assert found[1][2:5] == (0.0, 0.0, 0.0) and all(x < 0 for x in found[1][5:])
    old = measured._replace(logprobs=found[:G])
    carried = engine.make_batch(groups, old=old)
    assert torch.equal(carried.stats.old_logprobs, engine.make_batch(groups).stats.old_logprobs)


def test_lines_of_a_step_name_the_environments_tokens(policy: Policy) -> None:
    engine, groups = two_turns(policy)
    lines = list(
        training_lines(
            groups,
            engine.make_batch(groups),
            advantages=[a for group in groups for a in group.advantages],
            temperature=0.8,
            credit={"rule": "dgpo"},
            vocab_size=policy.vocab_size,
        )
    )
    assert "environment" not in lines[0]
    assert lines[1]["environment"] == ((2, 5),)
    assert lines[1]["weights"][2:5] == (0.0, 0.0, 0.0) and len(lines[1]["weights"]) == 8
