"""The KL term of the loss: its value and gradient, and whom it makes learn."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from dgpo_cli.algo.credit import UniformCredit
from dgpo_cli.algo.losses import CispoLoss, ClipLoss, GspoLoss, Loss
from dgpo_cli.algo.off_policy import Correction
from dgpo_cli.core.errors import ConfigError
from dgpo_cli.core.types import Batch
from dgpo_cli.engine.batch_metrics import update_metrics
from dgpo_cli.engine.learn import Learner
from dgpo_cli.engine.piece import NO_CORRECTION
from dgpo_cli.policy.policy import Policy
from tests.engine import updates
from tests.engine.test_update import twin_rule
from tests.policy import tiny, twins

KL = 0.3
SHIFTS = updates.random_shifts()
RULES = {"dgpo": updates.CREDIT, "uniform": UniformCredit()}
MAKERS = {
    "full": lambda: tiny.make_policy(apart=0.05),
    "lora": lambda: tiny.make_lora_policy(apart=0.05),
}
EVERY_POLICY = pytest.mark.parametrize("kind", MAKERS)


def measured(learner: Learner, *, counted: list[bool] | None = None, **changes: Any) -> Batch:
    advantages = changes.pop("advantages", updates.ADVANTAGES)
    return learner.measure(
        tiny.rows_of_pairs(updates.PAIRS),
        torch.tensor(advantages),
        recipe=updates.recipe_of(**{"loss": ClipLoss(kl=KL)} | changes),
        counted=None if counted is None else torch.tensor(counted),
    )


def gradient_of(policy: Policy, batch: Batch, **changes: Any) -> tuple[Any, dict[str, Tensor]]:
    capture = updates.Capture(policy)
    recipe = updates.recipe_of(**{"loss": ClipLoss(kl=KL)} | changes)
    [result] = Learner(policy, capture).update(batch, recipe=recipe)
    return result, capture.gradients


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("aggregation", ["token-mean", "sequence-mean", "constant"])
def test_loss_and_gradient_equal_the_slow_twin(rule: str, aggregation: str) -> None:
    """A group without an advantage learns from the KL term alone."""
    policy = MAKERS["full"]()
    changes: dict[str, Any] = {
        "loss": ClipLoss(kl=KL, aggregation=aggregation),  # type: ignore[arg-type]
        "rule": RULES[rule],
    }
    batch = measured(Learner(policy, None), **changes)
    batch.stats.old_logprobs.add_(updates.padded(SHIFTS, batch.mask))
    result, gradient = gradient_of(policy, batch, **changes)
    even = {"tau": 1e12} if rule == "uniform" else {}
    loss, expected = twins.update_gradient(
        twins.widened(policy.model),
        twins.widened(policy._reference),
        updates.PAIRS,
        advantages=updates.ADVANTAGES,
        shifts=SHIFTS,
        rule=dataclasses.replace(twin_rule(aggregation), kl=KL, **even),
    )
    assert result.loss == pytest.approx(loss, rel=1e-5, abs=1e-7)
    updates.assert_same_gradient(gradient, expected)
    assert result.signal_tokens == updates.SIGNAL_TOKENS
    assert result.learnt_tokens == int(batch.mask.sum())
    _, without = gradient_of(policy, batch, **changes | {"loss": ClipLoss()})
    name = max(gradient, key=lambda name: float(gradient[name].norm()))
    assert float((gradient[name] - without[name]).norm()) > 0.05 * float(gradient[name].norm())


@EVERY_POLICY
def test_one_pass_is_two_and_the_reference_runs_once(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = MAKERS[kind]()
    apart, expected = gradient_of(policy, measured(Learner(policy, None)))
    seen: list[int] = []
    plain = policy.reference_hidden

    def counting(packed: Any) -> Tensor:
        seen.append(len(packed.ids))
        return plain(packed)

    monkeypatch.setattr(policy, "reference_hidden", counting)
    capture = updates.Capture(policy)
    learner = Learner(policy, capture)
    batch = measured(learner)
    [result] = learner.update(batch, recipe=updates.recipe_of(loss=ClipLoss(kl=KL)))
    updates.assert_same_gradient(capture.gradients, expected, error=1e-6)
    assert result.kl == pytest.approx(apart.kl, rel=1e-5)
    assert sum(seen) == sum(len(p) + len(c) - 1 for p, c in updates.PAIRS)


@EVERY_POLICY
def test_the_references_logprobs_are_those_of_the_first_weights(kind: str) -> None:
    policy = MAKERS[kind]()
    stats = measured(Learner(policy, None)).stats
    assert stats.reference_logprobs is not None
    if kind == "lora":
        frozen, options = policy, {"adapter": False}
    else:
        tokenizer, model = policy.tokenizer, policy._reference
        frozen = Policy(model, tokenizer=tokenizer, reference=None, has_adapter=False)
        options = {}
    for row, (prompt, completion) in zip(stats.reference_logprobs, updates.PAIRS, strict=True):
        ids = [*prompt, *completion]
        found = frozen.logprobs_of(ids, temperature=updates.TEMPERATURE, **options)
        theirs = torch.tensor(found[len(prompt) - 1 :])
        torch.testing.assert_close(row[: len(completion)], theirs, rtol=0.0, atol=2e-5)
        assert (row[len(completion) :] == 0).all()


@pytest.mark.parametrize("loss", [ClipLoss(), GspoLoss(), CispoLoss()], ids=lambda each: each.kind)
def test_importance_weights_multiply_the_surrogate_and_not_the_kl_term(loss: Loss) -> None:
    policy = MAKERS["full"]()
    held = loss.model_copy(update={"kl": KL, "aggregation": "token-mean"})
    bare = held.model_copy(update={"kl": 0.0})
    batch = measured(Learner(policy, None), loss=held)
    sampled = batch.stats.old_logprobs + updates.padded(SHIFTS, batch.mask)
    batch = dataclasses.replace(batch, sampling_logprobs=sampled)
    found = {}
    for name, correction in (("off", NO_CORRECTION), ("on", Correction("token", "mask", 1.1))):
        with_kl, _ = gradient_of(policy, batch, loss=held, correction=correction)
        without, _ = gradient_of(policy, batch, loss=bare, correction=correction)
        share = KL * with_kl.kl / with_kl.learnt_tokens
        assert with_kl.loss - without.loss == pytest.approx(share, rel=1e-4)
        assert with_kl.kept_tokens == without.kept_tokens
        found[name] = without.loss, with_kl.kept_tokens
    assert abs(found["on"][0] - found["off"][0]) > 1e-3
    assert found["on"][1] < found["off"][1] == updates.SIGNAL_TOKENS


def test_rows_that_do_not_count_are_not_held_to_the_reference() -> None:
    policy = MAKERS["full"]()
    counted = [True, True, False, True, False, True, True, True, True]
    advantages = [a if c else 0.0 for a, c in zip(updates.ADVANTAGES, counted, strict=True)]
    given: dict[str, Any] = {"rule": UniformCredit(), "advantages": advantages}
    batch = measured(Learner(policy, None), counted=counted, **given)
    result, gradient = gradient_of(policy, batch, rule=UniformCredit())
    kept = [row for row, counts in enumerate(counted) if counts]
    loss, expected = twins.update_gradient(
        twins.widened(policy.model),
        twins.widened(policy._reference),
        [updates.PAIRS[row] for row in kept],
        advantages=[advantages[row] for row in kept],
        shifts=[[0.0] * len(updates.PAIRS[row][1]) for row in kept],
        rule=dataclasses.replace(twin_rule("token-mean"), kl=KL, tau=1e12),
    )
    assert result.loss == pytest.approx(loss, rel=1e-5, abs=1e-7)
    updates.assert_same_gradient(gradient, expected)


def test_without_any_advantage_the_policy_goes_back_to_the_reference() -> None:
    policy = MAKERS["full"]()
    optimizer = torch.optim.SGD([p for _, p in policy.trainable()], lr=0.02)
    learner, found = Learner(policy, optimizer), []
    for _ in range(5):
        batch = measured(learner, advantages=[0.0] * 9, rule=UniformCredit())
        [result] = learner.update(batch, recipe=updates.recipe_of(loss=ClipLoss(kl=KL)))
        assert result.applied and (result.ratio_min, result.ratio_max) == (1.0, 1.0)
        metrics = update_metrics([result])
        assert metrics["loss/kl"] == pytest.approx(metrics["loss/value"] / KL, rel=1e-5)
        assert metrics["loss/signal_tokens"] == metrics["optim/skipped_no_signal"] == 0.0
        found.append(metrics["loss/kl"])
    assert found == sorted(found, reverse=True) and found[-1] < 0.9 * found[0]


def test_equal_models_have_a_divergence_of_exactly_0() -> None:
    policy = tiny.make_policy(apart=0.0)
    result, gradient = gradient_of(policy, measured(Learner(policy, None), rule=UniformCredit()))
    assert result.kl == 0.0
    _, without = gradient_of(
        policy, measured(Learner(policy, None), rule=UniformCredit()), loss=ClipLoss()
    )
    updates.assert_same_gradient(gradient, without)


def test_later_updates_learn_from_groups_without_an_advantage() -> None:
    policy = MAKERS["full"]()
    adamw = torch.optim.AdamW([p for _, p in policy.trainable()], lr=1e-3)
    learner = Learner(policy, adamw)
    recipe = updates.recipe_of(loss=GspoLoss(kl=KL), updates=3)
    batch = measured(learner, loss=recipe.loss, updates=3)
    results = learner.update(batch, recipe=recipe)
    assert [each.applied for each in results] == [True, True, True]
    assert [each.signal_tokens > 0 for each in results] == [True, False, True]


def test_a_kl_term_without_a_reference_is_refused() -> None:
    model = tiny.build_model("qwen2-tied")
    policy = Policy(model, tokenizer=tiny.char_tokenizer(), reference=None, has_adapter=False)
    with pytest.raises(ConfigError, match=r"loss\.kl=0\.3: .* set loss\.kl=0"):
        measured(Learner(policy, updates.Capture(policy)), rule=UniformCredit())
    batch = measured(Learner(policy, None), rule=UniformCredit(), loss=ClipLoss())
    with pytest.raises(ConfigError, match=r"loss\.kl=0\.3"):
        gradient_of(policy, batch)
