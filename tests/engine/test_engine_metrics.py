"""What the verbs report: every number against arithmetic."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch

from dgpo_cli.algo.off_policy import OffPolicySettings
from dgpo_cli.core.types import Batch, ScoredGroup
from dgpo_cli.engine.batch_metrics import off_policy_metrics, update_metrics
from dgpo_cli.engine.piece import Update
from dgpo_cli.policy.policy import Policy
from tests.engines import FakeSampler, G, equal, make_engine, rollout, weights_of


def changed(batch: Batch, *, advantages: list[float] | None = None, nan: bool = False) -> Batch:
    if advantages is not None:
        batch = dataclasses.replace(batch, advantages=torch.tensor(advantages))
    if nan:
        old = batch.stats.old_logprobs * math.nan
        batch = dataclasses.replace(batch, stats=dataclasses.replace(batch.stats, old_logprobs=old))
    return batch


def test_a_step_without_signal_is_counted_and_moves_nothing(policy: Policy) -> None:
    engine = make_engine(policy)
    batch = changed(engine.make_batch(rollout(engine)), advantages=[0.0] * 15)
    before = weights_of(policy)
    metrics = engine.update(batch, step=0)
    assert equal(before, weights_of(policy))
    assert engine.policy_version == 0
    assert metrics == {
        "loss/value": 0.0,
        "loss/clip_frac": 0.0,
        "loss/clip_low": 0.0,
        "loss/clip_high": 0.0,
        "loss/ratio_min": 1.0,
        "loss/ratio_max": 1.0,
        "loss/signal_tokens": 0.0,
        "optim/grad_norm": 0.0,
        "optim/updates": 0.0,
        "optim/skipped_no_signal": 1.0,
        "optim/skipped_nonfinite": 0.0,
        "optim/lr": 1e-2,
    }


def test_a_step_that_is_not_finite_is_counted_and_moves_nothing(policy: Policy) -> None:
    engine = make_engine(policy)
    batch = changed(engine.make_batch(rollout(engine)), nan=True)
    before = weights_of(policy)
    metrics = engine.update(batch, step=0)
    assert equal(before, weights_of(policy))
    assert engine.policy_version == 0
    assert (metrics["optim/skipped_nonfinite"], metrics["optim/updates"]) == (1.0, 0.0)
    assert metrics["optim/skipped_no_signal"] == 0.0
    assert math.isnan(metrics["loss/value"])


def test_metrics_of_several_updates_are_means_extremes_and_sums() -> None:
    results = [
        Update(0.5, 0.7, 1.5, 3, 10, grad_norm=2.0, applied=True),
        Update(-0.1, 0.9, 1.9, 1, 30, 1, grad_norm=0.5, applied=True),
        Update(0.0, 1.0, 1.0),
    ]
    assert update_metrics(results) == pytest.approx(
        {
            "loss/value": 0.4 / 3,
            "loss/clip_frac": 4 / 40,
            "loss/clip_low": 1 / 40,
            "loss/clip_high": 3 / 40,
            "loss/ratio_min": 0.7,
            "loss/ratio_max": 1.9,
            "loss/signal_tokens": 40.0,
            "optim/grad_norm": 2.5 / 3,
            "optim/updates": 2.0,
            "optim/skipped_no_signal": 1.0,
            "optim/skipped_nonfinite": 0.0,
        }
    )


def test_the_learning_rate_of_a_step_is_the_schedules(policy: Policy) -> None:
    engine = make_engine(
        policy, optim={"warmup_steps": 2, "schedule": "linear"}, train={"steps": 6}
    )
    batch = engine.make_batch(rollout(engine))
    assert engine.optimizer is not None
    for step, share in enumerate([0.5, 1.0, 1.0, 0.75, 0.5, 0.25]):
        metrics = engine.update(batch, step=step)
        assert metrics["optim/lr"] == pytest.approx(1e-2 * share)
        assert {group["lr"] for group in engine.optimizer.param_groups} == {metrics["optim/lr"]}


def with_sampling_logprobs(group: ScoredGroup, rows: list[list[float]]) -> ScoredGroup:
    return dataclasses.replace(
        group,
        completions=tuple(
            dataclasses.replace(completion, sampling_logprobs=tuple(row))
            for completion, row in zip(group.completions, rows, strict=True)
        ),
    )


def test_metrics_of_a_rollout_are_complete_and_right(policy: Policy) -> None:
    engine = make_engine(policy)
    scored = rollout(engine)
    batch = engine.make_batch(scored)
    gaps = iter([0.01 * i for i in range(100)])
    told = [
        with_sampling_logprobs(
            group,
            [
                [
                    x + next(gaps)
                    for x in batch.stats.old_logprobs[row, : batch.lengths[row]].tolist()
                ]
                for row in range(i * G, (i + 1) * G)
            ],
        )
        for i, group in enumerate(scored)
    ]
    metrics = engine.metrics(told, batch=batch)
    weights, entropies, distances, fractions = [], [], [], []
    for row in range(15):
        size = int(batch.lengths[row])
        entropies += batch.stats.entropy[row, :size].tolist()
        if batch.advantages[row] == 0:  # the reference did not run on it
            continue
        own = batch.credit.weights[row, :size].tolist()
        weights += own
        fractions.append(sum(own) ** 2 / (size * sum(w * w for w in own)))
        distances += batch.stats.hellinger_sq[row, :size].tolist()
    count = len(entropies)
    assert len(fractions) == 12  # of 15: one group of three has no signal
    expected = {
        "reward/mean": 5 / 15,
        "outcome/correct": 5 / 15,
        "outcome/wrong": 10 / 15,
        "groups/no_signal": 1 / 5,
        "completion/tokens": count,
        "completion/length_mean": count / 15,
        "credit/effective_fraction": sum(fractions) / len(fractions),
        "credit/weight_max": max(weights),
        "policy/entropy": sum(entropies) / count,
        "policy/hellinger_sq_mean": sum(distances) / len(distances),
        "policy/hellinger_sq_max": max(distances),
        "sampler/logprob_gap_mean": 0.01 * (count - 1) / 2,
        "sampler/logprob_gap_max": 0.01 * (count - 1),
        "sampler/k3": sum(math.exp(-0.01 * i) - 1 + 0.01 * i for i in range(count)) / count,
    }
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, abs=1e-5)
    for name in ("credit/weight", "credit/score", "policy/gate", "policy/hellinger_sq"):
        values = [metrics[f"{name}_{level}"] for level in ("p50", "p90", "p99", "max")]
        assert values == sorted(values)
    assert all(math.isfinite(value) for value in metrics.values())
    assert not metrics.keys() & engine.update(batch, step=0).keys()


def test_times_are_kept_for_each_verb_and_taken_once(policy: Policy) -> None:
    engine = make_engine(policy)
    batch = engine.make_batch(rollout(engine))
    engine.update(batch, step=0)
    times = engine.take_times()
    assert times.keys() == {
        "time/sample_s",
        "time/score_s",
        "time/statistics_s",
        "time/update_s",
    }
    assert all(seconds > 0 for seconds in times.values())
    assert engine.take_times() == {}


def test_handing_weights_over_is_a_phase_of_its_own(policy: Policy) -> None:
    class Elsewhere(FakeSampler):
        """A sampler with weights of its own."""

        def prepare(self, progress: Any) -> None: ...

        def rest(self) -> None: ...

        def wait_no_more(self) -> None: ...

        def cancel(self) -> None: ...

    engine = make_engine(policy)
    engine.sampler = Elsewhere()
    engine.update(engine.make_batch(rollout(engine)), step=0)
    engine.sync()
    times = engine.take_times()
    assert times["time/sync_s"] > 0 and times["time/update_s"] > 0


def test_the_correction_sees_the_samplers_own_logprobs(policy: Policy) -> None:
    """The sampler of these tests says -0.5 of every token."""
    engine = make_engine(policy)
    plain = engine.update(engine.make_batch(rollout(engine)), step=0)
    assert not any(name.startswith("off_policy/") for name in plain)
    rule = OffPolicySettings(correction="token", cap=1.5)
    engine.settings = engine.settings.model_copy(update={"off_policy": rule})
    batch = engine.make_batch(rollout(engine))
    assert torch.equal(batch.sampling_logprobs, torch.where(batch.mask, -0.5, 0.0))
    signal = batch.mask & (batch.advantages != 0)[:, None]
    ratio = (batch.stats.old_logprobs + 0.5).exp()[signal]
    weights = ratio.clamp(max=1.5)
    metrics = engine.update(batch, step=1)
    assert metrics["off_policy/kept_frac"] == pytest.approx(float((ratio <= 1.5).float().mean()))
    ess = float(weights.sum() ** 2 / (len(weights) * weights.square().sum()))
    assert metrics["off_policy/ess"] == pytest.approx(ess, rel=1e-5)


def test_without_tokens_the_correction_keeps_all() -> None:
    assert off_policy_metrics([Update()]) == {"off_policy/kept_frac": 1.0, "off_policy/ess": 1.0}
